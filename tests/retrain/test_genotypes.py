"""Where the genotype of a net of the search space comes from: a search's file, the parameters, or a draw at equal predicted latency."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_latency.files import read_profile
from dcnas_latency.models import predict_model, predict_space_net
from dcnas_latency.predictor import Predictor
from dcnas_retrain.genotypes import Chosen, choose_genotype, read_genotype
from dcnas_schema.genotype import Genotype, parts_of, uniform_genotype
from dcnas_schema.latency import LatencySetting
from dcnas_schema.photo_models import PhotoModelSpec

Choose = Callable[..., Chosen]


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
def choose(tiny_genotype: Path, tiny_profile: Path) -> Choose:
    """A function that chooses the genotype of a described model, given both files."""

    def run(seed: int = 0, files: dict[str, Path | None] | None = None, **values: Any) -> Chosen:
        given: dict[str, Any] = {"genotype_file": tiny_genotype, "profile_file": tiny_profile, **(files or {})}
        return choose_genotype("model", spec_of(**values), seed=seed, **given)

    return run


def random(**values: Any) -> dict[str, Any]:
    """Return the source of a random subnet."""
    return {"random": {"ops": 4, **values}}


def test_a_search_gives_its_derived_genotype(choose: Choose, tiny_genotype: Path) -> None:
    """The genotype of the file is taken, with the seed of its search."""
    chosen = choose(kind="d_nas", search="small")
    assert chosen.genotype == read_genotype(tiny_genotype).genotype
    assert (chosen.search_seed, chosen.drawn) == (5, None)


def test_uniform_and_outside_the_space_need_no_file(choose: Choose) -> None:
    """One op everywhere is made from the parameters; other nets have no genotype."""
    none: dict[str, Path | None] = {"genotype_file": None, "profile_file": None}
    chosen = choose(kind="c_nas", uniform={"op": "k3_e3", "expand_ratio": 3.0}, files=none)
    assert chosen.genotype == uniform_genotype("k3_e3", 3)
    assert choose(kind="resnet18", files=none).genotype is None


@pytest.mark.parametrize("kind", ["c_nas", "d_nas", "dc_nas", "dc_nas_seq"])
def test_a_random_subnet_has_the_latency_of_the_search(
    choose: Choose, predictor: tuple[Predictor, LatencySetting], tiny_genotype: Path, kind: str
) -> None:
    """Within the tolerance its predicted latency, as the kind of net that is trained, is that of the search's genotype."""
    spec = spec_of(kind=kind, **random(like="small", tolerance_pct=2.0))
    chosen = choose(kind=kind, **random(like="small", tolerance_pct=2.0))
    derived = read_genotype(tiny_genotype).genotype
    target = predict_space_net(spec, derived, *predictor).ms  # type: ignore[arg-type] # a net of the space
    found = predict_space_net(spec, chosen.genotype, *predictor).ms  # type: ignore[arg-type]
    assert found == pytest.approx(target, rel=0.02)
    assert chosen.drawn is not None
    assert (chosen.drawn.target_ms, chosen.drawn.predicted_ms) == (target, found)
    assert chosen.genotype != derived


def test_each_seed_draws_its_own_subnet(choose: Choose) -> None:
    """The seed alone decides the draw."""
    drawn = [choose(seed, kind="c_nas", **random(like="small", tolerance_pct=5.0)).genotype for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_target_in_ms_needs_no_search(choose: Choose, predictor: tuple[Predictor, LatencySetting]) -> None:
    """A random subnet of a latency in ms is drawn from the profile alone."""
    middle = predict_space_net(spec_of(kind="c_nas", search="x"), uniform_genotype("k3_e3", 3), *predictor).ms  # type: ignore[arg-type]
    chosen = choose(kind="c_nas", **random(target_ms=middle, tolerance_pct=3.0), files={"genotype_file": None})
    assert chosen.drawn is not None
    assert chosen.drawn.predicted_ms == pytest.approx(middle, rel=0.03)


def test_an_unreachable_target_is_refused_with_the_range(choose: Choose) -> None:
    """A latency that no subnet has is refused, and the message says which there are."""
    with pytest.raises(
        BadInputError, match=r"No random subnet has a predicted latency of 1e\+06 ms(.|\n)* have .* to .* ms"
    ):
        choose(kind="c_nas", **random(target_ms=1e6))


@pytest.mark.parametrize(
    ("values", "missing", "named"),
    [
        ({"search": "small"}, "genotype_file", "--genotype"),
        (random(like="small"), "genotype_file", "--genotype"),
        (random(like="small"), "profile_file", "--profile"),
    ],
)
def test_a_file_that_is_needed_is_asked_for(choose: Choose, values: Any, missing: str, named: str) -> None:
    """Without a file that the model needs, the error names the option that gives it."""
    with pytest.raises(BadInputError, match=named):
        choose(kind="c_nas", **values, files={missing: None})


def test_the_genotype_of_another_search_is_refused(choose: Choose) -> None:
    """A model that names another search than the file's is not trained on it by mistake."""
    with pytest.raises(BadInputError, match="search 'small', not of 'large'"):
        choose(kind="c_nas", search="large")


def test_a_damaged_genotype_is_refused_by_name(choose: Choose, tmp_path: Path, tiny_genotype: Path) -> None:
    """A missing file, half a file and an impossible width end as corrupt artefacts."""
    text = tiny_genotype.read_text(encoding="utf-8")
    (tmp_path / "half.json").write_text(text[: len(text) // 2], encoding="utf-8")
    (tmp_path / "wide.json").write_text(text.replace('"mid_channels":48', '"mid_channels":4800', 1), encoding="utf-8")
    for name in ("half.json", "wide.json", "missing.json"):
        with pytest.raises(CorruptArtefactError, match=name):
            choose(kind="c_nas", search="small", files={"genotype_file": tmp_path / name})


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
