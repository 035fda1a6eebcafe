"""From records to the text of a cell: each rule on records made by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_lineage.audit import find_cells
from dcnas_lineage.cells import (
    NOTHING,
    Derived,
    derive,
    half_width,
    latencies_of,
    latency_doubts,
    mean_with_interval,
    paired_interval_excludes_zero,
    seed_values,
)
from dcnas_schema.cells import Cell, CellMap
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.records import RECORD, EvaluationMetadata

WriteRecord = Callable[..., EvaluationMetadata]
MODEL = "dcnet_reduced_integrated"
PSNR = ((40.0, 20.1), (44.0, 20.5), (42.0, 21.3))
"""PSNR of three seeds at sigma 0 and 0.5."""


@pytest.fixture
def root(tmp_path: Path, write_record: WriteRecord) -> Path:
    """A folder with the records of three seeds, timed at 5, 9 and 6 ms, the third with one level more expensive to restore."""
    for seed, ((clean, noisy), median) in enumerate(zip(PSNR, (5.0, 9.0, 6.0), strict=True)):
        levels = [{"psnr_db": clean, "top1_pct": 90.0}, {"psnr_db": noisy, "top1_pct": 50.0 + seed}]
        write_record(tmp_path / f"data/{MODEL}/{seed}", MODEL, seed, levels=levels, median_ms=median)
    write_record(tmp_path / "data/unet_s/0", "unet_s", 0, levels=[{"psnr_db": 30.0}, {"psnr_db": 20.0}])
    return tmp_path


def source(seed: int, model: str = MODEL) -> str:
    """Return the path of a record."""
    return f"data/{model}/{seed}/record.parquet"


def cell(reducer: str, pointer: str = "", seeds: tuple[int, ...] = (0, 1, 2), **changes: Any) -> Cell:
    """Return a cell whose text is not yet derived."""
    fields = {"row": "r", "column": "c", "text": "", "decimals": 2, "sources": tuple(source(seed) for seed in seeds)}
    return Cell.model_validate({**fields, "reducer": reducer, "pointer": pointer, **changes})


def derived(root: Path, cell: Cell) -> Derived:
    """Derive a cell at 95 %."""
    return derive(cell, confidence=0.95, root=root)


def test_a_mean_over_seeds_carries_students_interval(root: Path) -> None:
    """The cell is the mean over seeds of the mean over levels; its interval is scipy's t interval of these."""
    values = [(clean + noisy) / 2 for clean, noisy in PSNR]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    found = derived(root, cell("mean_ci", "psnr_db"))
    assert found.value == pytest.approx(np.mean(values), abs=1e-12)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert found.text == f"{np.mean(values):.2f} ± {(high - low) / 2:.2f}"


def test_sigma_zero_can_be_left_out(root: Path) -> None:
    """The mean without the noiseless level takes the others alone."""
    found = derived(root, cell("mean_ci", "psnr_db", skip_sigma_zero=True))
    assert found.value == pytest.approx((20.1 + 20.5 + 21.3) / 3)


def test_sigma_zero_can_stand_alone(root: Path) -> None:
    """The noiseless level by itself; a record without it gives nothing, not a mean of no values."""
    found = derived(root, cell("mean_ci", "psnr_db", only_sigma_zero=True))
    assert found.value == pytest.approx((40.0 + 44.0 + 42.0) / 3)


def test_a_level_that_was_not_scored_gives_nothing(root: Path, write_record: WriteRecord) -> None:
    """Where the noiseless level is the only one, the mean above it is a dash."""
    write_record(root / "clean", MODEL, 0, levels=[{"psnr_db": 40.0}])
    found = derived(root, cell("mean_ci", "psnr_db", sources=("clean/record.parquet",), skip_sigma_zero=True))
    assert (found.text, found.value) == (NOTHING, None)


