"""Rows become tables: each cell by its column's rule from the records of its row; better ones marked within their group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dcnas_lineage.cells import NOTHING, Derived, derive, paired_interval_excludes_zero, seed_values
from dcnas_schema.cells import Cell, Reducer
from dcnas_tabulate.layout import NOISY_INPUT, Column, DeviceKey, Layout, device_key, device_titles
from dcnas_tabulate.paper_rows import CLEAN
from dcnas_tabulate.photo_layout import FURTHER, LEFT_OUT, PhotoRun, Row
from dcnas_tabulate.tables import Table

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
_MIN_PAIRS = 2


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
    timed = device_titles([m.card for m in found if m.latency.measured is not None])
    predicted = device_titles([m.card for m in found if m.latency.predicted is not None])
    return [
        _build(
            number,
            rows,
            _columns(number, _cost(timed, predicted)),
            confidence=confidence,
            reference_file=reference_file,
        )
        for number, rows in rows_of.items()
    ]


def photo_cell(column: Column, row: Row, reference_file: Path) -> Cell | None:
    """Return the cell of a row in a column, its text not yet derived; `None` where the column says nothing of the row."""
    reducer, pointer = column.reducer, column.pointer
    sources = [path.as_posix() for run in row.runs for path in _paths(run, column)]
    if reducer == "label":
        pointer = {"label": row.label, "kind": row.kind}[pointer]
    elif reducer == "reference":
        pointer, sources = ",".join((*(row.reference or ("", "", "")), pointer)), [reference_file.as_posix()]
    elif not row.runs:
        if reducer != "paths":
            return None
        reducer, pointer = "label", LEFT_OUT
    elif reducer == "count":
        if row.run is None:
            return None
        pointer = str(row.run.wanted)
    elif row.run is None and reducer != "paths":
        denoiser, classifier = row.runs
        if reducer == "mean_ci":
            taken = denoiser if pointer in _OF_DENOISER else classifier
            sources = [path.as_posix() for path in taken.paths]
        elif reducer in _SUMS and (reducer == "median_spread" or pointer in _SUMMED):
            reducer = _SUMS[reducer]
            pointer = f"{pointer},{len(row.runs)}".removeprefix(",")
        else:
            return None
    return Cell(
        row=row.label,
        column=column.title,
        text="",
        reducer=reducer,
        pointer=pointer,
        decimals=column.decimals,
        skip_sigma_zero=column.skip_sigma_zero,
        only_sigma_zero=column.only_sigma_zero,
        of_measured=column.of_measured,
        sources=() if reducer == "label" else tuple(sources),
    )


def _paths(run: PhotoRun, column: Column) -> list[Path]:
    if column.device is None:
        return list(run.paths)
    return [path for path, m in zip(run.paths, run.metadata, strict=True) if device_key(m.card) == column.device]


def _build(
    number: str, rows: Sequence[Row], columns: tuple[Column, ...], *, confidence: float, reference_file: Path
) -> PhotoTable:
    better = _better_cells(rows, columns, confidence, reference_file)
    cells = [[photo_cell(column, row, reference_file) for column in columns] for row in rows]
    marks = [[(row.label, column.title) in better for column in columns] for row in rows]
    noisy = _noisy_cells(rows, columns) if any(column.pointer == "psnr_db" for column in columns) else None
    if noisy is not None:
        cells, marks = [noisy, *cells], [[False] * len(columns), *marks]
    derived = [[_derived(cell, confidence) for cell in line] for line in cells]
    texts = [
        tuple(_with_text(c, d, marked=m) for c, d, m in zip(*line, strict=True))
        for line in zip(cells, derived, marks, strict=True)
    ]
    layout = Layout(name=NAMES[number], title=TITLES[number], columns=columns, runs=())
    table = Table(layout=layout, rows=tuple(texts), values=tuple(tuple(line) for line in derived))
    return PhotoTable(number=number, rows=tuple(rows), table=table)


def _noisy_cells(rows: Sequence[Row], columns: Sequence[Column]) -> list[Cell | None] | None:
    """Return the row of the noisy input itself; the same photos and noise in every record: one stands for all."""
    path = next((path for row in rows for run in row.runs for path in run.paths), None)
    if path is None:
        return None
    cells: list[Cell | None] = []
    for column in columns:
        pointer = {"psnr_db": "noisy_psnr_db", "ssim": "noisy_ssim"}.get(column.pointer)
        labels = {"label": NOISY_INPUT, "kind": "input"}
        label = labels.get(column.pointer) if column.reducer == "label" else None
        if (label is None and pointer is None) or (pointer is not None and column.reducer != "mean_ci"):
            cells.append(None)
            continue
        cells.append(
            Cell(
                row=NOISY_INPUT,
                column=column.title,
                text="",
                reducer=column.reducer,
                pointer=label or pointer or "",
                decimals=column.decimals,
                skip_sigma_zero=column.skip_sigma_zero,
                sources=() if label is not None else (path.as_posix(),),
            )
        )
    return cells


def _derived(cell: Cell | None, confidence: float) -> Derived:
    return Derived(text=NOTHING, value=None) if cell is None else derive(cell, confidence=confidence, root=Path())


def _with_text(cell: Cell | None, derived: Derived, *, marked: bool) -> Cell | None:
    return None if cell is None else cell.model_copy(update={"text": derived.text, "marked_better": marked})


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
    seeds = tuple(seed for seed in row.runs[0].seeds if seed in other.runs[0].seeds)
    first, second = (_values(column, one, seeds, reference_file) for one in (row, other))
    if len(first) != len(second) or len(first) < _MIN_PAIRS:
        return False
    return column.compare * (sum(first) - sum(second)) > 0 and paired_interval_excludes_zero(first, second, confidence)


def _values(column: Column, row: Row, seeds: Sequence[int], reference_file: Path) -> list[float]:
    run = row.runs[0]
    paths = tuple(path for path, seed in zip(run.paths, run.seeds, strict=True) if seed in seeds)
    metadata = tuple(m for m in run.metadata if m.seed in seeds)
    cut = replace(row, runs=(replace(run, paths=paths, metadata=metadata, seeds=tuple(seeds)),))
    cell = photo_cell(column, cut, reference_file)
    return [] if cell is None else seed_values(cell, Path())


def _columns(number: str, cost: tuple[Column, ...]) -> tuple[Column, ...]:
    what = (Column(title="Model", key="", reducer="label", pointer="label"),)
    kind = (Column(title="Type", key="", reducer="label", pointer="kind"),)
    last = (Column(title="source", key="", reducer="paths"),)
    match number:
        case "2":
            return (*what, *cost, *_restoration(), *_count(), *_paper("latency_ms", "psnr_db", "ssim"), *last)
        case "fig4/text":
            return (*what, *cost, *_accuracy_clean(), *_count(), *_paper("accuracy_pct"), *last)
    paper = _paper("latency_ms", "accuracy_pct", "psnr_db", "ssim")
    return (*what, *kind, *cost, *_accuracy(), *_restoration(), *_count(), *paper, *last)


def _cost(timed: Mapping[DeviceKey, str], predicted: Mapping[DeviceKey, str]) -> tuple[Column, ...]:
    """Return the columns of cost; `timed` and `predicted` are the devices of which there is a latency, with their titles."""
    latency = Column(title="Latency (ms)", key="latency_ms", reducer="median_spread")
    predictions = (
        Column(title="Predicted (ms)", key="predicted_ms", reducer="predicted"),
        Column(
            title="Prediction off (%)",
            key="prediction_error_pct",
            reducer="prediction_error",
            decimals=1,
            of_measured=True,
        ),
    )
    return (
        Column(title="MACs (M)", key="macs_m", reducer="range", pointer="macs_m", decimals=1),
        Column(title="Parameters", key="parameters", reducer="range", pointer="parameters", decimals=0),
        *_each_device(latency, timed),
        *(one for column in predictions for one in (_each_device(column, predicted) if predicted else [column])),
    )


def _each_device(column: Column, titles: Mapping[DeviceKey, str]) -> list[Column]:
    """Return the column for each device; its title names the device where there are several."""
    if len(titles) == 1:
        return [replace(column, device=next(iter(titles)))]
    return [
        replace(column, title=f"{column.title} on {title}", key=f"{column.key}_{i}", device=device)
        for i, (device, title) in enumerate(titles.items())
    ]


def _restoration() -> tuple[Column, ...]:
    return (
        Column(title="PSNR (dB)", key="psnr_db", reducer="mean_ci", pointer="psnr_db", compare=1),
        Column(
            title="PSNR, σ>0 (dB)",
            key="psnr_db_without_sigma_0",
            reducer="mean_ci",
            pointer="psnr_db",
            skip_sigma_zero=True,
            compare=1,
        ),
        Column(title="SSIM", key="ssim", reducer="mean_ci", pointer="ssim", decimals=3, compare=1),
    )


def _accuracy() -> tuple[Column, ...]:
    return tuple(
        Column(title=f"{name} (%)", key=key, reducer="mean_ci", pointer=key, decimals=1, compare=1)
        for name, key in (("Top-1", "top1_pct"), ("Top-5", "top5_pct"))
    )


def _accuracy_clean() -> tuple[Column, ...]:
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
            for name, key in (("Top-1", "top1_pct"), ("Top-5", "top5_pct"))
        ),
        Column(title="Top-1, all σ (%)", key="top1_pct", reducer="mean_ci", pointer="top1_pct", decimals=1),
    )


def _count() -> tuple[Column, ...]:
    return (
        Column(title="Epochs", key="epochs", reducer="range", pointer="epochs", decimals=0),
        Column(title="Seeds", key="seeds", reducer="count"),
    )


def _paper(*fields: str) -> tuple[Column, ...]:
    titles = {"latency_ms": "lat. (ms)", "accuracy_pct": "top-1 (%)", "psnr_db": "PSNR (dB)", "ssim": "SSIM"}
    return tuple(
        Column(title=f"paper {titles[name]}", key=f"paper_{name}", reducer="reference", pointer=name) for name in fields
    )
