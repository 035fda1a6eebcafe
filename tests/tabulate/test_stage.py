"""The pipeline stage tabulate: the same records give the same bytes, missing runs show, and only what is beyond its interval is marked."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_latency.card import fingerprint
from dcnas_lineage.cells import derive
from dcnas_schema.cells import CellMap
from dcnas_schema.params import Params
from dcnas_schema.parquet import read_parquet, with_metadata, write_parquet
from dcnas_schema.provenance import DeviceCard, Provenance
from dcnas_schema.records import PANEL, RECORD, EvaluationMetadata, PanelMetadata
from dcnas_tabulate import job
from dcnas_tabulate.__main__ import main
from dcnas_tabulate.figures import noisy_curve
from dcnas_tabulate.job import tabulate
from dcnas_tabulate.page import provenance_items
from dcnas_tabulate.records import read_runs
from dcnas_tabulate.sentences import counted, percent

INTEGRATED, SEQUENTIAL = "dcnet_reduced_integrated", "dcnet_reduced_sequential"
MODELS = [INTEGRATED, SEQUENTIAL, "unet_s", "classifier_conv_noisy"]
LABELS = {INTEGRATED: "DC-Net reduced integrated", SEQUENTIAL: "DC-Net reduced sequential"}
TABLES = ("table_1", "table_7", "table_8")

# PSNR at sigma 0 and 0.5 of each seed: integrated is better by about 1 dB in each, though seeds differ by 5 dB.
BETTER = {
    INTEGRATED: [(40.0, 20.0), (45.0, 25.0), (35.0, 15.2)],
    SEQUENTIAL: [(39.0, 19.0), (44.1, 24.0), (34.0, 14.1)],
}


class Workshop:
    """A folder of records made by hand, and the stage run on them."""

    def __init__(
        self, root: Path, project: Path, write_record: Callable[..., EvaluationMetadata], params: Callable[..., Params]
    ) -> None:
        self.root, self.records, self._write_record, self._params = root, root / "records", write_record, params
        self.reference = project / "data/reference/paper_tables.csv"

    def record(
        self,
        model: str,
        seed: int,
        levels: Sequence[Mapping[str, float]],
        median_ms: float | None = None,
        noise: Sequence[str] = (),
    ) -> None:
        """Write the record of one run."""
        self._write_record(
            self.records / model / str(seed), model, seed, levels=levels, median_ms=median_ms, noise=noise
        )

    def pair(self, values: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Write joint models' records with these PSNRs, a seed each, and a top-1 that is the same for all."""
        for model, seeds in values.items():
            for seed, (clean, noisy) in enumerate(seeds):
                self.record(
                    model,
                    seed,
                    [
                        {"psnr_db": clean, "ssim": 0.9, "top1_pct": 90.0},
                        {"psnr_db": noisy, "ssim": 0.5, "top1_pct": 50.0},
                    ],
                )

    def all_kinds(self) -> None:
        """Write two seeds of a model of every kind, the joint ones timed."""
        self.pair({model: values[:2] for model, values in BETTER.items()})
        for seed in (0, 1):
            self.record(
                INTEGRATED, seed, [{"psnr_db": 40.0 + seed, "ssim": 0.9, "top1_pct": 90.0}] * 2, median_ms=60.0 + seed
            )
            self.record("unet_s", seed, [{"psnr_db": 38.0 + seed, "psnr_pooled_db": 37.0, "ssim": 0.8}] * 2)
            self.record("classifier_conv_noisy", seed, [{"top1_pct": 95.0 + seed}, {"top1_pct": 45.0 + seed}])

    def rewrite(self, model: str, seed: int, **changes: Any) -> None:
        """Write the record of one run again with changed metadata, its figures as they are."""
        path = self.records / model / str(seed) / "record.parquet"
        table, metadata = read_parquet(path, RECORD, EvaluationMetadata)
        write_parquet(path, with_metadata(RECORD, metadata.model_copy(update=changes)), table.to_batches())

    def metadata(self, model: str, seed: int) -> EvaluationMetadata:
        """Return what a record says of itself."""
        return read_parquet(self.records / model / str(seed) / "record.parquet", RECORD, EvaluationMetadata)[1]

    def run(
        self,
        out: str = "results",
        *,
        seeds: Sequence[int] = (0, 1),
        models: Sequence[str] = tuple(MODELS),
        **changes: Any,
    ) -> Path:
        """Run the stage and return the folder of its results."""
        params = self._params({"runs.seeds": list(seeds), "runs.models": list(models), **changes})
        tabulate(params, self.records, self.reference, self.root / out)
        return self.root / out