def test_two_seeds_have_the_wide_interval_of_one_degree_of_freedom(root: Path) -> None:
    """For n = 2 the half-width is 12.706 times half the difference, rounded as the column says."""
    found = derived(root, cell("mean_ci", "top1_pct", seeds=(0, 1), decimals=1))
    assert found.text == f"70.2 ± {12.7062 * 0.25:.1f}"


def test_one_seed_has_no_interval(root: Path) -> None:
    """A single value is printed alone: no spread is invented."""
    found = derived(root, cell("mean_ci", "psnr_db", seeds=(1,)))
    assert (found.text, found.value, found.low, found.high) == ("32.25", 32.25, None, None)


@pytest.mark.parametrize("pointer", ["top1_pct", "ssim"])
def test_a_task_that_the_model_lacks_gives_nothing(root: Path, pointer: str) -> None:
    """A column of nulls is a dash, not zero or NaN."""
    found = derived(root, cell("mean_ci", pointer, sources=(source(0, "unet_s"),)))
    assert (found.text, found.value) == (NOTHING, None)


def test_no_source_gives_nothing(root: Path) -> None:
    """A model none of whose seeds is there has dashes, and its count says 0."""
    for reducer, pointer in (("mean_ci", "psnr_db"), ("value", "macs_m"), ("median_spread", "")):
        assert derived(root, cell(reducer, pointer, seeds=())).text == NOTHING
    assert derived(root, cell("count", "3", seeds=())).text == "0/3"


def test_a_missing_seed_is_counted(root: Path) -> None:
    """The count says how many of the wanted seeds are there."""
    found = derived(root, cell("count", "3", seeds=(0, 2)))
    assert (found.text, found.value) == ("2/3", 2.0)


@pytest.mark.parametrize(
    ("pointer", "decimals", "text"),
    [("macs_m", 1, "2.5"), ("parameters", 0, "12345"), ("epochs", 0, "3")],
)
def test_a_value_is_read_from_the_records_metadata(root: Path, pointer: str, decimals: int, text: str) -> None:
    """Cost and epochs come from what the records say of themselves."""
    assert derived(root, cell("value", pointer, decimals=decimals)).text == text


def test_a_value_on_which_records_disagree_shows_both(root: Path, write_record: WriteRecord) -> None:
    """Of records trained for 3 and for 7 epochs the cell prints both, and has no value."""
    metadata = write_record(root / "other", MODEL, 0, levels=[{}])
    longer = metadata.model_copy(update={"epochs": 7})
    write_parquet(root / "other/record.parquet", with_metadata(RECORD, longer), [])
    found = derived(root, cell("value", "epochs", sources=(source(0), "other/record.parquet"), decimals=0))
    assert (found.text, found.value) == ("3 / 7", None)


def test_no_digit_of_a_disputed_value_is_rounded_away(root: Path, write_record: WriteRecord) -> None:
    """Two counts of a million parameters that differ in the last digit are printed in full, as each alone would be."""
    metadata = write_record(root / "other", MODEL, 0, levels=[{}])
    paths = []
    for count in (1_946_493, 1_946_494):
        changed = metadata.model_copy(update={"cost": metadata.cost.model_copy(update={"parameters": count})})
        write_parquet(root / f"{count}/record.parquet", with_metadata(RECORD, changed), [])
        paths.append(f"{count}/record.parquet")
    assert derived(root, cell("value", "parameters", sources=tuple(paths), decimals=0)).text == "1946493 / 1946494"


