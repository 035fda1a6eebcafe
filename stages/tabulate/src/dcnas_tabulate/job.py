"""Records in, results out."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from dcnas_harness.console import progress
from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import write_json, write_text
from dcnas_lineage.cells import read_record
from dcnas_schema.params import Params
from dcnas_schema.records import EvaluationMetadata
from dcnas_tabulate.figures import curves, draw_curves, draw_panel
from dcnas_tabulate.latency_figures import draw_latency
from dcnas_tabulate.latency_page import LatencyResult, latency_csv, latency_markdown, latency_section
from dcnas_tabulate.layout import Run, layouts
from dcnas_tabulate.page import footer, write_page
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

        CorruptArtefactError: A record is damaged or of another run, or none is there; or the profile is damaged.
    """
    if not reference_file.is_file():
        raise BadInputError(f"{reference_file} does not exist.", remedy=f"run: git checkout {reference_file}")
    runs = read_runs(params, records)
    shown = None if profile is None else LatencyResult.read(profile)
    confidence = params.tabulate.confidence
    with progress("tabulate", 3) as report:
        tables = [build_table(layout, confidence=confidence, reference_file=reference_file) for layout in layouts(runs)]
        notes = footer(params, runs)
        for table in tables:
            write_table(table, out, confidence=confidence, footer=notes)
        write_json(out / "metrics.json", _metrics(tables))
        _write_curves(runs, out / "curves")
        report.update(1, "tables")
        draw_curves(runs, out / "figures", confidence=confidence)
        draw_panel(runs, out / "figures")
        latency = "" if shown is None else _write_latency(shown, out)
        report.update(2, "figures")
        write_page(params, runs, tables, out, latency=latency)
        report.update(3, f"{out / 'index.html'}")


def read_runs(params: Params, records: Path) -> list[Run]:
    """Return the runs that params.yaml names; records of others are named and left out, missing ones count as failed."""
    runs, expected = [], set()
    for model in params.runs.models:
        found: list[tuple[int, Path, EvaluationMetadata]] = []
        for seed in params.runs.seeds:
            path = records / model / str(seed) / "record.parquet"
            expected.add(path)
            if path.is_file():
                metadata = read_record(path)[1]
                _require_same_run(path, metadata, model, seed)
                found.append((seed, path, metadata))
        runs.append(
            Run(
                model=model,
                spec=params.models[model],
                seeds=tuple(seed for seed, _, _ in found),
                paths=tuple(path for _, path, _ in found),
                metadata=tuple(metadata for _, _, metadata in found),
                wanted=len(params.runs.seeds),
            )
        )
    if not any(run.paths for run in runs):
        raise CorruptArtefactError(f"No record of the models in params.yaml is in {records}.", remedy="run: dvc repro")
    for path in sorted(set(records.glob("*/*/record.parquet")) - expected):
        print(f"left out: {path.parent} is not in runs of params.yaml; `dcnas prune` removes such folders", flush=True)
    _require_one_protocol(runs)
    return runs


def _write_latency(result: LatencyResult, out: Path) -> str:
    """Write the latency profile's summary and figures into `out`; return its section of the page."""
    write_text(out / "latency.md", latency_markdown(result))
    write_text(out / "latency.csv", latency_csv(result.metadata))
    draw_latency(result.entries, result.metadata, out / "figures")
    return latency_section(result, out / "figures")


def _require_same_run(path: Path, metadata: EvaluationMetadata, model: str, seed: int) -> None:
    if (metadata.model, metadata.seed) != (model, seed):
        raise CorruptArtefactError(
            f"{path} is the record of {metadata.model} seed {metadata.seed}, not of {model} seed {seed}.",
            remedy=f"run: dvc repro --force --single-item evaluate@{model}-{seed}",
        )


def _require_one_protocol(runs: Iterable[Run]) -> None:
    first: tuple[Path, EvaluationMetadata] | None = None
    for path, metadata in ((p, m) for run in runs for p, m in zip(run.paths, run.metadata, strict=True)):
        first = first or (path, metadata)
        if metadata.protocol.model_copy(update={"precision": "fp32"}) != first[1].protocol.model_copy(
            update={"precision": "fp32"}
        ):
            raise CorruptArtefactError(
                f"{path} was measured by another protocol than {first[0]}: {metadata.protocol} against {first[1].protocol}.",
                remedy="run: dvc repro",
            )


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