@pytest.fixture
def workshop(
    tmp_path: Path, project: Path, write_record: Callable[..., EvaluationMetadata], tiny_params: Callable[..., Params]
) -> Workshop:
    """An empty folder of records."""
    return Workshop(tmp_path, project, write_record, tiny_params)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of tables alone: the stage draws nothing and writes no page."""
    for name in ("draw_curves", "draw_panel", "write_page"):
        monkeypatch.setattr(job, name, lambda *_, **__: None)


@pytest.fixture
def without_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the page, which does not take the panel's files: the stage does not draw them."""
    monkeypatch.setattr(job, "draw_panel", lambda *_, **__: None)


@pytest.fixture(scope="module")
def kinds(
    tmp_path_factory: pytest.TempPathFactory,
    project: Path,
    write_record: Callable[..., EvaluationMetadata],
    tiny_params: Callable[..., Params],
) -> Workshop:
    """Two seeds of every kind of model; tests leave the records as they are."""
    workshop = Workshop(tmp_path_factory.mktemp("all kinds"), project, write_record, tiny_params)
    workshop.all_kinds()
    return workshop


@pytest.fixture(scope="module")
def results(kinds: Workshop) -> Path:
    """The results of these; tests leave them as they are."""
    return kinds.run()


def rows(results: Path, table: str = "table_1") -> list[dict[str, str]]:
    """Return the rows of a table's CSV form."""
    with (results / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def markdown(results: Path, table: str = "table_1") -> dict[str, dict[str, str]]:
    """Return the printed table: row -> column -> text."""
    lines = [line for line in (results / f"{table}.md").read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {line[0]: dict(zip(cells[0], line, strict=True)) for line in cells[2:]}


def cell_map(results: Path, table: str = "table_1") -> CellMap:
    """Return the cell map of a table."""
    return CellMap.model_validate_json((results / f"{table}.cells.json").read_bytes())


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_the_same_records_give_the_same_bytes(kinds: Workshop, results: Path) -> None:
    """Tables in four forms, figures, curves, metrics and page: every file repeats to the last byte."""
    first, again = hashes(results), hashes(kinds.run("again"))
    assert first == again
    wanted = {f"{table}{suffix}" for table in TABLES for suffix in (".md", ".csv", ".parquet", ".cells.json")}
    wanted |= {
        f"figures/{name}_{theme}.{kind}"
        for name, kind in (("curves", "svg"), ("figure_3", "png"))
        for theme in ("light", "dark")
    }
    wanted |= {f"curves/{quantity}.csv" for quantity in ("psnr_db", "ssim", "top1_pct")} | {
        "metrics.json",
        "index.html",
        "figures/curves.figure.json",
        "figures/figure_3.figure.json",
    }
    assert set(first) == wanted


def test_each_model_stands_in_the_table_of_its_kind(results: Path) -> None:
    """Joint models in Table 1, denoisers in Table 7, classifiers in Table 8; the noisy input heads what restores."""
    assert [list(markdown(results, table)) for table in TABLES] == [
        ["noisy input", "DC-Net reduced integrated", "DC-Net reduced sequential"],
        ["noisy input", "UNet-S"],
        ["Conv trained on noisy digits"],
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_cell_is_the_mean_with_its_interval(workshop: Workshop) -> None:
    """Printed text, CSV and Parquet hold the mean over seeds of the mean over levels with scipy's interval at the level asked for."""
    workshop.pair(BETTER)
    results = workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL], **{"tabulate.confidence": 0.9})
    means = [(clean + noisy) / 2 for clean, noisy in BETTER[INTEGRATED]]
    low, high = stats.t.interval(0.9, 2, loc=sum(means) / 3, scale=stats.sem(means))
    text = f"{sum(means) / 3:.2f} ± {(high - low) / 2:.2f}"
    assert markdown(results)[LABELS[INTEGRATED]]["PSNR (dB)"].strip("*") == text
    for row in (rows(results)[1], pq.read_table(results / "table_1.parquet").to_pylist()[1]):
        assert float(row["psnr_db"]) == pytest.approx(sum(means) / 3)
        assert (float(row["psnr_db_low"]), float(row["psnr_db_high"])) == (pytest.approx(low), pytest.approx(high))
        assert float(row["psnr_db_without_sigma_0"]) == pytest.approx(sum(noisy for _, noisy in BETTER[INTEGRATED]) / 3)
        assert row["seeds"] in (3, "3.0")


@pytest.mark.usefixtures("undrawn")
def test_a_missing_seed_shows(workshop: Workshop) -> None:
    """With one of two seeds there, the count says 1/2 and the cell has no interval; a model with none says 0/2."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    printed = markdown(workshop.run(models=[INTEGRATED, SEQUENTIAL]))
    assert printed[LABELS[INTEGRATED]]["Seeds"] == "1/2"
    assert printed[LABELS[INTEGRATED]]["PSNR (dB)"] == "30.00"
    assert (printed[LABELS[SEQUENTIAL]]["Seeds"], printed[LABELS[SEQUENTIAL]]["PSNR (dB)"]) == ("0/2", "–")


@pytest.mark.usefixtures("undrawn")
def test_better_is_marked_only_beyond_the_paired_interval(workshop: Workshop) -> None:
    """A difference that every seed shows is marked though the seeds themselves overlap; equal figures are not."""
    workshop.pair(BETTER)
    printed = markdown(workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL]))
    assert printed[LABELS[INTEGRATED]]["PSNR (dB)"].startswith("**")
    assert not printed[LABELS[SEQUENTIAL]]["PSNR (dB)"].startswith("**")
    for label in LABELS.values():
        for column in ("Top-1 (%)", "SSIM", "MACs (M)"):
            assert not printed[label][column].startswith("**")


@pytest.mark.usefixtures("undrawn")
def test_the_other_one_is_marked_where_it_is_better(workshop: Workshop) -> None:
    """The mark follows the figures, not the order of the rows."""
    workshop.pair({INTEGRATED: BETTER[SEQUENTIAL], SEQUENTIAL: BETTER[INTEGRATED]})
    printed = markdown(workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL]))
    assert printed[LABELS[SEQUENTIAL]]["PSNR (dB)"].startswith("**")
    assert not printed[LABELS[INTEGRATED]]["PSNR (dB)"].startswith("**")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("integrated", "sequential"),
    [
        ([(40.0, 20.0), (45.0, 25.0), (35.0, 15.0)], [(39.0, 19.0), (46.0, 26.0), (33.0, 13.0)]),
        ([(40.0, 20.0)], [(30.0, 10.0)]),
        ([(40.0, 20.0), (45.0, 25.0), (35.0, 15.2)], [(39.0, 19.0)]),
    ],
    ids=["inside the interval", "one seed", "one seed in common"],
)
def test_nothing_is_marked_without_evidence(workshop: Workshop, integrated: Any, sequential: Any) -> None:
    """A difference inside its interval, of one seed, or between runs that have but one seed in common marks neither."""
    workshop.pair({INTEGRATED: integrated, SEQUENTIAL: sequential})
    printed = markdown(workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL]))
    assert not any("**" in text for row in printed.values() for text in row.values())


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("epochs", "marked"), [(3, True), (5, False)])
def test_a_missing_seed_leaves_the_others_to_be_compared(workshop: Workshop, epochs: int, marked: bool) -> None:
    """Two of three seeds are compared where the third is missing; trainings of other lengths are not."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED], SEQUENTIAL: BETTER[SEQUENTIAL][:2]})
    for seed in (0, 1):
        workshop.rewrite(SEQUENTIAL, seed, epochs=epochs)
    printed = markdown(workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL]))
    assert printed[LABELS[INTEGRATED]]["PSNR (dB)"].startswith("**") == marked


