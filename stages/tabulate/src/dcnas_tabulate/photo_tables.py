"""Rows become tables: each cell by its column's rule from the records of its row; better ones marked within their group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dcnas_lineage.cells import paired_interval_excludes_zero, seed_values
from dcnas_schema.cells import Cell, Reducer
from dcnas_schema.photo_records import PhotoEvaluationMetadata
from dcnas_tabulate.comparing import common_seeds, cut_to
from dcnas_tabulate.latency_keys import (
    LatencyKey,
    column_of,
    key_titles,
    latency_columns,
    measured_key,
    predicted_key,
)
from dcnas_tabulate.layout import (
    SOURCE,
    Column,
    Layout,
    cell_of,
    count_columns,
    noisy_cell,
    paper_columns,
    restoration_columns,
)
from dcnas_tabulate.paper_rows import CLEAN
from dcnas_tabulate.photo_layout import FURTHER, PhotoRun, Row, is_random, searches_of
from dcnas_tabulate.tables import Cells, Table, derive_table

TITLES = {
    "2": "Table 2: D-NAS and UNet denoisers",
    "3": "Table 3: DC-NAS beside its classifiers and denoisers",
    "4": "Table 4: how the encoder is searched",
    "5": "Table 5: sequential and integrated",
    "6": "Table 6: decoders",
    CLEAN: "Sec. 4.1: classifiers on clean photos (Figures 4 to 6)",
}
NAMES = {**{table: f"table_{table}" for table in ("2", "3", "4", "5", "6")}, CLEAN: "table_clean"}
"""Table -> file name."""
_SUMS: dict[Reducer, Reducer] = {"range": "sum_range", "median_spread": "sum_spread"}
_SUMMED = ("macs_m", "parameters")
_OF_DENOISER = ("psnr_db", "psnr_pooled_db", "ssim")
_PREDICTIONS: frozenset[Reducer] = frozenset({"predicted", "prediction_error"})
_TOP5_FROM = 100
"""Classes from which top-5 is told (protocol): of few classes chance alone gives much of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoTable:
    """A table with its rows as they were before their cells were derived; the noisy input's row is not among them."""

    number: str
    rows: tuple[Row, ...]
    table: Table

    @property
    def trained(self) -> list[PhotoRun]:
        """The models of the table, each once."""
        return list({run.model: run for row in self.rows for run in row.runs}.values())


def build_photo_tables(
    rows_of: Mapping[str, Sequence[Row]], runs: Sequence[PhotoRun], *, confidence: float, reference_file: Path
) -> list[PhotoTable]:
    """Derive every cell of every table."""
    found = [metadata for run in runs for metadata in run.metadata]
    cost = _cost(found)
    top5 = all(len(metadata.classes) >= _TOP5_FROM for metadata in found)
    return [
        _build(number, rows, _columns(number, cost, top5=top5), confidence=confidence, reference_file=reference_file)
        for number, rows in rows_of.items()
    ]


def photo_cell(column: Column, row: Row, reference_file: Path) -> Cell | None:
    """Return the cell of a row in a column, its text not yet derived; `None` where the column says nothing of the row."""
    reducer, pointer = column.reducer, column.pointer
    sources = [path for run in row.runs for path in _paths(run, column)]
    if reducer == "label":
        pointer = {"label": row.label, "kind": row.kind}[pointer]
    elif reducer == "reference":
        pointer, sources = ",".join((*(row.reference or ("", "", "")), pointer)), [reference_file]
    elif not row.runs:
        if reducer != "paths":
            return None
        reducer, pointer = "label", row.absent
    elif reducer == "count":
        if row.run is None:
            return None
        pointer = str(row.run.wanted)
    elif row.run is None and reducer != "paths":
        denoiser, classifier = row.runs
        if reducer == "mean_ci":
            sources = list((denoiser if pointer in _OF_DENOISER else classifier).paths)
        elif reducer in _SUMS and (reducer == "median_spread" or pointer in _SUMMED):
            reducer = _SUMS[reducer]
            pointer = f"{pointer},{len(row.runs)}".removeprefix(",")
        else:
            return None
    return cell_of(column, row.label, reducer=reducer, pointer=pointer, sources=sources)


def _paths(run: PhotoRun, column: Column) -> list[Path]:
    if column.device is None:
        return list(run.paths)
    key = predicted_key if column.reducer in _PREDICTIONS else measured_key
    return [path for path, m in zip(run.paths, run.metadata, strict=True) if key(m) == column.device]


