"""Tables 2 to 6, the figures and the page on photos: every row of the paper, each cell by its rule, what is missing shown as such."""

import csv
import dataclasses
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_latency.files import read_profile, write_profile
from dcnas_lineage.cells import NOTHING, derive
from dcnas_lineage.records import read_genotype, read_record
from dcnas_schema.cells import CellMap
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.json_files import write_json_record
from dcnas_schema.latency import GateCheck
from dcnas_schema.params import Params
from dcnas_schema.parquet import read_metadata
from dcnas_schema.photos import PhotosMetadata
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.search_params import SearchSpec, TargetSpec
from dcnas_tabulate import photo_figures, photo_job
from dcnas_tabulate.drawing import new_figure
from dcnas_tabulate.labels import label_points
from dcnas_tabulate.latency_keys import drawn_latency
from dcnas_tabulate.paper_rows import CLEAN, PAPER_ROWS, Book
from dcnas_tabulate.photo_layout import LEFT_OUT, UNNAMED, PhotoRun, PhotoTables, table_rows
from dcnas_tabulate.photo_records import read_photo_runs
from dcnas_tabulate.photo_tables import NAMES

Workshop = Any
TABLES = (*(f"table_{number}" for number in "23456"), "table_clean", "searches")
FIGURES = [f"figure_{n}_{theme}.{kind}" for n in (4, 5, 6, 8) for theme in ("light", "dark") for kind in ("svg", "png")]
SEARCHES = ("noisy_s", "clean_4_s", "sink_4_s")
S_MODELS = ("mobilenet_v3_small", "unet_s", "dc_nas_s", "dc_random_s")


def quality(shift: float = 0.0, *names: str) -> list[dict[str, float]]:
    """Return three noise levels with the quantities named, or all four, moved by `shift`."""
    steps = {"psnr_db": (30.0, 6.0), "ssim": (0.8, 0.1), "top1_pct": (60.0, 10.0), "top5_pct": (80.0, 5.0)}
    wanted = {name: steps[name] for name in names or steps}
    return [{name: first + shift - level * step for name, (first, step) in wanted.items()} for level in range(3)]


RESTORED, CLASSIFIED = ("psnr_db", "ssim"), ("top1_pct", "top5_pct")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, new_photo_workshop: Callable[..., Workshop]) -> Path:
    """The results of two seeds of every model and of Figure 4's searches; tests leave them as they are."""
    workshop = new_photo_workshop(tmp_path_factory.mktemp("full"))
    workshop.all_rows(seeds=(0, 1))
    for search in SEARCHES:
        for seed in (0, 1):
            workshop.search(search, seed, restless=0.6 if search == "sink_4_s" else 0.02)
    out: Path = workshop.run(
        run_models=tuple(workshop.params.photo_models), seeds=(0, 1), run_searches=SEARCHES, search_seeds=(0, 1)
    )
    return out


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of tables alone: the stage draws nothing and writes no page."""
    for name in ("draw_figure_4", "draw_figure_5", "draw_figure_6", "draw_figure_8", "write_photo_page"):
        monkeypatch.setattr(photo_job, name, lambda *_, **__: None)


def table(results: Path, name: str) -> dict[str, dict[str, str]]:
    """Return the printed table: row -> column -> text, bold kept."""
    lines = [line for line in (results / f"{name}.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_every_row_of_the_paper_is_there_beside_its_figures(full: Path, project: Path) -> None:
    """Each row of the paper's CSV of Tables 2 to 6 stands in its table with the paper's own figures in columns of their own."""
    titles = {
        "latency_ms": "paper lat. (ms)",
        "accuracy_pct": "paper top-1 (%)",
        "psnr_db": "paper PSNR (dB)",
        "ssim": "paper SSIM",
    }
    with (project / "data/reference/paper_tables.csv").open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if line["table"] in (*"23456", CLEAN)]
    by_reference = {row.reference: row for row in PAPER_ROWS if row.reference is not None}
    assert set(by_reference) == {(line["table"], line["model"], line["variant"]) for line in lines}
    for line in lines:
        row = table(full, NAMES[line["table"]])[by_reference[line["table"], line["model"], line["variant"]].label]
        assert row["Seeds"] == "2/2"
        for field, title in titles.items():
            if title in row:
                assert row[title].removesuffix(" ‡") == (line[field] or NOTHING)


def test_only_the_derived_psnr_of_table_2_is_marked(full: Path) -> None:
    """The paper's Table 2 has no PSNR: D-NAS M's follows from its text and bears a mark, the UNets' stand in Table 3."""
    rows = table(full, "table_2")
    assert {label: row["paper PSNR (dB)"] for label, row in rows.items() if "NAS" in label or "UNet" in label} == {
        "UNet-S": "25.0",
        "UNet-M": "25.9",
        "D-NAS M": "25.6 ‡",
    }
    assert "‡ The paper's Table 2 lost its PSNR column" in (full / "table_2.md").read_text(encoding="utf-8")


def test_rows_follow_from_descriptions_not_from_names(tiny_params: Callable[..., Params]) -> None:
    """With every model and every search renamed, each row of the paper finds the same description."""
    params = tiny_params()
    plain = PhotoTables.of(params)
    search_names = {name: f"q{number}" for number, name in enumerate(params.searches)}
    renamed: dict[str, Any] = {}
    for number, spec in enumerate(params.photo_models.values()):
        value = spec.model_dump()
        if value.get("search"):
            value["search"] = search_names[value["search"]]
        if (value.get("random") or {}).get("like"):
            value["random"]["like"] = search_names[value["random"]["like"]]
        renamed[f"m{number}"] = type(spec).model_validate(value)
    before = _labels(plain.models, Book.of(plain.searches))
    after = _labels(renamed, Book.of({search_names[name]: spec for name, spec in params.searches.items()}))
    own = {model: f"m{number}" for number, model in enumerate(plain.models)}
    assert after == {number: [own.get(label, label) for label in labels] for number, labels in before.items()}