@pytest.mark.usefixtures("undrawn")
def test_a_record_outside_runs_is_left_out_and_named(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    """A record of a seed or model that params.yaml does not name changes nothing, and a line says so."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:2]})
    alone = hashes(workshop.run("alone", models=[INTEGRATED]))
    assert "left out" not in capsys.readouterr().out
    workshop.record("unet_s", 0, [{"psnr_db": 38.0}] * 2)
    workshop.record(INTEGRATED, 7, [{"psnr_db": 99.0, "ssim": 1.0, "top1_pct": 100.0}] * 2)
    assert hashes(workshop.run("beside", models=[INTEGRATED])) == alone
    printed = capsys.readouterr().out
    assert f"left out: {workshop.records}/unet_s/0" in printed
    assert f"left out: {workshop.records}/{INTEGRATED}/7" in printed


def test_no_record_at_all_is_a_corrupt_artefact(workshop: Workshop, tmp_path: Path) -> None:
    """Without any record there is no table: exit 4 with the command, and nothing is written."""
    with pytest.raises(CorruptArtefactError, match=r"(?s)No record.*dvc repro") as caught:
        workshop.run()
    assert caught.value.exit_code == 4
    assert not (tmp_path / "results").exists()


def test_a_damaged_record_is_named(workshop: Workshop) -> None:
    """One damaged record stops the table: a seed is never dropped in silence."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:2]})
    path = workshop.records / INTEGRATED / "1" / "record.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptArtefactError, match=rf"{INTEGRATED}/1/record\.parquet is damaged"):
        workshop.run(models=[INTEGRATED])


def test_a_record_in_anothers_place_is_named(workshop: Workshop) -> None:
    """A record copied into the folder of another seed or model is refused by what it says of itself."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:2]})
    shutil.copyfile(
        workshop.records / INTEGRATED / "0/record.parquet", workshop.records / INTEGRATED / "1/record.parquet"
    )
    with pytest.raises(
        CorruptArtefactError, match=rf"is the record of {INTEGRATED} seed 0, not of {INTEGRATED} seed 1"
    ):
        workshop.run(models=[INTEGRATED])


@pytest.mark.parametrize(
    ("section", "changes", "told"),
    [
        ("protocol", {"noise_seed": 5}, "noise_seed 5 against 0"),
        ("cost", {"height": 96, "width": 96}, r"size of cost \(96, 96\) against \(56, 56\)"),
        ("latency", {"batch": 8}, "batch of latency 8 against 32"),
    ],
)
def test_records_of_two_protocols_are_never_joined(
    workshop: Workshop, section: str, changes: Mapping[str, Any], told: str
) -> None:
    """Figures of another noise seed, cost of another size, latency of another batch do not share a table; nothing is written."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2
    workshop.record(INTEGRATED, 0, levels)  # one without a latency stands beside any
    for model in (INTEGRATED, SEQUENTIAL):
        workshop.record(model, 1, levels, median_ms=60.0)
    part = getattr(workshop.metadata(SEQUENTIAL, 1), section)
    workshop.rewrite(SEQUENTIAL, 1, **{section: part.model_copy(update=changes)})
    with pytest.raises(CorruptArtefactError, match=rf"(?s)another protocol.*{told}"):
        workshop.run(models=[INTEGRATED, SEQUENTIAL])
    assert not (workshop.root / "results").exists()


def test_panels_of_other_levels_are_never_joined(workshop: Workshop) -> None:
    """Figure 3 has one noise level a row: a panel of other levels beside it is refused by its record's name, before anything is written."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2
    for model in (INTEGRATED, SEQUENTIAL):
        workshop.record(model, 0, levels)
    path = workshop.records / SEQUENTIAL / "0/panel.parquet"
    table, metadata = read_parquet(path, PANEL, PanelMetadata)
    other = pa.RecordBatch.from_pylist([{**table.to_pylist()[0], "sigma": 0.25}], schema=PANEL)
    write_parquet(path, with_metadata(PANEL, metadata), [other])
    with pytest.raises(
        CorruptArtefactError, match=r"(?s)another protocol.*levels of the panel \(0\.25,\) against \(0\.5,\)"
    ):
        workshop.run(models=[INTEGRATED, SEQUENTIAL])
    assert not (workshop.root / "results").exists()


def test_the_record_of_another_architecture_is_refused(workshop: Workshop) -> None:
    """A record of today's name whose net had other widths is not taken for today's net: exit 4, with the command."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    with pytest.raises(CorruptArtefactError, match=r"(?s)base=8.*against.*base=9.*dvc repro"):
        workshop.run(models=[INTEGRATED], seeds=[0], **{f"models.{INTEGRATED}.unet.base": 9})
    assert not (workshop.root / "results").exists()


@pytest.mark.parametrize("fault", ["another seed", "another model", "damaged", "missing"])
def test_a_panel_that_is_not_the_records_is_refused(workshop: Workshop, fault: str) -> None:
    """The images beside a record must be of its model and seed, in any seed's folder, before anything is written."""
    workshop.pair({model: values[:2] for model, values in BETTER.items()})
    path = workshop.records / INTEGRATED / "1/panel.parquet"
    if fault.startswith("another"):
        other = f"{INTEGRATED}/0" if fault == "another seed" else f"{SEQUENTIAL}/1"
        shutil.copyfile(workshop.records / other / "panel.parquet", path)
    elif fault == "damaged":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    with pytest.raises(
        CorruptArtefactError, match=rf"{INTEGRATED}/1/panel\.parquet (is the panel of|is damaged|does not exist)"
    ):
        workshop.run()
    assert not (workshop.root / "results").exists()


@pytest.mark.usefixtures("undrawn")
def test_models_of_one_label_are_told_apart(workshop: Workshop) -> None:
    """Two models of the same architecture bear their own names behind the label, in every row, so that each cell can be found."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:2]})
    workshop.pair({SEQUENTIAL: BETTER[SEQUENTIAL][:2]})
    twin = workshop.metadata(INTEGRATED, 0).spec
    for seed in (0, 1):
        workshop.rewrite(SEQUENTIAL, seed, spec=twin)
    changes = {f"models.{SEQUENTIAL}": twin.model_dump(mode="json")}
    results = workshop.run(models=[INTEGRATED, SEQUENTIAL], **changes)
    labels = [f"{LABELS[INTEGRATED]} ({model})" for model in (INTEGRATED, SEQUENTIAL)]
    assert list(markdown(results)) == ["noisy input", *labels]
    found = cell_map(results)
    assert len({(cell.row, cell.column) for cell in found.cells}) == len(found.cells)


def other_card(card: DeviceCard, **changes: Any) -> DeviceCard:
    """Return another device's card."""
    return card.model_copy(update=changes)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("changes", "titles"),
    [
        ({"cores": 8}, ["Test CPU (cores 2)", "Test CPU (cores 8)"]),
        ({"threads": 1}, ["Test CPU (threads 2)", "Test CPU (threads 1)"]),
        ({"name": "Another CPU"}, ["Test CPU", "Another CPU"]),
        ({"torch": "9.9"}, ["Test CPU (torch 2.14.0)", "Test CPU (torch 9.9)"]),
        ({"memory_gb": 64.0}, None),
    ],
    ids=["cores", "threads", "name", "libraries", "not another device"],
)
def test_latencies_of_two_devices_never_share_a_column(
    workshop: Workshop, card: DeviceCard, changes: Mapping[str, Any], titles: Sequence[str] | None
) -> None:
    """A device is what its fingerprint says, with its threads: two of one name have columns whose titles tell what differs."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2
    for seed, ms in ((0, 60.0), (1, 61.0)):
        workshop.record(INTEGRATED, seed, levels, median_ms=ms)
    provenance = workshop.metadata(INTEGRATED, 1).provenance
    workshop.rewrite(INTEGRATED, 1, provenance=provenance.model_copy(update={"device": other_card(card, **changes)}))
    results = workshop.run(models=[INTEGRATED])
    row = markdown(results)[LABELS[INTEGRATED]]
    found = {title: text for title, text in row.items() if title.startswith("Latency")}
    if titles is None:
        assert found == {"Latency (ms)": "60.50 [59.00, 63.00]"}
    else:
        texts = ["60.00 [59.00, 62.00]", "61.00 [60.00, 63.00]"]
        assert found == dict(zip([f"Latency (ms) on {title}" for title in titles], texts, strict=True))


@pytest.mark.usefixtures("undrawn")
def test_latencies_of_two_precisions_never_share_a_column(workshop: Workshop) -> None:
    """On one device too a pass in bf16 is another thing than one in fp32."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2
    for seed, ms in ((0, 60.0), (1, 61.0)):
        workshop.record(INTEGRATED, seed, levels, median_ms=ms)
    latency = workshop.metadata(INTEGRATED, 1).latency
    assert latency is not None
    workshop.rewrite(INTEGRATED, 1, latency=latency.model_copy(update={"precision": "bf16", "device_median_ms": 9.0}))
    row = markdown(workshop.run(models=[INTEGRATED]))[LABELS[INTEGRATED]]
    assert {title: text for title, text in row.items() if "ms) on" in title} == {
        "Latency (ms) on Test CPU (precision fp32)": "60.00 [59.00, 62.00]",
        "Latency (ms) on Test CPU (precision bf16)": "61.00 [60.00, 63.00]",
        "Device time (ms) on Test CPU (precision bf16)": "9.00 [9.00, 9.00]",
    }