def test_a_score_that_is_no_number_is_never_left_out_of_a_mean(root: Path, write_record: WriteRecord) -> None:
    """A seed whose PSNR is NaN stops the table by the record's name, where the mean of the other seeds would pass for that of all."""
    write_record(root / f"data/{MODEL}/3", MODEL, 3, levels=[{"psnr_db": 40.0}, {"psnr_db": float("nan")}])
    with pytest.raises(CorruptArtefactError, match=r"3/record\.parquet.*psnr_db"):
        derived(root, cell("mean_ci", "psnr_db", seeds=(0, 3)))


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("r,Top-1, σ=0", "Top-1, σ=0 (%)"),
        ("r,Latency (ms) on A", "Latency (ms) on A"),
        ("a (b),Seeds", "Seeds"),
        ("r,Predicted (ms)", "Predicted (ms)"),
    ],
)
def test_a_cell_is_found_by_its_name_without_the_unit(name: str, column: str) -> None:
    """Row and column name a cell, the unit in parentheses may be left out; parentheses of the row stay."""
    columns = [("r", c) for c in ("Latency (ms) on A", "Latency (ms) on B", "Predicted (ms)", "Top-1, σ=0 (%)")]
    cells = tuple(cell("label", row=row, column=title) for row, title in [*columns, ("a (b)", "Seeds")])
    cell_map = CellMap(table="t", confidence=0.95, cells=cells, source_sha256={})
    assert [one.column for one in find_cells(cell_map, name)] == [column]


def test_a_name_that_could_be_two_cells_is_refused() -> None:
    """Latencies of two devices have one name without what stands in and behind the parentheses: the error names both."""
    cells = tuple(cell("label", column=f"Latency (ms) on {device}") for device in "AB")
    cell_map = CellMap(table="t", confidence=0.95, cells=cells, source_sha256={})
    with pytest.raises(BadInputError, match=r"Latency \(ms\) on A.*Latency \(ms\) on B"):
        find_cells(cell_map, "r,Latency")


def timed(root: Path, *medians: float) -> Derived:
    """Derive the latency of a net timed once a seed; its records' percentiles are 1 ms below and 2 ms above the median."""
    return derived(root, cell("median_spread", sources=tuple(f"timed/{ms}/record.parquet" for ms in medians)))


@pytest.fixture
def write_timed(tmp_path: Path, write_record: WriteRecord) -> Callable[..., None]:
    """A function that writes a record of each median that `timed` asks for."""

    def write(*medians: float, noise: tuple[str, ...] = ()) -> None:
        for ms in medians:
            write_record(tmp_path / f"timed/{ms}", MODEL, 0, levels=[{"psnr_db": 40.0}], median_ms=ms, noise=noise)

    return write


def test_latency_is_the_median_with_what_any_seed_spread(root: Path, write_timed: Callable[..., None]) -> None:
    """The median of the medians stands between the least 5th and the greatest 95th percentile: every seed's own are inside."""
    write_timed(60.0, 61.0, 62.5)
    found = timed(root, 60.0, 62.5, 61.0)
    assert (found.text, found.value, found.low, found.high) == ("61.00 [59.00, 64.50]", 61.0, 59.0, 64.5)


@pytest.mark.parametrize(("medians", "doubted"), [((100.0, 104.9), False), ((100.0, 105.1), True), ((100.0,), False)])
def test_seeds_of_one_net_that_lie_apart_are_doubted(
    root: Path, write_timed: Callable[..., None], medians: tuple[float, ...], doubted: bool
) -> None:
    """The seed changes no work: medians more than 5 % apart put a dagger behind the cell, with a reason of their own."""
    write_timed(*medians)
    assert timed(root, *medians).text.endswith("†") == doubted
    reasons = latency_doubts(latencies_of([f"timed/{ms}/record.parquet" for ms in medians], root))
    assert reasons == (["seeds of one net differ by more than 5 %"] if doubted else [])


def test_two_far_medians_do_not_make_an_interval_without_a_pass(root: Path, write_timed: Callable[..., None]) -> None:
    """Records around 20 ms and 27 ms print an interval that holds both, marked, not one between them that no pass lies in."""
    write_timed(20.0, 27.0)
    assert timed(root, 20.0, 27.0).text == "23.50 [19.00, 29.00] †"


def test_a_noisy_latency_is_marked(root: Path, write_timed: Callable[..., None]) -> None:
    """One seed of three whose record does not believe its own latency puts a dagger behind the cell; the numbers stay."""
    write_timed(60.0, 61.0)
    write_timed(62.0, noise=("other programs took processor time",))
    assert timed(root, 60.0, 61.0, 62.0).text == "61.00 [59.00, 64.00] †"