def _labels(models: Mapping[str, Any], book: Book) -> dict[str, list[str]]:
    runs = [
        PhotoRun(model=name, label=name, spec=spec, seeds=(), paths=(), metadata=(), wanted=1)
        for name, spec in models.items()
    ]
    return {number: [row.label for row in rows] for number, rows in table_rows(runs, book).items()}


def test_targets_are_named_by_their_order() -> None:
    """The targets of the paper's recipe are S, M, L from the fastest; of one kind only, and at most three."""

    def book(*targets: TargetSpec) -> list[str | None]:
        searches = {f"s{number}": _search(target) for number, target in enumerate(targets)}
        return [Book.of(searches).sizes.get(target) for target in targets]

    assert book(TargetSpec(ms=12.0), TargetSpec(ms=6.0), TargetSpec(ms=8.0)) == ["L", "S", "M"]
    assert book(TargetSpec(reach=0.5), TargetSpec(reach=0.1)) == ["M", "S"]
    assert book(TargetSpec(ms=8.0)) == ["M"]
    assert book(TargetSpec(ms=8.0), TargetSpec(reach=0.1)) == [None, None]
    assert Book.of({}).sizes == {}


def _search(target: TargetSpec) -> SearchSpec:
    return SearchSpec(
        ops=4,
        beta="removed",
        images="noisy",
        loss="classification",
        bound="classifier",
        target=target,
        width_multiple=8,
    )


@pytest.mark.usefixtures("undrawn")
def test_a_row_that_the_preset_leaves_out_is_shown_as_left_out(photo_workshop: Workshop) -> None:
    """A model that does not run keeps its row and the paper's figures; it has no other figure, and says why."""
    photo_workshop.record("dc_nas_s", levels=quality())
    results = photo_workshop.run(run_models=("dc_nas_s",))
    rows = table(results, "table_3")
    left = rows["EfficientNetV2-b0"]
    assert left["source"] == LEFT_OUT
    assert left["paper top-1 (%)"] == "75.4"
    named = ("Model", "Type", "source")
    assert all(text == NOTHING for title, text in left.items() if title not in named and not title.startswith("paper"))
    assert rows["DC-NAS S"]["Seeds"] == "1/1"
    assert rows["random subnet of equal predicted latency"]["source"] == LEFT_OUT
    assert {row["source"] for row in table(results, "table_6").values()} == {LEFT_OUT}


@pytest.mark.usefixtures("undrawn")
def test_a_missing_seed_shows_in_the_count(photo_workshop: Workshop) -> None:
    """Of three seeds asked for two are there: 2/3; of another none: 0/3, without figures."""
    for seed in (0, 2):
        photo_workshop.record("unet_s", seed, levels=quality(seed, *RESTORED))
    rows = table(photo_workshop.run(run_models=("unet_s", "unet_m"), seeds=(0, 1, 2)), "table_2")
    assert rows["UNet-S"]["Seeds"] == "2/3"
    assert (rows["UNet-M"]["Seeds"], rows["UNet-M"]["PSNR (dB)"]) == ("0/3", NOTHING)


def test_a_model_that_no_row_describes_has_a_row_of_its_own(full: Path) -> None:
    """The model searched with the whole joint net bounded stands under its own name, below the paper's rows, in one table alone."""
    homes = [name for name in TABLES if "dc_nas_m_joint" in table(full, name)]
    assert homes == ["table_4"]
    assert list(table(full, "table_4"))[-1] == "dc_nas_m_joint"


def test_random_subnets_stand_behind_the_net_whose_latency_they_have(full: Path) -> None:
    """Behind DC-NAS S comes its random subnet; a table without one says that it is left out."""
    labels = list(table(full, "table_3"))
    assert labels[labels.index("DC-NAS S") + 1] == "random subnet at the latency of DC-NAS S"
    assert table(full, "table_5")["random subnet of equal predicted latency"]["source"] == LEFT_OUT


@pytest.mark.usefixtures("undrawn")
def test_two_models_cost_their_sum(photo_workshop: Workshop) -> None:
    """A denoiser and a classifier together: MACs, parameters and latencies add up; quality is each one's own."""
    for seed in (0, 1):
        photo_workshop.record(
            "unet_s", seed, levels=quality(seed, *RESTORED), median_ms=5.0 + seed / 10, macs=2_000_000
        )
        photo_workshop.record("mobilenet_v3_small", seed, levels=quality(0, *CLASSIFIED), median_ms=3.0, macs=500_000)
    rows = table(photo_workshop.run(run_models=S_MODELS[:2], seeds=(0, 1)), "table_3")
    both = rows["UNet-S + MobileNetV3"]
    assert both["Latency (ms)"] == "8.05 [7.80, 8.50]"  # 5.05 + 3.00; 4.9 + 2.9; 5.3 + 3.2
    assert (both["MACs (M)"], both["Parameters"]) == ("2.5", "24690")
    assert both["PSNR (dB)"] == rows["UNet-S"]["PSNR (dB)"] != NOTHING
    assert both["Top-1 (%)"] == rows["MobileNetV3"]["Top-1 (%)"] != NOTHING
    assert both["Seeds"] == NOTHING


@pytest.mark.usefixtures("undrawn")
def test_two_models_have_no_latency_where_one_has_none(photo_workshop: Workshop) -> None:
    """Half a sum is no sum; a doubt about one of the two marks their sum."""
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED), median_ms=5.0, noise=("throttled",))
    photo_workshop.record("mobilenet_v3_small", levels=quality(0, *CLASSIFIED))
    photo_workshop.record("c_nas_s", levels=quality(0, *CLASSIFIED), median_ms=2.0)
    rows = table(photo_workshop.run(run_models=(*S_MODELS[:2], "c_nas_s")), "table_3")
    assert rows["UNet-S + MobileNetV3"]["Latency (ms)"] == NOTHING
    assert rows["UNet-S + C-NAS S"]["Latency (ms)"] == "7.00 [6.80, 7.40] †"