def test_the_fingerprint_is_that_of_the_latency_profiles(card: DeviceCard) -> None:
    """Both tell devices apart in the same way."""
    for one in (card, other_card(card, uuid="GPU-1"), other_card(card, threads=1)):
        assert one.fingerprint == fingerprint(one)


def test_the_papers_figures_must_be_there(workshop: Workshop, tmp_path: Path) -> None:
    """Without the reference file the stage ends with exit 2 and says how to get it back."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    workshop.reference = tmp_path / "nowhere.csv"
    with pytest.raises(BadInputError, match=r"(?s)nowhere\.csv does not exist.*git checkout"):
        workshop.run(models=[INTEGRATED])


@pytest.mark.usefixtures("without_panel", "one_theme")
def test_a_noisy_latency_cannot_be_overlooked(workshop: Workshop) -> None:
    """Its cell bears a dagger in the printed table, the page and the cell map; below stands why. A quiet model's bears none."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2
    reasons = ["fewer than 5 samples accepted", "other programs took processor time"]
    workshop.record(INTEGRATED, 0, levels, median_ms=50.0, noise=reasons[:1])
    workshop.record(INTEGRATED, 1, levels, median_ms=51.0, noise=reasons)
    workshop.record(SEQUENTIAL, 0, levels, median_ms=80.0)
    results = workshop.run(models=[INTEGRATED, SEQUENTIAL])
    page, text = (results / "index.html").read_text(), (results / "table_1.md").read_text()
    assert markdown(results)[LABELS[INTEGRATED]]["Latency (ms)"] == "50.50 [49.00, 53.00] †"
    assert markdown(results)[LABELS[SEQUENTIAL]]["Latency (ms)"] == "80.00 [79.00, 82.00]"
    assert "<td class=''>50.50 [49.00, 53.00] †</td>" in page
    for form in (page, text):
        assert f"† Noisy, not to be relied on: {'; '.join(reasons)}." in form
    for cell in cell_map(results).cells:
        assert derive(cell, confidence=0.95, root=Path()).text == cell.text
    assert float(rows(results)[1]["latency_ms"]) == 50.5