def _build(
    number: str, rows: Sequence[Row], columns: tuple[Column, ...], *, confidence: float, reference_file: Path
) -> PhotoTable:
    better = _better_cells(rows, columns, confidence, reference_file)
    lines: list[Cells] = [[photo_cell(column, row, reference_file) for column in columns] for row in rows]
    marks = [[(row.label, column.title) in better for column in columns] for row in rows]
    record = next((path for row in rows for run in row.runs for path in run.paths), None)
    if record is not None and any(column.pointer == "psnr_db" for column in columns):
        lines, marks = [[noisy_cell(column, record) for column in columns], *lines], [[False] * len(columns), *marks]
    layout = Layout(name=NAMES[number], title=TITLES[number], columns=columns, runs=())
    return PhotoTable(number=number, rows=tuple(rows), table=derive_table(layout, lines, marks, confidence=confidence))


def _better_cells(
    rows: Sequence[Row], columns: Sequence[Column], confidence: float, reference_file: Path
) -> set[tuple[str, str]]:
    """Return the cells that are better than those of every other model of their group, seed by seed, beyond the interval."""
    better = set()
    for column in (column for column in columns if column.compare):
        for group in {row.group for row in rows} - {FURTHER}:
            rivals = [row for row in rows if row.group == group and row.run is not None]
            scored = [row for row in rivals if _values(column, row, row.runs[0].seeds, reference_file)]
            for row in scored:
                others = [other for other in scored if other is not row]
                if others and all(_beats(column, row, other, confidence, reference_file) for other in others):
                    better.add((row.label, column.title))
    return better


def _beats(column: Column, row: Row, other: Row, confidence: float, reference_file: Path) -> bool:
    pair = (row.runs[0], other.runs[0])
    seeds = common_seeds(*pair)
    if is_random(pair[0].spec) != is_random(pair[1].spec) and _one_search(pair, seeds):
        return False  # another search might have found another net: of what searching gives there is a single draw
    first, second = (_values(column, one, seeds, reference_file) for one in (row, other))
    if not first or len(first) != len(second):
        return False
    return column.compare * (sum(first) - sum(second)) > 0 and paired_interval_excludes_zero(first, second, confidence)


def _one_search(runs: Sequence[PhotoRun], seeds: Sequence[int]) -> bool:
    return any(searches_of(cut_to(run, seeds)) == 1 for run in runs)


def _values(column: Column, row: Row, seeds: Sequence[int], reference_file: Path) -> list[float]:
    cell = photo_cell(column, replace(row, runs=(cut_to(row.runs[0], seeds),)), reference_file)
    return [] if cell is None else seed_values(cell, Path())


def _columns(number: str, cost: tuple[Column, ...], *, top5: bool) -> tuple[Column, ...]:
    what = (Column(title="Model", key="", reducer="label", pointer="label"),)
    kind = (Column(title="Type", key="", reducer="label", pointer="kind"),)
    last = (*count_columns("range"),)
    accuracy = {"top1_pct": "Top-1", **({"top5_pct": "Top-5"} if top5 else {})}
    match number:
        case "2":
            return (
                *what,
                *cost,
                *restoration_columns(),
                *last,
                *paper_columns("latency_ms", "psnr_db", "ssim"),
                SOURCE,
            )
        case "fig4/text":
            return (*what, *cost, *_accuracy_clean(accuracy), *last, *paper_columns("accuracy_pct"), SOURCE)
    paper = paper_columns("latency_ms", "accuracy_pct", "psnr_db", "ssim")
    return (*what, *kind, *cost, *_accuracy(accuracy), *restoration_columns(), *last, *paper, SOURCE)


def _cost(found: Sequence[PhotoEvaluationMetadata]) -> tuple[Column, ...]:
    """Return the columns of cost: what was measured stands under the device that measured it, what is predicted under the profile's."""
    titles = key_titles([*map(measured_key, found), *map(predicted_key, found)])
    off = Column(
        title="Prediction off (%)", key="prediction_error_pct", reducer="prediction_error", decimals=1, of_measured=True
    )
    predictions = (Column(title="Predicted (ms)", key="predicted_ms", reducer="predicted"), off)
    profiles: list[LatencyKey] = [key for key in titles if any(predicted_key(m) == key for m in found)]
    return (
        Column(title="MACs (M)", key="macs_m", reducer="range", pointer="macs_m", decimals=1),
        Column(title="Parameters", key="parameters", reducer="range", pointer="parameters", decimals=0),
        *latency_columns(found, titles),
        *(column_of(one, key, titles, where="for") for one in predictions for key in profiles),
        *(() if profiles else predictions),
    )


def _accuracy(names: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(
        Column(title=f"{name} (%)", key=key, reducer="mean_ci", pointer=key, decimals=1, compare=1)
        for key, name in names.items()
    )


def _accuracy_clean(names: Mapping[str, str]) -> tuple[Column, ...]:
    return (
        *(
            Column(
                title=f"{name}, σ=0 (%)",
                key=f"{key}_at_sigma_0",
                reducer="mean_ci",
                pointer=key,
                decimals=1,
                only_sigma_zero=True,
                compare=1,
            )
            for key, name in names.items()
        ),
        Column(title="Top-1, all σ (%)", key="top1_pct", reducer="mean_ci", pointer="top1_pct", decimals=1),
    )