@pytest.mark.usefixtures("undrawn")
def test_a_cell_is_the_mean_over_seeds_with_students_interval(photo_workshop: Workshop) -> None:
    """Three seeds: mean over seeds of the mean over levels, and half the width of the t interval."""
    shifts = (0.0, 0.4, 1.1)
    for seed, shift in enumerate(shifts):
        photo_workshop.record("unet_s", seed, levels=quality(shift, *RESTORED))
    results = photo_workshop.run(run_models=("unet_s",), seeds=(0, 1, 2))
    values = [24.0 + shift for shift in shifts]
    half = stats.t.ppf(0.975, 2) * stats.sem(values)
    assert table(results, "table_2")["UNet-S"]["PSNR (dB)"] == f"{np.mean(values):.2f} ± {half:.2f}"
    with (results / "table_2.csv").open(newline="", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if row["model"] == "UNet-S")
    assert float(row["psnr_db_high"]) == pytest.approx(np.mean(values) + half)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("other", "seeds", "marked"),
    [((-0.9, -1.1, -1.0), 3, True), ((-2.0, 0.5, -1.0), 3, False), ((-1.0,), 1, False)],
    ids=["better in every seed", "worse in one", "one seed"],
)
def test_a_cell_is_marked_only_beyond_the_paired_interval(
    photo_workshop: Workshop, other: Sequence[float], seeds: int, marked: bool
) -> None:
    """DC-NAS S is marked where its difference to its rival, seed by seed, leaves out zero, though seeds differ by more."""
    for seed in range(seeds):
        photo_workshop.record("dc_nas_s", seed, levels=quality(5.0 * seed))
        photo_workshop.record("unet_s", seed, levels=quality(5.0 * seed + other[seed], *RESTORED))
    rows = table(photo_workshop.run(run_models=("dc_nas_s", "unet_s"), seeds=range(seeds)), "table_3")
    assert rows["DC-NAS S"]["PSNR (dB)"].startswith("**") == marked
    assert not rows["UNet-S"]["PSNR (dB)"].startswith("**")


@pytest.mark.usefixtures("undrawn")
def test_predicted_stands_beside_measured(photo_workshop: Workshop) -> None:
    """The median prediction with the ends of its intervals, and the mean error in per cent of the measured latency."""
    for seed, (measured, predicted) in enumerate([(4.0, 4.2), (5.0, 5.0)]):
        photo_workshop.record(
            "c_nas_s", seed, levels=quality(0, *CLASSIFIED), median_ms=measured, predicted_ms=predicted
        )
        photo_workshop.record(
            "dc_nas_s", seed, levels=quality(), median_ms=measured, predicted_ms=9.0, not_comparable="another device"
        )
    rows = table(photo_workshop.run(run_models=("c_nas_s", "dc_nas_s"), seeds=(0, 1)), "table_3")
    assert rows["C-NAS S"]["Predicted (ms)"] == "4.60 [3.70, 5.50]"
    assert rows["C-NAS S"]["Prediction off (%)"] == "+2.5 †"  # the two seeds were timed a quarter apart
    assert rows["DC-NAS S"]["Prediction off (%)"] == NOTHING


@pytest.mark.usefixtures("undrawn")
def test_what_follows_from_a_noisy_latency_is_marked_too(photo_workshop: Workshop) -> None:
    """An error in per cent of a latency that is not to be relied on bears its mark, in tables of models and of searches."""
    photo_workshop.record(
        "c_nas_s", levels=quality(0, *CLASSIFIED), median_ms=4.0, predicted_ms=4.2, noise=("throttled",)
    )
    photo_workshop.record("dc_nas_s", levels=quality(), median_ms=4.0, predicted_ms=4.2)
    derived = photo_workshop.search("noisy_s", median_ms=4.2)
    doubted = derived.measured.model_copy(update={"noise": ("hot",)})
    path = photo_workshop.sources.genotypes / "noisy_s/0/genotype.json"
    write_json_record(path, derived.model_copy(update={"measured": doubted}))
    read_genotype.cache_clear()
    results = photo_workshop.run(run_models=("c_nas_s", "dc_nas_s"), run_searches=("noisy_s",))
    rows, found = table(results, "table_3"), table(results, "searches")["noisy_s, seed 0"]
    assert rows["C-NAS S"]["Prediction off (%)"] == "+5.0 †"
    assert rows["DC-NAS S"]["Prediction off (%)"] == "+5.0"
    assert (found["Prediction off (%)"], found["Off target (%)"]) == ("-2.4 †", "+5.0 †")
    assert found["Target (ms)"] == "4.00"
    assert "† Noisy, not to be relied on: hot" in (results / "searches.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_why_a_prediction_is_not_compared_stands_below(photo_workshop: Workshop) -> None:
    """Where a prediction is of another device than the measurement beside it, the notes say so; else they have no word of it."""
    for model, reason in (("c_nas_s", None), ("d_nas_m", "the profile is of an edge box")):
        photo_workshop.record(model, levels=quality(), median_ms=4.0, predicted_ms=9.0, not_comparable=reason)
    results = photo_workshop.run(run_models=("c_nas_s", "d_nas_m"))
    words = "Not compared: the profile is of an edge box."
    assert words in (results / "table_2.md").read_text(encoding="utf-8")
    assert "Not compared" not in (results / "table_3.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_predictions_of_a_noisy_profile_are_marked_under_every_table(photo_workshop: Workshop) -> None:
    """What is predicted from a profile that failed its noise gate says so in the printed tables, not on the page alone."""
    entries, metadata = read_profile(photo_workshop.sources.profile)
    failed = GateCheck(name="drift", value=9.0, unit="%", limit=5.0, passed=False, reason="", remedy="wait")
    gate = metadata.gate.model_copy(update={"checks": (failed,)})
    noisy = photo_workshop.root / "noisy.parquet"
    write_profile(noisy, entries, metadata.model_copy(update={"gate": gate}))
    photo_workshop.record("c_nas_s", levels=quality(0, *CLASSIFIED), median_ms=4.0, predicted_ms=4.2)
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED), median_ms=4.0)
    photo_workshop.search("noisy_s")
    photo_workshop.sources = dataclasses.replace(photo_workshop.sources, profile=noisy)
    results = photo_workshop.run(run_models=("c_nas_s", "unet_s"), run_searches=("noisy_s",))
    told = {
        name for name in TABLES if "**NOISY: the noise gate" in (results / f"{name}.md").read_text(encoding="utf-8")
    }
    assert told == {"table_3", "searches"}  # nothing is predicted in the others