@pytest.mark.usefixtures("undrawn")
def test_the_notes_say_of_how_many_passes_a_latency_is(workshop: Workshop) -> None:
    """Accepted and taken passes stand there seed by seed, and for how many latencies nobody told what others took."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2
    for seed, counts in enumerate(({"raw": 15, "kept": 3, "others_pct": 1.0}, {"raw": 5, "kept": 5}, {})):
        workshop.record(INTEGRATED, seed, levels, median_ms=60.0)
        latency = workshop.metadata(INTEGRATED, seed).latency
        assert latency is not None
        workshop.rewrite(INTEGRATED, seed, latency=latency.model_copy(update=counts))
    text = (workshop.run(models=[INTEGRATED], seeds=(0, 1, 2)) / "table_1.md").read_text()
    assert f"seed by seed: {LABELS[INTEGRATED]} 3/15, 5/5, 10 unjudged\n" in text
    assert "was not told for 2 of 3 latencies" in text


def test_without_noise_no_dagger_is_explained(results: Path) -> None:
    """Where every record believes its latency, neither table nor page speaks of a mark."""
    for name in ("table_1.md", "table_7.md", "index.html"):
        assert "†" not in (results / name).read_text()


def test_the_papers_columns_are_the_papers_own(results: Path) -> None:
    """Beside each joint model stand the figures that Table 1 prints for it, in columns of their own, never marked."""
    printed = markdown(results)
    paper = {
        title.removeprefix("paper "): text
        for title, text in printed[LABELS[INTEGRATED]].items()
        if title.startswith("paper ")
    }
    assert paper == {"MACs (M)": "51.2", "lat. (ms)": "2.41", "PSNR (dB)": "29.9", "SSIM": "0.97", "top-1 (%)": "86.2"}
    assert printed[LABELS[SEQUENTIAL]]["paper PSNR (dB)"] == "25.2"


def test_every_row_names_its_sources(results: Path) -> None:
    """The last column leads to the records, seed by seed."""
    for table in TABLES:
        for label, row in markdown(results, table).items():
            if label != "noisy input":
                assert row["source"].endswith("/{0,1}/record.parquet"), label


def test_every_printed_cell_can_be_derived_again(results: Path) -> None:
    """The cell map holds what is printed, the sources with their hashes, and a rule that gives the same text."""
    for table in TABLES:
        found, printed = cell_map(results, table), markdown(results, table)
        assert len(found.cells) > 5
        for cell in found.cells:
            assert printed[cell.row][cell.column].strip("*") == cell.text
            assert derive(cell, confidence=found.confidence, root=Path()).text == cell.text
        assert all(sha256_of(Path(path)) == digest for path, digest in found.source_sha256.items())
        assert {source for cell in found.cells for source in cell.sources} == set(found.source_sha256)


def test_metrics_are_the_tables_numbers(results: Path) -> None:
    """What `dvc metrics` shows is what the tables print, at full precision, model by model."""
    metrics = json.loads((results / "metrics.json").read_text())
    assert set(metrics) == set(MODELS)
    assert metrics[INTEGRATED]["psnr_db"] == pytest.approx(float(rows(results)[1]["psnr_db"]))
    assert metrics["unet_s"] == {
        "macs_m": 2.5,
        "parameters": 12345.0,
        "psnr_db": 38.5,
        "psnr_db_without_sigma_0": 38.5,
        "psnr_pooled_db": 37.0,
        "ssim": pytest.approx(0.8),
        "epochs": 3.0,
    }
    assert metrics[INTEGRATED]["latency_ms"] == 60.5


def test_pooled_psnr_stands_beside_the_mean(results: Path) -> None:
    """In print, CSV and Parquet; the noisy input has none of its own."""
    assert markdown(results, "table_7")["UNet-S"]["PSNR, pooled (dB)"] == "37.00 ± 0.00"
    assert markdown(results, "table_7")["noisy input"]["PSNR, pooled (dB)"] == "–"
    assert float(rows(results, "table_7")[1]["psnr_pooled_db"]) == 37.0
    assert pq.read_table(results / "table_7.parquet").to_pylist()[1]["psnr_pooled_db"] == 37.0


def test_classifiers_have_a_column_without_noise(results: Path) -> None:
    """Whatever digits it was trained on, a classifier is scored at all levels; what it does on clean ones stands beside that."""
    row = markdown(results, "table_8")["Conv trained on noisy digits"]
    assert (row["Top-1 (%)"], row["Top-1, σ=0 (%)"]) == ("70.5 ± 6.4", "95.5 ± 6.4")
    assert float(rows(results, "table_8")[0]["top1_pct_at_sigma_0"]) == 95.5
    assert "accuracy at σ = 0 alone" in (results / "table_8.md").read_text()
    assert "Top-1, σ=0 (%)" not in markdown(results)[LABELS[INTEGRATED]]


def test_the_noisy_input_is_drawn_where_it_is_finite(kinds: Workshop, tiny_params: Callable[..., Params]) -> None:
    """Its PSNR is unbounded without noise: the dotted line begins at the first level above; its SSIM has every level."""
    run = read_runs(tiny_params({"runs.seeds": [0], "runs.models": [INTEGRATED]}), kinds.records)[0]
    assert [list(values) for values in noisy_curve(run, "psnr_db")] == [[0.5], [12.0]]
    assert [list(values) for values in noisy_curve(run, "ssim")] == [[0.0, 0.5], [1.0, 0.3]]


def test_curves_have_a_column_for_each_model(results: Path) -> None:
    """One CSV a quantity: a row a level, the mean over seeds, empty where the model lacks the task."""
    with (results / "curves/psnr_db.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["sigma"] for line in lines] == ["0.0", "0.5"]
    assert [float(line["unet_s"]) for line in lines] == [38.5, 38.5]
    assert {line["classifier_conv_noisy"] for line in lines} == {""}
    assert list(lines[0]) == ["sigma", *MODELS]


def test_the_page_needs_nothing_but_itself(results: Path) -> None:
    """Tables, figures for light and dark, card and protocol stand in one file that loads nothing from elsewhere."""
    page = (results / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script" not in page
    assert page.count("<svg class=figure") == 1
    assert page.count("data:image/png;base64,") == 2 + 3  # clean and noisy, three models that restore
    for words in ("prefers-color-scheme: dark", "Test CPU", "UNet-S", "11x11 Gaussian window", "Table 8", "29.9"):
        assert words in page


def test_the_page_leads_to_the_one_on_photos(results: Path) -> None:
    """Above everything stands a line with both pages: this one named, the other a link to the file beside it."""
    page = (results / "index.html").read_text()
    assert page.index("<nav>") < page.index("<h1>")
    assert '<a href="photos.html">' in page
    assert page.count("<nav>") == page.count("aria-current=page") == 1
    assert "index.html" not in page


def test_seeds_stand_in_their_order(provenance: Callable[..., Provenance]) -> None:
    """Seed 10 comes behind seed 9, not behind seed 1; a stage without a seed has none to name."""
    records = [provenance(seed=seed) for seed in (10, 9, 1)]
    records.append(records[0].model_copy(update={"seed": None}))
    assert dict(provenance_items(records, "table_1"))["seeds"] == "1, 9, 10"


@pytest.mark.usefixtures("undrawn")
def test_a_noisy_latency_is_told_in_the_data_forms(workshop: Workshop) -> None:
    """Who reads CSV or Parquet sees no dagger: a column beside the latency says which are noisy, and is empty where there is none."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9}] * 2
    workshop.record("unet_s", 0, levels, median_ms=60.0, noise=("throttled",))
    workshop.record("unet_baseline", 0, levels, median_ms=90.0)
    results = workshop.run(models=["unet_s", "unet_baseline"])
    found = {row["model"]: row["latency_ms_noisy"] for row in rows(results, "table_7")}
    assert found == {"noisy input": "", "UNet-S": "True", "UNet": "False"}
    typed = pq.read_table(results / "table_7.parquet")["latency_ms_noisy"].to_pylist()
    assert typed == [None, True, False]


