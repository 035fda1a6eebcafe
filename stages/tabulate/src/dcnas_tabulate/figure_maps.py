"""Beside each figure, what it shows: the files that each series was drawn from, and the hashes of the drawings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dcnas_harness.files import sha256_of
from dcnas_schema.cells import DrawnSeries, FigureMap
from dcnas_schema.json_files import write_json_record
from dcnas_tabulate.figures import SHOWN_QUANTITIES
from dcnas_tabulate.latency_figures import FIGURES
from dcnas_tabulate.layout import NOISY_INPUT, Run
from dcnas_tabulate.panel import shown_panels
from dcnas_tabulate.paper_rows import CLEAN
from dcnas_tabulate.photo_layout import PhotoRun, Row
from dcnas_tabulate.photo_panel import Shown
from dcnas_tabulate.photo_records import SearchRun

_LATENCY = "latency.measured"


def write_figure_map(folder: Path, name: str, series: Iterable[DrawnSeries]) -> None:
    """Write `<name>.figure.json` beside the drawings `<name>_*` of a folder, which must be there."""
    shown = tuple(series)
    sources = sorted({source for one in shown for source in one.sources})
    drawings = sorted(path for path in folder.glob(f"{name}_*") if path.suffix in (".svg", ".png"))
    made = FigureMap(
        figure=name,
        files={path.name: sha256_of(path) for path in drawings},
        series=shown,
        source_sha256={source: sha256_of(Path(source)) for source in sources},
    )
    write_json_record(folder / f"{name}.figure.json", made)


def map_digits(runs: Sequence[Run], profile: Path | None, folder: Path) -> None:
    """Write the maps of all figures on scenes and, with a profile, of those on latency."""
    write_figure_map(folder, "curves", _of_curves(runs))
    panels = [_series(run.label, "panel", [run.paths[0].with_name("panel.parquet")]) for run, _ in shown_panels(runs)]
    write_figure_map(folder, "figure_3", panels)
    for name in FIGURES if profile is not None else ():
        assert profile is not None, "there are no figures of it otherwise"
        write_figure_map(folder, name, [_series(name, "entries,metadata", [profile])])


def map_photos(
    runs: Sequence[PhotoRun],
    rows_of: Mapping[str, Sequence[Row]],
    compared: Mapping[str, Sequence[SearchRun]],
    shown: Shown,
    reference: Path,
    folder: Path,
) -> None:
    """Write the maps of all figures on photos."""
    searches = [run for found in compared.values() for run in found]
    courses = [_series(f"{run.search}, seed {run.seed}", "alphas,choices,depths", [run.log]) for run in searches]
    write_figure_map(folder, "figure_4", courses)
    clean = [run for run in runs if run.spec.kind == "c_nas" and run.paths]
    write_figure_map(folder, "figure_5", [_series(run.label, f"top1_pct,{_LATENCY}", run.paths) for run in clean])
    points = [
        _series(row.label, f"{quantities},{_LATENCY}", run.paths)
        for table, quantities in ((CLEAN, "top1_pct"), ("3", "top1_pct,psnr_db"))
        for row in rows_of[table]
        for run in row.runs
        if run.paths
    ]
    paper = _series("the paper's Table 3", "accuracy_pct,psnr_db,latency_ms", [reference])
    write_figure_map(folder, "figure_6", [*points, paper])
    panels = [_series(name, "panel", [run.paths[0].with_name("panel.parquet")]) for name, run in shown.runs]
    write_figure_map(folder, "figure_8", panels)


def _of_curves(runs: Sequence[Run]) -> Iterator[DrawnSeries]:
    scored = [run for run in runs if run.paths]
    for quantity in SHOWN_QUANTITIES:
        for run in scored:
            yield _series(f"{run.label}: {quantity}", quantity, run.paths)
        if scored and quantity != "top1_pct":
            yield _series(f"{NOISY_INPUT}: {quantity}", f"noisy_{quantity}", scored[0].paths[:1])


def _series(label: str, pointer: str, sources: Iterable[Path]) -> DrawnSeries:
    return DrawnSeries(label=label, pointer=pointer, sources=tuple(path.as_posix() for path in sources))