@pytest.mark.usefixtures("undrawn")
def test_the_size_of_a_searched_nets_cost_stands_below(photo_workshop: Workshop) -> None:
    """MACs of derived nets are of the profile's size and classes, which need not be those of the tables of models."""
    photo_workshop.record("dc_nas_s", levels=quality())
    derived = photo_workshop.search("noisy_s")
    text = (photo_workshop.run(run_models=("dc_nas_s",), run_searches=("noisy_s",)) / "searches.md").read_text("utf-8")
    setting = derived.setting
    assert f"MACs of one photo of {setting.height}x{setting.width} pixels, {setting.classes} classes." in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("train_on", "splits"), [("train", 1), ("train_and_validation", 2)])
def test_photos_to_train_on_are_those_that_were(photo_workshop: Workshop, train_on: str, splits: int) -> None:
    """The validation photos count as training photos only where models are trained on them too."""
    photo_workshop.record("dc_nas_s", levels=quality())
    results = photo_workshop.run(run_models=("dc_nas_s",), train_on=train_on)
    counts = [
        read_metadata(photo_workshop.sources.photos / f"{split}.parquet", PhotosMetadata).images
        for split in ("train", "validation")
    ]
    assert f"{sum(counts[:splits])} photos to train on" in (results / "table_3.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_predictions_for_two_devices_stand_in_two_columns(photo_workshop: Workshop, card: DeviceCard) -> None:
    """
    What a profile predicts for one device never shares a column with what another predicts for another; nor do their errors. The device is
    the profile's, wherever the net was timed.
    """
    edge = card.model_copy(update={"name": "Edge box"})
    photo_workshop.record("c_nas_s", levels=quality(0, *CLASSIFIED), median_ms=5.0, predicted_ms=5.0)
    photo_workshop.record("dc_nas_s", levels=quality(), median_ms=9.0, predicted_ms=9.9, card=edge)
    photo_workshop.record(
        "d_nas_m",
        levels=quality(0, *RESTORED),
        median_ms=7.0,
        predicted_ms=3.0,
        profile_card=edge,
        not_comparable="edge",
    )
    results = photo_workshop.run(run_models=("c_nas_s", "dc_nas_s", "d_nas_m"))
    row = table(results, "table_3")["DC-NAS S"]
    assert (row["Predicted (ms) for Edge box"], row["Prediction off (%) for Edge box"]) == (
        "9.90 [9.40, 10.40]",
        "+10.0",
    )
    assert (row["Predicted (ms) for Test CPU"], row["Prediction off (%) for Test CPU"]) == (NOTHING, NOTHING)
    timed_here = table(results, "table_2")["D-NAS M"]
    assert timed_here["Latency (ms) on Test CPU"] == "7.00 [6.90, 7.20]"
    assert timed_here["Predicted (ms) for Edge box"] == "3.00 [2.50, 3.50]"
    assert timed_here["Predicted (ms) for Test CPU"] == NOTHING
    assert "latency synchronised, on 2 devices" in (results / "table_3.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_the_value_of_a_sum_of_ranges_is_the_sum_of_the_means(photo_workshop: Workshop) -> None:
    """In CSV two models cost the sum of what each costs in its own row, though their nets differ from seed to seed."""
    for seed, macs in enumerate((1_000_000, 2_000_000, 2_000_000)):
        photo_workshop.record("c_nas_s", seed, levels=quality(0, *CLASSIFIED), macs=macs)
        photo_workshop.record("unet_s", seed, levels=quality(0, *RESTORED), macs=500_000)
    results = photo_workshop.run(run_models=("c_nas_s", "unet_s"), seeds=(0, 1, 2))
    with (results / "table_3.csv").open(newline="", encoding="utf-8") as file:
        macs = {row["model"]: float(row["macs_m"]) for row in csv.DictReader(file) if row["macs_m"]}
    assert macs["UNet-S + C-NAS S"] == pytest.approx(macs["UNet-S"] + macs["C-NAS S"])


def test_a_noisy_latency_is_marked_in_the_figures(photo_workshop: Workshop) -> None:
    """A point whose latency is not to be relied on bears the dagger behind its name, as its cell does; a quiet one does not."""
    for model, noise in (("c_nas_s", ("throttled",)), ("dc_nas_s", ())):
        photo_workshop.record(model, levels=quality(), median_ms=4.0, noise=noise)
    settings = dataclasses.replace(
        PhotoTables.of(photo_workshop.params), run_models=("c_nas_s", "dc_nas_s"), seeds=(0,)
    )
    runs = read_photo_runs(settings, photo_workshop.sources.records)
    points = photo_figures.points_of(runs, "top1_pct", device=drawn_latency(runs)[0], confidence=0.95, at_zero=False)
    assert [point.label for point in points] == [f"{runs[0].label} †", runs[1].label]


@pytest.mark.usefixtures("undrawn")
def test_seeds_of_one_net_must_agree_in_latency_those_of_different_nets_need_not(photo_workshop: Workshop) -> None:
    """10 % between two seeds of one net tell of the machine and are marked; between two random subnets they are their own."""
    for seed in (0, 1):
        photo_workshop.record("dc_nas_s", seed, levels=quality(), median_ms=5.0 + seed)
        own = uniform_genotype("k3_e3", 2 + seed / 2)
        photo_workshop.record(
            "dc_random_s", seed, levels=quality(), median_ms=5.0 + seed, genotype=own, macs=3_000_000 + 200_000 * seed
        )
    results = photo_workshop.run(run_models=("dc_nas_s", "dc_random_s"), seeds=(0, 1))
    rows = table(results, "table_3")
    assert rows["DC-NAS S"]["Latency (ms)"].endswith("†")
    random = rows["random subnet at the latency of DC-NAS S"]
    assert not random["Latency (ms)"].endswith("†")
    assert random["MACs (M)"] == "3.0 to 3.2"
    assert "† Noisy" in (results / "table_3.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_latencies_of_two_devices_stand_in_two_columns(photo_workshop: Workshop, card: DeviceCard) -> None:
    """A record made elsewhere fills the column of its own device, and leaves the other empty."""
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED), median_ms=5.0)
    other = card.model_copy(update={"name": "Edge box"})
    photo_workshop.record("unet_m", levels=quality(0, *RESTORED), median_ms=9.0, card=other)
    row = table(photo_workshop.run(run_models=("unet_s", "unet_m")), "table_2")["UNet-M"]
    assert row["Latency (ms) on Edge box"] == "9.00 [8.90, 9.20]"
    assert row["Latency (ms) on Test CPU"] == NOTHING


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("changes", "facts", "title"),
    [
        ({"torch": "9.9"}, {}, "Test CPU (torch 9.9)"),
        ({"cudnn": 91002}, {}, "Test CPU (cudnn 91002)"),
        ({}, {"precision": "bf16"}, "Test CPU (precision bf16)"),
        ({}, {"memory_format": "contiguous"}, "Test CPU (memory format contiguous)"),
    ],
    ids=["torch", "cuDNN", "precision", "memory format"],
)
def test_latencies_of_other_libraries_or_settings_stand_apart(
    photo_workshop: Workshop, card: DeviceCard, changes: Mapping[str, Any], facts: Mapping[str, Any], title: str
) -> None:
    """On one device too a latency is of its libraries, precision and memory format: another one has a column that names it."""
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED), median_ms=5.0)
    other = card.model_copy(update=changes)
    photo_workshop.record("unet_m", levels=quality(0, *RESTORED), median_ms=9.0, card=other, **facts)
    rows = table(photo_workshop.run(run_models=("unet_s", "unet_m")), "table_2")
    assert rows["UNet-M"][f"Latency (ms) on {title}"] == "9.00 [8.90, 9.20]"
    assert rows["UNet-S"][f"Latency (ms) on {title}"] == NOTHING