def notes(results: Path, table: str) -> str:
    """Return what stands under a printed table."""
    return (results / f"{table}.md").read_text().rpartition("|\n")[2]


def test_device_and_protocol_stand_under_every_table(results: Path) -> None:
    """The notes name device, noise levels and interval, from the records themselves."""
    for table in TABLES:
        for words in ("Test CPU", "σ in 0, 0.5", "not clipped", "95%", "Preset smoke."):
            assert words in notes(results, table), words


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ("per-image PSNR", {"table_1", "table_7"}),
        ("sigma 1.5", {"table_1", "table_7"}),
        ("Pooled PSNR", {"table_1", "table_7"}),
        ("The paper's columns", {"table_1"}),
        ("marked better", {"table_1"}),
        ("with one of its two digits classified", {"table_1", "table_8"}),
        ("both digits of each classified", {"table_1"}),
        ("timed passes accepted", {"table_1"}),
        ("Latency: not measured", {"table_7", "table_8"}),
        ("accuracy at σ = 0 alone", {"table_8"}),
        ("the device is not stated", {"table_1"}),
        ("likely are (derived)", {"table_1", "table_8"}),
    ],
)
def test_notes_speak_of_what_is_in_their_table(results: Path, words: str, where: set[str]) -> None:
    """A table without PSNR, marks, paper's columns or latency has no word on them below it."""
    assert {table for table in TABLES if words in notes(results, table)} == where


