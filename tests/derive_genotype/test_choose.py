"""What every model on photos is built of: a search's genotype, one op everywhere, or a draw at equal predicted latency."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from dcnas_derive_genotype.__main__ import main
from dcnas_derive_genotype.choose import ChoiceJob, ChoiceSettings, choose_genotype, choose_genotypes
from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_latency.card import device_card
from dcnas_latency.files import read_profile
from dcnas_latency.models import predict_model, predict_space_net
from dcnas_latency.predictor import Predictor
from dcnas_schema.genotype import Genotype, parts_of, uniform_genotype
from dcnas_schema.json_files import read_json_record
from dcnas_schema.latency import LatencySetting
from dcnas_schema.photo_models import PhotoModelSpec
from dcnas_schema.photo_records import ChosenGenotype
from dcnas_schema.photo_runs import PhotoRunsParams, SearchRunsParams
from dcnas_schema.search_log import DerivedGenotype

Choose = Callable[..., ChosenGenotype]


def spec_of(**values: Any) -> PhotoModelSpec:
    """Return the spec of plain values."""
    spec: PhotoModelSpec = TypeAdapter(PhotoModelSpec).validate_python(values)
    return spec


@pytest.fixture(scope="module")
def predictor(tiny_profile: Path) -> tuple[Predictor, LatencySetting]:
    """The predictor of the tiny profile and its setting."""
    entries, metadata = read_profile(tiny_profile)
    return Predictor.of(entries, metadata), metadata.setting


@pytest.fixture
def derived(tmp_path: Path, tiny_genotype: Path) -> Path:
    """A folder with the genotype of the search `small`, seed 5."""
    (tmp_path / "derived/small/5").mkdir(parents=True)
    shutil.copyfile(tiny_genotype, tmp_path / "derived/small/5/genotype.json")
    return tmp_path / "derived"


@pytest.fixture
def job(derived: Path, tiny_profile: Path) -> Callable[..., ChoiceJob]:
    """A function that gives a job for the described models."""

    def make(seeds: tuple[int, ...] = (0,), **models: Any) -> ChoiceJob:
        settings = ChoiceSettings(
            photo_models={name: spec_of(**values) for name, values in models.items()},
            photo_runs=PhotoRunsParams(models=tuple(models), seeds=seeds),
            search_runs=SearchRunsParams(searches=("small",), seeds=(5,)),
        )
        return ChoiceJob(settings=settings, derived=derived, profile=tiny_profile)

    return make


@pytest.fixture
def choose(job: Callable[..., ChoiceJob]) -> Choose:
    """A function that chooses the genotype of one described model."""
    return lambda seed=0, **values: choose_genotype(job(model=values), "model", seed)


def random(**values: Any) -> dict[str, Any]:
    """Return the source of a random subnet."""
    return {"random": {"ops": 4, **values}}


def test_a_search_gives_its_derived_genotype(choose: Choose, tiny_genotype: Path) -> None:
    """The genotype of the search is taken, with its name and seed."""
    chosen = choose(kind="d_nas", search="small")
    assert chosen.genotype == read_json_record(tiny_genotype, DerivedGenotype).genotype
    assert (chosen.model, chosen.seed, chosen.search, chosen.search_seed, chosen.drawn) == (
        "model",
        0,
        "small",
        5,
        None,
    )


def test_uniform_and_outside_the_space_need_no_search(choose: Choose) -> None:
    """One op everywhere is made from the parameters; other nets have no genotype, and their file says so."""
    chosen = choose(kind="c_nas", uniform={"op": "k3_e3", "expand_ratio": 3.0})
    assert chosen.genotype == uniform_genotype("k3_e3", 3)
    outside = choose(kind="resnet18")
    assert (outside.genotype, outside.search, outside.search_seed, outside.drawn) == (None, None, None, None)


@pytest.mark.parametrize("kind", ["c_nas", "d_nas", "dc_nas", "dc_nas_seq"])
def test_a_random_subnet_has_the_latency_of_the_search(
    choose: Choose, predictor: tuple[Predictor, LatencySetting], tiny_genotype: Path, kind: str
) -> None:
    """Within the tolerance its predicted latency, as the kind of net that is trained, is that of the search's genotype."""
    spec = spec_of(kind=kind, **random(like="small", tolerance_pct=2.0))
    chosen = choose(kind=kind, **random(like="small", tolerance_pct=2.0))
    derived = read_json_record(tiny_genotype, DerivedGenotype).genotype
    assert chosen.genotype is not None
    target = predict_space_net(spec, derived, *predictor).ms  # type: ignore[arg-type] # a net of the space
    found = predict_space_net(spec, chosen.genotype, *predictor).ms  # type: ignore[arg-type] # a net of the space
    assert found == pytest.approx(target, rel=0.02)
    assert chosen.drawn is not None
    assert (chosen.drawn.target_ms, chosen.drawn.predicted_ms) == (target, found)
    assert (chosen.search, chosen.search_seed) == ("small", 5)
    assert chosen.genotype != derived