@pytest.mark.usefixtures("undrawn")
def test_the_time_on_the_device_stands_beside_that_on_the_wall(photo_workshop: Workshop) -> None:
    """On CUDA there are two figures; where none was told there is no column."""
    for seed in (0, 1):
        photo_workshop.record(
            "unet_s", seed, levels=quality(0, *RESTORED), median_ms=5.0, device_median_ms=4.5 + seed / 10
        )
        photo_workshop.record(
            "mobilenet_v3_small", seed, levels=quality(0, *CLASSIFIED), median_ms=3.0, device_median_ms=2.0
        )
    results = photo_workshop.run(run_models=S_MODELS[:2], seeds=(0, 1))
    rows = table(results, "table_3")
    assert rows["UNet-S"]["Device time (ms)"] == "4.55 [4.50, 4.60]"
    assert rows["UNet-S + MobileNetV3"]["Device time (ms)"] == "6.55 [6.50, 6.60]"
    text = (results / "table_3.md").read_text(encoding="utf-8")
    assert "Device time: median over seeds" in text
    assert text.count("UNet-S 9/10, 9/10") == 1
    photo_workshop.record("unet_m", levels=quality(0, *RESTORED), median_ms=5.0)
    alone = photo_workshop.run("alone", run_models=("unet_m",))
    assert "Device time" not in (alone / "table_2.md").read_text(encoding="utf-8")


def test_a_figure_shows_the_latencies_of_one_device_and_names_it(photo_workshop: Workshop, card: DeviceCard) -> None:
    """One axis holds the latencies of the device with the most records; those of others stay in the tables."""
    edge = card.model_copy(update={"name": "Edge box"})
    for model, made in (("c_nas_s", card), ("dc_nas_s", edge), ("unet_s", edge)):
        photo_workshop.record(model, levels=quality(), median_ms=4.0, card=made)
    names = ("c_nas_s", "dc_nas_s", "unet_s")
    settings = dataclasses.replace(PhotoTables.of(photo_workshop.params), run_models=names, seeds=(0,))
    runs = read_photo_runs(settings, photo_workshop.sources.records)
    device, label = drawn_latency(runs)
    assert label == "measured latency (ms), Edge box"
    points = photo_figures.points_of(runs, "psnr_db", device=device, confidence=0.95, at_zero=False)
    assert [point.label for point in points] == [run.label for run in runs[1:]]
    assert drawn_latency([]) == (None, "measured latency (ms)")