@pytest.mark.usefixtures("undrawn")
def test_sizes_and_what_is_unlike_the_paper_stand_there(workshop: Workshop) -> None:
    """Scenes' size and count and the epochs are those of the records; a size of cost that differs is told beside it."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    cost = workshop.metadata(INTEGRATED, 0).cost
    workshop.rewrite(INTEGRATED, 0, cost=cost.model_copy(update={"height": 96, "width": 96}), epochs=7)
    text = notes(workshop.run(models=[INTEGRATED], seeds=[0]), "table_1")
    assert "quality is of 5 scenes of 56x56 pixels, while cost and latency are of 96x96 pixels." in text
    unlike = text[text.index("Unlike the paper") :]
    for words in (
        "56x56 pixels (paper: likely 96x96)",
        "25 scenes in all (paper: 30,000)",
        "optdigits",
        "7 epochs",
        "2 noise",
    ):
        assert words in unlike, words


@pytest.mark.parametrize(
    ("numbers", "thing", "text"),
    [
        ([1], "photo of 8x8 pixels", "1 photo of 8x8 pixels"),
        ([32, 1], "scene, both digits of each", "1 or 32 scenes, both digits of each"),
        ([1, 1], "class", "1 class"),
        ([2], "class", "2 classes"),
        ([3], "search", "3 searches"),
        ([2], "epoch", "2 epochs"),
        ([0], "noise level", "0 noise levels"),
    ],
)
def test_one_thing_is_no_plural(numbers: Sequence[int], thing: str, text: str) -> None:
    """What is counted stands in the singular behind 1 alone."""
    assert counted(numbers, thing) == text


@pytest.mark.parametrize(("share", "text"), [(0.95, "95%"), (0.975, "97.5%"), (0.999, "99.9%"), (0.57, "57%")])
def test_no_digit_of_a_confidence_is_rounded_away(share: float, text: str) -> None:
    """0.975 is 97.5%, not 98%."""
    assert percent(share) == text


@pytest.mark.usefixtures("without_panel", "one_theme")
def test_a_table_without_models_says_so(workshop: Workshop) -> None:
    """Where no denoiser and no classifier runs, their tables stand there empty with a word why."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    results = workshop.run(models=[INTEGRATED], seeds=[0])
    for table in ("table_7", "table_8"):
        assert "No model of this kind is in runs.models" in (results / f"{table}.md").read_text()
        assert rows(results, table) == []


