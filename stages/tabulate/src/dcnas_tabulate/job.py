"""Records in, results out."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from dcnas_harness.console import progress
from dcnas_harness.errors import BadInputError
from dcnas_harness.files import write_json, write_text
from dcnas_schema.params import Params
from dcnas_tabulate.figure_maps import map_digits
from dcnas_tabulate.figures import curves, draw_curves, draw_panel
from dcnas_tabulate.latency_figures import draw_latency
from dcnas_tabulate.latency_keys import key_titles, latency_columns, measured_key
from dcnas_tabulate.latency_page import LatencyResult, latency_csv, latency_markdown, latency_section
from dcnas_tabulate.layout import Run, layouts
from dcnas_tabulate.notes import footer
from dcnas_tabulate.page import write_page
from dcnas_tabulate.records import read_runs
from dcnas_tabulate.tables import Table, build_table, write_table

_QUANTITIES = ("psnr_db", "ssim", "top1_pct")


def tabulate(params: Params, records: Path, reference_file: Path, out: Path, profile: Path | None = None) -> None:
    """
    Write tables, figures, metrics and the report page into `out`.

    Args:
        records: Folder with `<model>/<seed>/record.parquet`.

        reference_file: The paper's figures.

        profile: The latency profile to show; `None` leaves its section out.

    Raises:
        BadInputError: The paper's figures are not there.

        CorruptArtefactError: A record or panel is damaged or of another run, or none is there; or the profile is damaged.
    """
    if not reference_file.is_file():
        raise BadInputError(f"{reference_file} does not exist.", remedy=f"run: git checkout {reference_file}")
    runs = read_runs(params, records)
    shown = None if profile is None else LatencyResult.read(profile)
    confidence = params.tabulate.confidence
    found = [metadata for run in runs for metadata in run.metadata]
    latencies = latency_columns(found, key_titles(map(measured_key, found)))
    with progress("tabulate", 3) as report:
        tables = [
            build_table(layout, confidence=confidence, reference_file=reference_file)
            for layout in layouts(runs, latencies)
        ]
        for table in tables:
            write_table(table, out, confidence=confidence, footer=footer(params, table))
        write_json(out / "metrics.json", _metrics(tables))
        _write_curves(runs, out / "curves")
        report.update(1, "tables")
        draw_curves(runs, out / "figures", confidence=confidence)
        draw_panel(runs, out / "figures")
        latency = "" if shown is None else _write_latency(shown, out)
        map_digits(runs, profile, out / "figures")
        report.update(2, "figures")
        write_page(params, runs, tables, out, latency=latency)
        report.update(3, f"{out / 'index.html'}")


def _write_latency(result: LatencyResult, out: Path) -> str:
    """Write the latency profile's summary and figures into `out`; return its section of the page."""
    write_text(out / "latency.md", latency_markdown(result))
    write_text(out / "latency.csv", latency_csv(result.metadata))
    draw_latency(result.entries, result.metadata, out / "figures")
    return latency_section(result, out / "figures")


def _metrics(tables: Sequence[Table]) -> dict[str, dict[str, float]]:
    metrics: dict[str, dict[str, float]] = {}
    for table in tables:
        models = [run.model for run in table.layout.runs]
        for model, values in zip(models, table.values[len(table.values) - len(models) :], strict=True):
            for column, derived in zip(table.layout.columns, values, strict=True):
                if column.reducer in ("mean_ci", "median_spread", "value") and derived.value is not None:
                    metrics.setdefault(model, {})[column.key] = derived.value
    return metrics


def _write_curves(runs: Sequence[Run], folder: Path) -> None:
    """One CSV a quantity: `sigma`, then a column a model (mean over seeds; empty without the task), as dvc.yaml's plots read them."""
    for quantity in _QUANTITIES:
        found = {run.model: curves(run, quantity) for run in runs}
        sigmas = next(run.metadata[0].protocol.sigmas for run in runs if run.metadata)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["sigma", *found])
        for level, sigma in enumerate(sigmas):
            values = ["" if curve is None else curve.seeds.mean(0)[level] for curve in found.values()]
            writer.writerow([sigma, *values])
        write_text(folder / f"{quantity}.csv", buffer.getvalue())