@pytest.mark.usefixtures("undrawn")
def test_intervals_that_hide_a_single_search_say_so(photo_workshop: Workshop) -> None:
    """Three trainings of the net of one search tell nothing of searching: a note counts both, and random subnets are not beaten."""
    for seed in range(3):
        photo_workshop.record("dc_nas_s", seed, levels=quality(9.0 + seed), search_seed=0)
        photo_workshop.record("dc_random_s", seed, levels=quality(0.9 * seed), search_seed=0)
    names = ("dc_nas_s", "dc_random_s")
    one = photo_workshop.run("one", run_models=names, seeds=(0, 1, 2))
    note = "The interval covers training alone, not the search: DC-NAS S (1 search, 3 trainings)"
    assert note in (one / "table_3.md").read_text(encoding="utf-8")
    assert "**" not in table(one, "table_3")["DC-NAS S"]["PSNR (dB)"]
    read_record.cache_clear()
    for seed in range(3):
        photo_workshop.record("dc_nas_s", seed, levels=quality(9.0 + seed), search_seed=seed)
    three = photo_workshop.run("three", run_models=names, seeds=(0, 1, 2))
    assert "not the search" not in (three / "table_3.md").read_text(encoding="utf-8")
    assert table(three, "table_3")["DC-NAS S"]["PSNR (dB)"].startswith("**")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("epochs", "marked"), [(2, True), (3, False)])
def test_models_are_compared_over_common_seeds_of_as_many_epochs(
    photo_workshop: Workshop, epochs: int, marked: bool
) -> None:
    """A missing record takes its seed from the comparison and no more; trainings of other lengths are not compared."""
    for seed in range(3):
        photo_workshop.record("dc_nas_s", seed, levels=quality(5.0 * seed))
    for seed in (0, 2):
        photo_workshop.record("unet_s", seed, levels=quality(5.0 * seed - 1 + seed / 50, *RESTORED), epochs=epochs)
    rows = table(photo_workshop.run(run_models=("dc_nas_s", "unet_s"), seeds=(0, 1, 2)), "table_3")
    assert rows["DC-NAS S"]["PSNR (dB)"].startswith("**") == marked


def test_a_fourth_target_takes_no_row_without_a_word(tiny_params: Callable[..., Params]) -> None:
    """Of four targets that run nobody tells which is M: rows say so. Those that do not run count for nothing, and names settle it."""
    plain = PhotoTables.of(tiny_params())
    fourth = {
        **plain.searches,
        "noisy_xl": plain.searches["noisy_l"].model_copy(update={"target": TargetSpec(reach=0.9)}),
    }
    recipe = ("noisy_s", "noisy_m", "noisy_l")

    def found(running: Sequence[str], sizes: Mapping[str, str]) -> dict[str, Any]:
        settings = dataclasses.replace(plain, searches=fourth, run_searches=running, sizes=sizes)
        runs = [
            PhotoRun(model=name, label=name, spec=plain.models[name], seeds=(), paths=(), metadata=(), wanted=1)
            for name in ("c_nas_s", "unet_s")
        ]
        return {row.label: row for row in table_rows(runs, settings.book)["3"]}

    without = found((*recipe, "noisy_xl"), {})
    assert (without["C-NAS S"].absent, without["C-NAS S"].runs) == (UNNAMED, ())
    assert without["LPIENet 0.25x"].absent == LEFT_OUT
    assert "c_nas_s" in without
    for rows in (found(recipe, {}), found((*recipe, "noisy_xl"), {"S": "noisy_s", "L": "noisy_xl"})):
        assert rows["C-NAS S"].run is not None
    two = dataclasses.replace(plain, sizes={"S": "noisy_s", "L": "noisy_l"}).book
    assert two.sizes[plain.searches["noisy_l"].target] == "L"
    with pytest.raises(BadInputError, match=r"tabulate\.sizes\.M names 'noisy'"):
        dataclasses.replace(plain, sizes={"M": "noisy"}).book  # noqa: B018 # the property checks


@pytest.mark.usefixtures("undrawn")
def test_pooled_psnr_stands_in_tables_of_photos_too(photo_workshop: Workshop) -> None:
    """The protocol reports it beside the mean; photos that are restored exactly are counted below, for neither mean holds them."""
    levels = [{**level, "psnr_pooled_db": 21.0} for level in quality(0, *RESTORED)]
    photo_workshop.record("unet_s", levels=levels, exact=1)
    results = photo_workshop.run(run_models=("unet_s",))
    assert table(results, "table_2")["UNet-S"]["PSNR, pooled (dB)"] == "21.00"
    text = (results / "table_2.md").read_text(encoding="utf-8")
    assert "left out of the mean PSNR: 3 images" in text


@pytest.mark.usefixtures("undrawn")
def test_top_5_is_told_of_a_hundred_classes(photo_workshop: Workshop) -> None:
    """Of three classes top-5 is always right and says nothing."""
    photo_workshop.record("dc_nas_s", levels=quality())
    assert "Top-5 (%)" not in table(photo_workshop.run("few", run_models=("dc_nas_s",)), "table_3")["DC-NAS S"]
    read_record.cache_clear()
    photo_workshop.record("dc_nas_s", levels=quality(), classes=[f"c{number}" for number in range(100)])
    many = photo_workshop.run("many", run_models=("dc_nas_s",))
    assert table(many, "table_3")["DC-NAS S"]["Top-5 (%)"] == "75.0"
    assert "Top-5, σ=0 (%)" in (many / "table_clean.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_notes_speak_of_their_own_table(photo_workshop: Workshop) -> None:
    """Under the classifiers on clean photos stands no word on PSNR; the timed net's classes stand where the timed net is spoken of."""
    photo_workshop.record("dc_nas_s", levels=quality(), median_ms=4.0)
    results = photo_workshop.run(run_models=("dc_nas_s",))
    third, clean = ((results / f"{name}.md").read_text(encoding="utf-8") for name in ("table_3", "table_clean"))
    assert "for PSNR also over those above 0" in third
    assert "PSNR" not in clean
    assert "accuracy at σ = 0 alone where the column says so" in clean
    setting = photo_workshop._setting
    assert f"a whole batch of 32 photos of 32x32 pixels by a net of {setting.classes} classes" in third
    assert "MACs of one photo of 32x32 pixels, 3 classes" in third
    assert "Of fewer than 20 passes the percentiles are little else" in third
    assert "assumed 127,720" in third
    assert "on its own device (GeForce RTX 3090), not synchronised" in third


@pytest.mark.usefixtures("undrawn")
def test_the_noisy_input_scores_itself(photo_workshop: Workshop) -> None:
    """The first row is the noisy photo's own quality, of one record, for it is the same in all."""
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED))
    row = table(photo_workshop.run(run_models=("unet_s",)), "table_2")["noisy input"]
    assert (row["PSNR (dB)"], row["PSNR, σ>0 (dB)"], row["SSIM"]) == (NOTHING, "12.00", "0.650")