@pytest.mark.usefixtures("one_theme")
def test_classifiers_alone_make_a_table(workshop: Workshop) -> None:
    """Where nothing restores, there is no noisy row and no panel to draw, and the stage ends well."""
    workshop.record("classifier_conv_noisy", 0, [{"top1_pct": 70.0}] * 2)
    results = workshop.run(models=["classifier_conv_noisy"], seeds=[0])
    assert list(markdown(results, "table_8")) == ["Conv trained on noisy digits"]
    assert "No model that restores" in (results / "index.html").read_text()
    assert markdown(results, "table_1") == {}


@pytest.mark.usefixtures("one_theme")
@pytest.mark.parametrize("missing", [INTEGRATED, "unet_s"])
def test_a_model_without_any_record_takes_nothing_from_the_others(workshop: Workshop, missing: str) -> None:
    """The first or a later model having failed, the others' rows, the noisy input's and the figures are there."""
    workshop.all_kinds()
    shutil.rmtree(workshop.records / missing)
    results = workshop.run()
    assert markdown(results)[LABELS[SEQUENTIAL]]["Seeds"] == "2/2"
    assert "noisy input" in markdown(results)
    assert (results / "index.html").is_file()


def test_the_command_writes_the_same(
    workshop: Workshop,
    tmp_path: Path,
    write_params: Callable[..., Path],
    python: Callable[..., subprocess.CompletedProcess[str]],
    in_process: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Run as a module it exits 0 and writes what the function writes; with no record it exits 4."""
    params = write_params(tmp_path / "params.yaml", {"runs.seeds": [0], "runs.models": [INTEGRATED]})
    words = (
        "--params",
        params,
        "--records",
        workshop.records,
        "--reference",
        workshop.reference,
        "--scratch",
        tmp_path / "scratch",
    )
    refused = in_process(main, *words, "--out", tmp_path / "command")
    assert (refused.returncode, "Traceback" in refused.stderr) == (4, False), refused.stderr
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    done = python("-m", "dcnas_tabulate", *words, "--out", tmp_path / "command")
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "command") == hashes(workshop.run(models=[INTEGRATED], seeds=[0]))