def test_latency_that_was_not_measured_gives_nothing(root: Path) -> None:
    """A record without timing has a dash."""
    assert derived(root, cell("median_spread", sources=(source(0, "unet_s"),))).text == NOTHING


def test_a_label_is_repeated(root: Path) -> None:
    """The row's own name is its first cell."""
    assert derived(root, cell("label", "UNet-S")).text == "UNet-S"


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        (("a/0/r.parquet",), "a/0/r.parquet"),
        (("a/0/r.parquet", "a/1/r.parquet"), "a/{0,1}/r.parquet"),
        (("a/0/r.parquet", "b/1/r.parquet"), "a/0/r.parquet b/1/r.parquet"),
        (("a/r.parquet", "a/b/r.parquet"), "a/r.parquet a/b/r.parquet"),
        ((), ""),
    ],
)
def test_sources_are_written_as_the_shell_would(root: Path, sources: tuple[str, ...], text: str) -> None:
    """Paths that differ in one folder are folded, others are listed."""
    assert derived(root, cell("paths", sources=sources)).text == text


def test_the_papers_figure_is_copied_as_printed(root: Path) -> None:
    """A reference cell is the CSV's own text, with its digits; an empty field or an unknown row is a dash."""
    (root / "paper.csv").write_text("table,model,variant,psnr_db,ssim\n1,DC-Net,integrated,32.80,\n")
    for pointer, text, value in (
        ("1,DC-Net,integrated,psnr_db", "32.80", 32.8),
        ("1,DC-Net,integrated,ssim", NOTHING, None),
        ("1,DC-Net,sequential,psnr_db", NOTHING, None),
    ):
        found = derived(root, cell("reference", pointer, sources=("paper.csv",)))
        assert (found.text, found.value) == (text, value)


def test_seed_values_stand_in_the_order_of_the_sources(root: Path) -> None:
    """The pairs of a comparison are pairs of seeds."""
    assert seed_values(cell("mean_ci", "psnr_db", seeds=(2, 0)), root) == pytest.approx([31.65, 30.05])


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("values", [[1.0, 2.0], [3.0, 3.5, 2.9, 10.0], [1e-3, 2e-3, -1e-3]])
def test_the_interval_is_scipys(values: list[float], confidence: float) -> None:
    """At every level the half-width is that of `scipy.stats.t.interval`."""
    low, high = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert half_width(values, confidence) == pytest.approx((high - low) / 2, rel=1e-9)
    found = mean_with_interval(values, confidence=confidence, decimals=3)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    """Nothing is said of a spread that was not seen."""
    assert half_width(values, 0.95) is None


def test_a_difference_counts_only_beyond_its_paired_interval() -> None:
    """Seeds that move together are told apart where their levels overlap; a difference inside its interval is none."""
    together = ([30.0, 25.0, 35.0], [29.0, 24.1, 33.9])
    assert paired_interval_excludes_zero(*together, 0.95)
    assert half_width(together[0], 0.95) > 5  # type: ignore[operator] # the levels themselves overlap
    assert not paired_interval_excludes_zero([30.0, 25.0, 35.0], [29.0, 26.0, 33.0], 0.95)
    assert not paired_interval_excludes_zero([30.0], [20.0], 0.95)


@pytest.mark.parametrize("shift", [0.999, 1.001])
def test_the_paired_interval_ends_where_scipys_test_does(shift: float) -> None:
    """Just inside and just outside the interval agree with the p-value of the paired t test."""
    noise = np.array([0.3, -0.1, 0.2, -0.4])
    edge = half_width(list(noise), 0.95)
    assert edge is not None
    a = noise - noise.mean() + shift * edge
    significant = stats.ttest_rel(a, np.zeros(4)).pvalue < 0.05
    assert paired_interval_excludes_zero(list(a), [0.0] * 4, 0.95) == significant == (shift > 1)