def test_searches_show_target_predicted_and_measured_latency(full: Path) -> None:
    """Each derived net's target, prediction, measurement and their distances; a search that does not run is left out."""
    rows = table(full, "searches")
    found = rows["noisy_s, seed 0"]
    assert found["Target (ms)"] == "4.00"
    assert found["Predicted (ms)"] == "4.10 [3.90, 4.30]"
    assert found["Measured (ms)"] == "4.20 [4.10, 4.40]"
    assert (found["Prediction off (%)"], found["Off target (%)"]) == ("-2.4", "+5.0")
    assert float(rows["sink_4_s, seed 0"]["Oscillation"]) > float(rows["clean_4_s, seed 0"]["Oscillation"])
    assert rows["noisy_l"]["source"] == LEFT_OUT


@pytest.mark.usefixtures("undrawn")
def test_a_net_that_was_not_measured_says_why(photo_workshop: Workshop) -> None:
    """The measured latency and both distances are empty, and the reason stands below."""
    photo_workshop.record("dc_nas_s", levels=quality())
    photo_workshop.search("noisy_s", median_ms=None)
    results = photo_workshop.run(run_models=("dc_nas_s",), run_searches=("noisy_s",))
    row = table(results, "searches")["noisy_s, seed 0"]
    assert (row["Measured (ms)"], row["Off target (%)"], row["Prediction off (%)"]) == (NOTHING,) * 3
    assert "Not measured: derive_genotype.measure is off" in (results / "searches.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_is_derived_again_to_its_text(full: Path, name: str) -> None:
    """The cell map alone gives each printed text, from the files it names."""
    cell_map = CellMap.model_validate_json((full / f"{name}.cells.json").read_bytes())
    printed = table(full, name)
    for cell in cell_map.cells:
        assert derive(cell, confidence=cell_map.confidence, root=Path()).text == cell.text
        assert printed[cell.row][cell.column].strip("*") == cell.text
    named = {(cell.row, cell.column) for cell in cell_map.cells}
    unnamed = [
        (row, c)
        for row, cells in printed.items()
        for c, text in cells.items()
        if (row, c) not in named and text != NOTHING
    ]
    assert unnamed == []


@pytest.mark.parametrize("name", TABLES)
def test_footers_say_what_differs_from_the_paper(full: Path, name: str) -> None:
    """Size, classes, photos, epochs and the synchronised latency stand under every table of models; epochs under that of searches."""
    text = (full / f"{name}.md").read_text(encoding="utf-8")
    wanted = [
        "32x32 pixels (paper: 224x224)",
        "3 classes (paper: 100)",
        "2 epochs (paper: 250)",
        "latency synchronised, on one device",
    ]
    for words in ["epochs (paper: 90)"] if name == "searches" else wanted:
        assert words in text


def test_the_page_needs_nothing_beside_itself(full: Path) -> None:
    """The page holds all tables, figures and searches, and fetches nothing."""
    page = (full / "photos.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == ['href="index.html"']  # a link, which is not fetched
    assert page.index("<nav>") < page.index('href="index.html"') < page.index("<h1>")
    assert not re.findall(r"<(?:script|link|iframe)\b|@import|url\((?!#|data:)", page)
    for title in (
        "Table 2",
        "Table 3",
        "Table 4",
        "Table 5",
        "Table 6",
        "Figure 4",
        "Figure 5",
        "Figure 6",
        "Figure 8",
    ):
        assert f"<h2>{title}" in page
    assert page.count("<svg") == 3
    assert "The latency predictor" in page


def test_the_figures_are_there_in_both_themes(full: Path) -> None:
    """Every figure is written as SVG and PNG, light and dark, and none is blank."""
    maps = [f"figure_{n}.figure.json" for n in (4, 5, 6, 8)]
    assert sorted(path.name for path in (full / "figures_photos").iterdir()) == sorted([*FIGURES, *maps])
    for name in (name for name in FIGURES if name.endswith("png")):
        assert len(Image.open(full / "figures_photos" / name).convert("RGB").getcolors(maxcolors=10**6) or []) > 20


def test_figure_4_prints_the_oscillation_of_each_search(full: Path) -> None:
    """Two searches with beta removed and two that learn it, each with its own measure as the table of searches has it."""
    text = (full / "figures_photos/figure_4_light.svg").read_text(encoding="utf-8")
    rows = table(full, "searches")
    for search, word in (("clean_4_s", "removed"), ("sink_4_s", "learned")):
        for seed in (0, 1):
            assert f"β {word}: {search}, seed {seed}" in text
            assert f"oscillation {rows[f'{search}, seed {seed}']['Oscillation']}" in text


@pytest.mark.usefixtures("one_theme")
def test_figures_without_their_models_say_so(photo_workshop: Workshop) -> None:
    """With one denoiser and no search at all every figure is drawn, and says what is left out; the page is written."""
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED))
    results = photo_workshop.run(run_models=("unet_s",))
    for number in (4, 5, 6):
        assert LEFT_OUT in (results / f"figures_photos/figure_{number}_light.svg").read_text(encoding="utf-8")
    assert (results / "photos.html").is_file()


