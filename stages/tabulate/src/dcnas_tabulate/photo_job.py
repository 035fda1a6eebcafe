"""Records on photos and results of searches in; Tables 2 to 6, Figures 4, 5, 6 and 8, and their page out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnas_harness.console import progress
from dcnas_harness.errors import BadInputError
from dcnas_harness.files import write_json
from dcnas_schema.cells import SPREADS
from dcnas_tabulate.figure_maps import map_photos
from dcnas_tabulate.latency_page import LatencyResult, noisy_banner
from dcnas_tabulate.photo_figures import draw_figure_5, draw_figure_6, write_photo_curves
from dcnas_tabulate.photo_layout import PhotoTables, table_rows
from dcnas_tabulate.photo_notes import photo_footer, search_footer
from dcnas_tabulate.photo_page import Report, write_photo_page
from dcnas_tabulate.photo_panel import draw_figure_8, shown_photos
from dcnas_tabulate.photo_records import SearchRun, read_photo_runs, read_photo_splits, read_search_runs
from dcnas_tabulate.photo_tables import PhotoTable, build_photo_tables
from dcnas_tabulate.search_figures import compared_searches, course_of, draw_figure_4
from dcnas_tabulate.search_table import build_search_table
from dcnas_tabulate.tables import Table, write_table

Metrics = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSources:
    """Where the pipeline stage on photos reads."""

    records: Path
    """Folder with `<model>/<seed>/record.parquet` and panel.parquet."""
    searches: Path
    """Folder with `<search>/<seed>/search.parquet`."""
    genotypes: Path
    """Folder with `<search>/<seed>/genotype.json`."""
    photos: Path
    """Folder with the three splits of the photo set."""
    profile: Path
    """The latency profile."""
    reference: Path
    """The paper's figures."""


def tabulate_photos(settings: PhotoTables, sources: PhotoSources, out: Path) -> None:
    """
    Write tables, figures, metrics and the report page on photos into `out`.

    Raises:
        BadInputError: The paper's figures are not there.

        CorruptArtefactError: An input is damaged or of another run, or no record is there.
    """
    if not sources.reference.is_file():
        raise BadInputError(f"{sources.reference} does not exist.", remedy=f"run: git checkout {sources.reference}")
    confidence, book = settings.confidence, settings.book
    runs = read_photo_runs(settings, sources.records)
    searches = read_search_runs(settings, sources.searches, sources.genotypes)
    splits = read_photo_splits(sources.photos)
    profile = LatencyResult.read(sources.profile).metadata
    warning = noisy_banner(profile)
    rows_of = table_rows(runs, book)
    with progress("tabulate photos", 3) as report:
        tables = build_photo_tables(rows_of, runs, confidence=confidence, reference_file=sources.reference)
        search_table = build_search_table(settings, searches, confidence=confidence)
        for table in tables:
            write_table(
                table.table, out, confidence=confidence, footer=photo_footer(settings, splits, table, warning=warning)
            )
        write_table(search_table, out, confidence=confidence, footer=search_footer(settings, searches, warning=warning))
        write_json(out / "photos_metrics.json", _metrics(tables, searches, search_table))
        write_photo_curves(runs, out / "curves_photos")
        report.update(1, "tables")
        shown, figures = shown_photos(rows_of), out / "figures_photos"
        compared = compared_searches(settings, searches)
        draw_figure_4({beta: [course_of(run) for run in found] for beta, found in compared.items()}, figures)
        draw_figure_5(runs, book, figures, confidence=confidence)
        draw_figure_6(rows_of, figures, confidence=confidence, reference_file=sources.reference)
        draw_figure_8(shown, figures)
        map_photos(runs, rows_of, compared, shown, sources.reference, figures)
        report.update(2, "figures")
        page = Report(
            settings=settings,
            runs=runs,
            searches=searches,
            splits=splits,
            tables=tables,
            search_table=search_table,
            shown=shown,
            profile=profile,
        )
        write_photo_page(page, out)
        report.update(3, f"{out / 'photos.html'}")


def _metrics(tables: Sequence[PhotoTable], searches: Sequence[SearchRun], search_table: Table) -> Metrics:
    """Return models -> model -> figure and searches -> search-seed -> figure, as `dvc metrics` shows them."""
    models: dict[str, dict[str, float]] = {}
    for table in tables:
        values = table.table.values[len(table.table.values) - len(table.rows) :]
        for row, derived in zip(table.rows, values, strict=True):
            if row.run is None:
                continue
            for column, one in zip(table.table.layout.columns, derived, strict=True):
                if column.reducer in SPREADS and one.value is not None:
                    models.setdefault(row.run.model, {})[column.key] = one.value
    found: dict[str, dict[str, float]] = {}
    for run, derived in zip(searches, search_table.values, strict=False):  # those left out stand behind
        for column, one in zip(search_table.layout.columns, derived, strict=True):
            if one.value is not None:
                found.setdefault(f"{run.search}-{run.seed}", {})[column.key] = one.value
    return {"models": models, "searches": found}
