"""The report on photos: one self-contained HTML page with tables, figures, searches, device and protocol, light and dark."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnas_schema.latency import ProfileMetadata
from dcnas_schema.photos import PhotosMetadata
from dcnas_tabulate.latency_page import noisy_banner
from dcnas_tabulate.page import drawing, list_html, provenance_items, table_html, write_html
from dcnas_tabulate.paper_rows import CLEAN
from dcnas_tabulate.photo_layout import LEFT_OUT, PhotoRun, PhotoTables
from dcnas_tabulate.photo_notes import (
    photo_cards,
    photo_data_note,
    photo_doubts,
    photo_protocol_lines,
    photo_reading,
    photo_search_note,
    photo_table_note,
    search_reading,
)
from dcnas_tabulate.photo_panel import PHOTO_PANEL_STYLE, Shown, photo_panel_html
from dcnas_tabulate.photo_records import SearchRun
from dcnas_tabulate.photo_tables import PhotoTable
from dcnas_tabulate.sentences import accepted_lines, card_items, exact_lines, sentence_case
from dcnas_tabulate.tables import Table

_FIGURES = {
    "figure_4": "Figure 4: α of one block and the choices of all, with β removed and with β learned",
    "figure_5": "Figure 5: accuracy by the size of the candidate set",
    "figure_6": "Figure 6: quality against latency",
}
_FIGURE_4 = (
    "Above, the probabilities of the candidate ops at the paper's block; below, the most likely op of every block (the arrow marks the one "
    "above), faint where the learned depth drops it. Oscillation: argmax flips a block over the last third of the epochs."
)
_FIGURE_5 = "The paper draws this figure without printing its values: only ours are shown."
_FIGURE_6 = (
    "Filled: ours, on the device that the axis names and these photos; † behind a name: its latency is noisy, not to be relied on. Hollow, "
    "on axes of their own: the figures of the paper's Table 3. Bars: interval over seeds, where there are three or more. The values of the "
    "paper's own Figure 6 (clean photos) are not printed there."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that the page shows."""

    settings: PhotoTables
    runs: Sequence[PhotoRun]
    searches: Sequence[SearchRun]
    splits: dict[str, PhotosMetadata]
    tables: Sequence[PhotoTable]
    search_table: Table
    shown: Shown
    profile: ProfileMetadata


def write_photo_page(report: Report, out: Path) -> None:
    """Write `photos.html` into `out`, with the figures that stand in `out`/figures_photos inside."""
    settings, runs = report.settings, report.runs
    tables = {table.number: _table(table) for table in report.tables}
    figures = {
        name: f"<h2>{html.escape(title)}</h2>{drawing(out / 'figures_photos', name, title)}"
        for name, title in _FIGURES.items()
    }
    provenances = [m.provenance for run in runs for m in run.metadata]
    provenances += [run.derived.provenance for run in report.searches]
    parts = [
        f"<h1>dcnas on photos: preset {html.escape(settings.preset)}</h1>",
        _note(photo_data_note(settings, report.splits, runs)),
        _note(photo_reading(settings, runs, report.tables)),
        _banner(noisy_banner(report.profile)),
        *(tables[number] for number in ("2", "3", "4", "5", "6")),
        "<h2>Figure 8: restored photos</h2>",
        photo_panel_html(report.shown),
        table_html(report.search_table, [search_reading(settings, report.searches)], left_out=LEFT_OUT),
        _predictor(report.profile),
        tables[CLEAN],
        figures["figure_4"] + _note(_FIGURE_4),
        figures["figure_5"] + _note(_FIGURE_5),
        figures["figure_6"] + _note(_FIGURE_6),
        "<h2>Protocol</h2>",
        list_html(line.split(": ", 1) for line in photo_protocol_lines(runs)),
        *(f"<h2>Device: {html.escape(card.name)}</h2>{list_html(card_items(card))}" for card in photo_cards(runs)),
        "<h2>Provenance</h2>",
        list_html(provenance_items(provenances, "table_3")),
    ]
    write_html(out / "photos.html", f"dcnas on photos: {settings.preset}", parts, style=PHOTO_PANEL_STYLE)


def _table(table: PhotoTable) -> str:
    notes = [
        photo_table_note(table),
        photo_search_note([table]),
        *sentence_case(exact_lines(path for run in table.trained for path in run.paths)),
        photo_doubts(table.table),
        *sentence_case(accepted_lines(table.table)),
    ]
    return table_html(table.table, notes, left_out=LEFT_OUT)


def _predictor(profile: ProfileMetadata) -> str:
    """Return how well the latency profile predicts held-out whole nets: what the targets are to be trusted by."""
    setting = profile.setting
    items: list[tuple[str, str]] = [
        (
            one.kind,
            f"off by {one.mape_pct:.2f} % in the mean (bias {one.bias_pct:+.2f} %, worst {one.worst_pct:.2f} %) on {one.nets} held-out "
            f"nets; {one.inside_interval_pct:.0f} % inside the interval of ±{profile.calibration.interval_pct[one.kind]:.1f} %",
        )
        for one in profile.accuracy
    ]
    size = f"{setting.height}x{setting.width} pixels, {setting.classes} classes"
    made = f"{setting.runtime}, batch of {setting.batch}, {size}, {setting.precision}"
    formula = " (a formula: it says nothing of any machine)" if setting.runtime == "simulated" else ""
    items += [
        ("profile", f"{profile.device.name}{formula}: {made}"),
        ("noise gate", profile.gate.verdict),
    ]
    return f"<h3>The latency predictor</h3>{list_html(items)}"


def _note(text: str) -> str:
    return f"<p class=note>{html.escape(text)}</p>"


def _banner(text: str) -> str:
    return f"<p class=noisy role=alert>{html.escape(text)}</p>" if text else ""