def test_figure_8_names_the_predicted_classes(full: Path) -> None:
    """Under a restored photo stands the predicted class with a tick or a cross, under the clean one the true class."""
    page = (full / "photos.html").read_text(encoding="utf-8")
    panel = page[page.index("class=photos") :]
    assert [
        title for title in ("noisy", "UNet-S", "DC-Net S", "DC-NAS S", "clean") if f"<th>{title}</th>" not in panel
    ] == []
    assert ">cat ✓<" in panel
    assert ">a very long name … ✗<" in panel


def test_names_beside_points_cover_neither_each_other_nor_points() -> None:
    """Eight points close together: every name lies apart from every other, and inside the axes."""
    figure = new_figure((6, 5), "light")
    axes = figure.add_subplot()
    points = [(f"name {number}", 1 + 0.05 * number, 1 + 0.01 * (number % 3)) for number in range(8)]
    axes.scatter([x for _, x, _ in points], [y for _, _, y in points])
    axes.margins(0.3)
    label_points(axes, points, "#000000")
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(points)
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_metrics_hold_each_model_and_each_search(full: Path) -> None:
    """dvc metrics finds the figures of every model and of every search and seed."""
    metrics = json.loads((full / "photos_metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {"models", "searches"}
    assert {"psnr_db", "ssim", "top1_pct", "latency_ms", "macs_m"} <= set(metrics["models"]["dc_nas_s"])
    assert metrics["searches"]["noisy_s-0"]["off_target_pct"] == pytest.approx(5.0)


def test_curves_have_a_column_a_model(full: Path, tiny_params: Callable[..., Params]) -> None:
    """One row a noise level, means over seeds; a model without the task has an empty column."""
    with (full / "curves_photos/psnr_db.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"sigma", *tiny_params().photo_models}
    assert [row["sigma"] for row in rows] == ["0.0", "0.5", "1.0"]
    assert rows[0]["mobilenet_v3_small"] == ""
    assert float(rows[0]["dc_nas_s"]) - float(rows[1]["dc_nas_s"]) == pytest.approx(6.0)


@pytest.mark.usefixtures("one_theme")
def test_the_same_records_give_the_same_bytes(photo_workshop: Workshop) -> None:
    """Tables, figures and page are the same at every run, whatever style Matplotlib has been given."""
    for model in S_MODELS:
        names = {"unet_s": RESTORED, "mobilenet_v3_small": CLASSIFIED}.get(model, ())
        photo_workshop.record(model, levels=quality(0, *names), median_ms=4.0)
    photo_workshop.search("noisy_s")
    first = photo_workshop.run("first", run_models=S_MODELS, run_searches=("noisy_s",))
    with mpl.rc_context({"svg.hashsalt": "other"}):
        second = photo_workshop.run("second", run_models=S_MODELS, run_searches=("noisy_s",))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [name for name in files if (first / name).read_bytes() != (second / name).read_bytes()] == []


@pytest.mark.usefixtures("undrawn")
def test_records_of_another_protocol_are_refused(photo_workshop: Workshop) -> None:
    """Records with other classes do not stand in one table; both files and the difference are named."""
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED))
    photo_workshop.record("unet_m", levels=quality(0, *RESTORED), classes=("cat", "dog"))
    with pytest.raises(
        CorruptArtefactError, match=r"unet_m/0/record.parquet was measured by another protocol .*classes"
    ):
        photo_workshop.run(run_models=("unet_s", "unet_m"))


@pytest.mark.usefixtures("undrawn")
def test_a_record_of_another_description_is_refused(photo_workshop: Workshop) -> None:
    """A record made before params.yaml changed the model is not shown under its name."""
    photo_workshop.record("unet_s", levels=quality(0, *RESTORED))
    models = {**photo_workshop.params.photo_models, "unet_s": photo_workshop.params.photo_models["unet_m"]}
    with pytest.raises(CorruptArtefactError, match="another unet_s"):
        photo_workshop.run(run_models=("unet_s",), models=models)


def test_no_record_at_all_is_an_error(photo_workshop: Workshop) -> None:
    """Nothing is written where nothing is there to be shown."""
    with pytest.raises(CorruptArtefactError, match="No record of the models in photo_runs"):
        photo_workshop.run()


def test_a_search_without_its_genotype_is_an_error(photo_workshop: Workshop) -> None:
    """A log whose derived genotype is missing is named with the remedy."""
    photo_workshop.record("dc_nas_s", levels=quality())
    photo_workshop.search("noisy_s")
    (photo_workshop.sources.genotypes / "noisy_s/0/genotype.json").unlink()
    with pytest.raises(CorruptArtefactError, match=r"genotype\.json does not exist"):
        photo_workshop.run(run_models=("dc_nas_s",), run_searches=("noisy_s",))


def test_the_papers_figures_must_be_there(photo_workshop: Workshop) -> None:
    """Without the reference file nothing is tabulated."""
    photo_workshop.sources = dataclasses.replace(photo_workshop.sources, reference=Path("missing.csv"))
    with pytest.raises(BadInputError, match=r"missing.csv does not exist"):
        photo_workshop.run()


def test_the_command_names_the_arguments_that_photos_need(
    python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """`photos` without its folders ends with exit code 2 and names them."""
    done = python("-m", "dcnas_tabulate", "photos", "--records", tmp_path, "--reference", tmp_path, "--out", tmp_path)
    assert done.returncode == 2
    assert "photos needs --searches, --genotypes, --photos, --profile" in done.stderr
