"""The pipeline stage tabulate: the same records give the same bytes, missing runs show, and only what is beyond its interval is marked."""

import csv
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from scipy import stats

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_lineage.cells import derive
from dcnas_schema.cells import CellMap
from dcnas_schema.params import Params
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.records import RECORD, EvaluationMetadata
from dcnas_tabulate.job import tabulate

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
                INTEGRATED, seed, [{"psnr_db": 40.0 + seed, "ssim": 0.9, "top1_pct": 90.0}] * 2, median_ms=5.0 + seed
            )
            self.record("unet_s", seed, [{"psnr_db": 38.0 + seed, "ssim": 0.8}] * 2)
            self.record("classifier_conv_noisy", seed, [{"top1_pct": 70.0 + seed}] * 2)

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


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
    project: Path,
    write_record: Callable[..., EvaluationMetadata],
    tiny_params: Callable[..., Params],
) -> Path:
    """The results of two seeds of every kind of model; tests leave them as they are."""
    workshop = Workshop(tmp_path_factory.mktemp("all kinds"), project, write_record, tiny_params)
    workshop.all_kinds()
    return workshop.run()


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


def test_the_same_records_give_the_same_bytes(workshop: Workshop) -> None:
    """Tables in four forms, figures, curves, metrics and page: every file repeats to the last byte."""
    workshop.all_kinds()
    first, again = hashes(workshop.run("a")), hashes(workshop.run("b"))
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
    }
    assert set(first) == wanted


def test_each_model_stands_in_the_table_of_its_kind(results: Path) -> None:
    """Joint models in Table 1, denoisers in Table 7, classifiers in Table 8; the noisy input heads what restores."""
    assert [list(markdown(results, table)) for table in TABLES] == [
        ["noisy input", "DC-Net reduced integrated", "DC-Net reduced sequential"],
        ["noisy input", "UNet-S"],
        ["Conv on noisy digits"],
    ]


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