def test_each_seed_draws_its_own_subnet(choose: Choose) -> None:
    """The seed alone decides the draw."""
    drawn = [choose(seed, kind="c_nas", **random(like="small", tolerance_pct=5.0)).genotype for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_target_in_ms_needs_no_search(choose: Choose, predictor: tuple[Predictor, LatencySetting]) -> None:
    """A random subnet of a latency in ms is drawn from the profile alone."""
    middle = predict_space_net(spec_of(kind="c_nas", search="x"), uniform_genotype("k3_e3", 3), *predictor).ms  # type: ignore[arg-type] # a net of the space
    chosen = choose(kind="c_nas", **random(target_ms=middle, tolerance_pct=3.0))
    assert chosen.drawn is not None
    assert chosen.drawn.predicted_ms == pytest.approx(middle, rel=0.03)
    assert chosen.search is None


def test_an_unreachable_target_is_refused_with_the_range(choose: Choose) -> None:
    """A latency that no subnet has is refused, and the message says which there are."""
    with pytest.raises(
        BadInputError, match=r"No random subnet has a predicted latency of 1e\+06 ms(.|\n)* have .* to .* ms"
    ):
        choose(kind="c_nas", **random(target_ms=1e6))


def test_a_model_takes_the_search_of_its_seed_where_it_ran() -> None:
    """Else the searches' seeds in turn, so that fewer searches than trainings are all used."""
    runs = SearchRunsParams(searches=("small",), seeds=(3, 0))
    assert [runs.seed_for(seed) for seed in (0, 1, 2, 3, 4)] == [0, 0, 3, 3, 3]


def test_a_damaged_genotype_is_refused_by_name(choose: Choose, derived: Path) -> None:
    """A missing file, half a file and an impossible width end as corrupt artefacts."""
    path = derived / "small/5/genotype.json"
    text = path.read_text(encoding="utf-8")
    for content in (text[: len(text) // 2], text.replace('"mid_channels":48', '"mid_channels":4800', 1)):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(CorruptArtefactError, match=r"genotype\.json"):
            choose(kind="c_nas", search="small")
    path.unlink()
    with pytest.raises(CorruptArtefactError, match=r"genotype\.json does not exist"):
        choose(kind="c_nas", search="small")


def test_a_file_changes_only_with_its_own_net(job: Callable[..., ChoiceJob], derived: Path, tmp_path: Path) -> None:
    """What the search measured, who made it and other models leave a model's file as it is; another genotype changes it."""
    models = {"searched": {"kind": "c_nas", "search": "small"}, "unet_s": {"kind": "lpienet", "width": "0.25x"}}
    choose_genotypes(job(seeds=(0, 1), **models), tmp_path / "before")
    path = derived / "small/5/genotype.json"
    content = json.loads(path.read_bytes())
    content["not_measured"], content["provenance"]["commit"] = "another word", "f" * 40
    path.write_text(json.dumps(content), encoding="utf-8")
    choose_genotypes(job(seeds=(0, 1), **models, other={"kind": "resnet18"}), tmp_path / "same")
    content["genotype"]["stages"][0][0]["mid_channels"] += 1
    path.write_text(json.dumps(content), encoding="utf-8")
    choose_genotypes(job(seeds=(0, 1), **models), tmp_path / "changed")
    files = ("searched/0.json", "searched/1.json", "unet_s/0.json", "unet_s/1.json")
    sums = {name: [sha256_of(tmp_path / name / file) for file in files] for name in ("before", "same", "changed")}
    assert sums["before"] == sums["same"]
    assert [one == other for one, other in zip(sums["before"], sums["changed"], strict=True)] == [
        False,
        False,
        True,
        True,
    ]
    assert (tmp_path / "same/other/1.json").is_file()


def test_the_command_chooses_and_says_what_it_read(
    derived: Path,
    tiny_profile: Path,
    tmp_path: Path,
    write_photo_params: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`choose` writes a file for every model that runs, and its provenance names the searches' files and the profile."""
    file, out = write_photo_params(tmp_path / "params.yaml"), tmp_path / "out"
    arguments = ["choose", "--params", file, "--derived", derived, "--profile", tiny_profile, "--out", out]
    monkeypatch.setattr(sys, "argv", ["x", *map(str, [*arguments, "--scratch", tmp_path / "scratch"])])
    main()
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.json")) == [
        "dc_nas/0.json", "provenance.json", "random/0.json", "searched/0.json", "unet_s/0.json",
    ]  # fmt: skip
    made = json.loads((out / "provenance.json").read_bytes())
    assert made["stage"] == "choose_genotypes"
    assert set(made["inputs"]) == {str(derived / "small/5/genotype.json"), str(tiny_profile)}


def test_choosing_needs_no_torch(
    derived: Path,
    tiny_profile: Path,
    tmp_path: Path,
    write_photo_params: Callable[..., Path],
    python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """The choice is arithmetic on tables: it does not wait three seconds for torch, and still names its version and the processor."""
    file, out = write_photo_params(tmp_path / "params.yaml"), tmp_path / "out"
    words = ["choose", "--params", file, "--derived", derived, "--profile", tiny_profile, "--out", out]
    done = python("-X", "importtime", "-m", "dcnas_derive_genotype", *words, "--scratch", tmp_path / "scratch")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
    device = json.loads((out / "provenance.json").read_bytes())["device"]
    expected = device_card("cpu")
    assert (device["kind"], device["cpu_model"], device["isa"]) == ("cpu", expected.cpu_model, expected.isa)
    assert expected.torch.split("+")[0] == device["torch"], "the package does not name the build"


def test_predictions_are_the_predictors(predictor: tuple[Predictor, LatencySetting]) -> None:
    """Each kind is predicted as such, the sequential net as the sum of its halves; what the profile has not the parts of is `None`."""
    genotype = uniform_genotype("k3_e3", 3)
    oracle, setting = predictor
    size = {"height": setting.height, "width": setting.width, "classes": setting.classes}

    def alone(kind: Any) -> float:
        return oracle.predict(kind, parts_of(kind, genotype, **size)).ms

    def predicted(genotype: Genotype | None = genotype, **values: Any) -> float | None:
        found = predict_model(spec_of(**values), genotype, oracle, setting)
        return None if found is None else found.ms

    for kind in ("c_nas", "d_nas", "dc_nas"):
        assert predicted(kind=kind, search="x") == alone(kind)
    assert predicted(kind="dc_nas_seq", search="x") == pytest.approx(alone("d_nas") + alone("c_nas"))
    assert predicted(kind="dc_nas", search="x", decoder="mbconv") is None
    assert predicted(None, kind="mobilenet_v2") is None