def test_a_missing_seed_shows(workshop: Workshop) -> None:
    """With one of two seeds there, the count says 1/2 and the cell has no interval; a model with none says 0/2."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    printed = markdown(workshop.run(models=[INTEGRATED, SEQUENTIAL]))
    assert printed[LABELS[INTEGRATED]]["Seeds"] == "1/2"
    assert printed[LABELS[INTEGRATED]]["PSNR (dB)"] == "30.00"
    assert (printed[LABELS[SEQUENTIAL]]["Seeds"], printed[LABELS[SEQUENTIAL]]["PSNR (dB)"]) == ("0/2", "–")


def test_better_is_marked_only_beyond_the_paired_interval(workshop: Workshop) -> None:
    """A difference that every seed shows is marked though the seeds themselves overlap; equal figures are not."""
    workshop.pair(BETTER)
    printed = markdown(workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL]))
    assert printed[LABELS[INTEGRATED]]["PSNR (dB)"].startswith("**")
    assert not printed[LABELS[SEQUENTIAL]]["PSNR (dB)"].startswith("**")
    for label in LABELS.values():
        for column in ("Top-1 (%)", "SSIM", "MACs (M)"):
            assert not printed[label][column].startswith("**")


def test_the_other_one_is_marked_where_it_is_better(workshop: Workshop) -> None:
    """The mark follows the figures, not the order of the rows."""
    workshop.pair({INTEGRATED: BETTER[SEQUENTIAL], SEQUENTIAL: BETTER[INTEGRATED]})
    printed = markdown(workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL]))
    assert printed[LABELS[SEQUENTIAL]]["PSNR (dB)"].startswith("**")
    assert not printed[LABELS[INTEGRATED]]["PSNR (dB)"].startswith("**")


@pytest.mark.parametrize(
    ("integrated", "sequential"),
    [
        ([(40.0, 20.0), (45.0, 25.0), (35.0, 15.0)], [(39.0, 19.0), (46.0, 26.0), (33.0, 13.0)]),
        ([(40.0, 20.0)], [(30.0, 10.0)]),
        ([(40.0, 20.0), (45.0, 25.0), (35.0, 15.2)], [(39.0, 19.0), (44.1, 24.0)]),
    ],
    ids=["inside the interval", "one seed", "other seeds"],
)
def test_nothing_is_marked_without_evidence(workshop: Workshop, integrated: Any, sequential: Any) -> None:
    """A difference inside its interval, of one seed, or between runs of different seeds marks neither."""
    workshop.pair({INTEGRATED: integrated, SEQUENTIAL: sequential})
    printed = markdown(workshop.run(seeds=(0, 1, 2), models=[INTEGRATED, SEQUENTIAL]))
    assert not any("**" in text for row in printed.values() for text in row.values())


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


def test_records_of_two_protocols_are_never_joined(
    workshop: Workshop, write_record: Callable[..., EvaluationMetadata]
) -> None:
    """Figures of other noise levels or seeds do not share a table."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:2]})
    folder = workshop.records / INTEGRATED / "1"
    metadata = write_record(folder, INTEGRATED, 1, levels=[{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2)
    other = metadata.model_copy(update={"protocol": metadata.protocol.model_copy(update={"noise_seed": 5})})
    write_parquet(
        folder / "record.parquet", with_metadata(RECORD, other), pq.read_table(folder / "record.parquet").to_batches()
    )
    with pytest.raises(CorruptArtefactError, match=r"(?s)another protocol.*noise_seed=5"):
        workshop.run(models=[INTEGRATED])


def test_the_papers_figures_must_be_there(workshop: Workshop, tmp_path: Path) -> None:
    """Without the reference file the stage ends with exit 2 and says how to get it back."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    workshop.reference = tmp_path / "nowhere.csv"
    with pytest.raises(BadInputError, match=r"(?s)nowhere\.csv does not exist.*git checkout"):
        workshop.run(models=[INTEGRATED])


def test_a_noisy_latency_cannot_be_overlooked(workshop: Workshop) -> None:
    """Its cell bears a dagger in the printed table, the page and the cell map; below stands why. A quiet model's bears none."""
    levels = [{"psnr_db": 40.0, "ssim": 0.9, "top1_pct": 90.0}] * 2
    reasons = ["fewer than 5 samples accepted", "other programs took processor time"]
    workshop.record(INTEGRATED, 0, levels, median_ms=5.0, noise=reasons[:1])
    workshop.record(INTEGRATED, 1, levels, median_ms=7.0, noise=reasons)
    workshop.record(SEQUENTIAL, 0, levels, median_ms=8.0)
    results = workshop.run(models=[INTEGRATED, SEQUENTIAL])
    page, text = (results / "index.html").read_text(), (results / "table_1.md").read_text()
    assert markdown(results)[LABELS[INTEGRATED]]["Latency (ms)"] == "6.00 [5.00, 8.00] †"
    assert markdown(results)[LABELS[SEQUENTIAL]]["Latency (ms)"] == "8.00 [7.00, 10.00]"
    assert "<td class=''>6.00 [5.00, 8.00] †</td>" in page
    for form in (page, text):
        assert f"† Noisy: the device was not left alone while this latency was timed ({'; '.join(reasons)})." in form
    for cell in cell_map(results).cells:
        assert derive(cell, confidence=0.95, root=Path()).text == cell.text
    assert float(rows(results)[1]["latency_ms"]) == 6.0


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
        "ssim": pytest.approx(0.8),
        "epochs": 3.0,
    }
    assert metrics[INTEGRATED]["latency_ms"] == 5.5


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
    assert page.count("data:image/svg+xml;base64,") == page.count("data:image/png;base64,") == 2
    for words in ("prefers-color-scheme: dark", "Test CPU", "UNet-S", "11x11 Gaussian window", "Table 8", "29.9"):
        assert words in page


def test_device_and_protocol_stand_under_every_table(results: Path) -> None:
    """The notes name device, noise levels and the definitions of PSNR and SSIM, from the records themselves."""
    for table in TABLES:
        text = (results / f"{table}.md").read_text()
        for words in ("Test CPU", "σ in 0, 0.5", "not clipped", "per-image PSNR", "sigma 1.5", "95%"):
            assert words in text, words


def test_a_table_without_models_says_so(workshop: Workshop) -> None:
    """Where no denoiser and no classifier runs, their tables stand there empty with a word why."""
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    results = workshop.run(models=[INTEGRATED], seeds=[0])
    for table in ("table_7", "table_8"):
        assert "No model of this kind is in runs.models" in (results / f"{table}.md").read_text()
        assert rows(results, table) == []


def test_classifiers_alone_make_a_table(workshop: Workshop) -> None:
    """Where nothing restores, there is no noisy row and no panel to draw, and the stage ends well."""
    workshop.record("classifier_conv_noisy", 0, [{"top1_pct": 70.0}] * 2)
    results = workshop.run(models=["classifier_conv_noisy"], seeds=[0])
    assert list(markdown(results, "table_8")) == ["Conv on noisy digits"]
    assert markdown(results, "table_1") == {}


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
    refused = python("-m", "dcnas_tabulate", *words, "--out", tmp_path / "command")
    assert (refused.returncode, "Traceback" in refused.stderr) == (4, False), refused.stderr
    workshop.pair({INTEGRATED: BETTER[INTEGRATED][:1]})
    done = python("-m", "dcnas_tabulate", *words, "--out", tmp_path / "command")
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "command") == hashes(workshop.run(models=[INTEGRATED], seeds=[0]))
