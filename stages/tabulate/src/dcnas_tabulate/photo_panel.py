"""Figure 8: noisy, restored and clean photos with their predicted classes; as a figure, and on the page at their own pixels."""

import base64
import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dcnas_tabulate.drawing import THEMES, new_figure, save_figure
from dcnas_tabulate.panel import png
from dcnas_tabulate.paper_rows import CLASSIFIER
from dcnas_tabulate.photo_layout import PhotoRun, Row, is_random
from dcnas_tabulate.photo_records import read_photo_panel

_FEWEST_MODELS, _MOST_MODELS, _MOST_PHOTOS = 2, 5, 6
_PHOTO_PX = 150
"""Width of a photo on the page, in CSS pixels."""
_LONGEST = 18
"""Letters of a class name that are shown."""
_RIGHT, _WRONG = "✓", "✗"
PHOTO_PANEL_STYLE = f"""
table.photos td, table.photos th {{ border: 0; padding: .25rem; text-align: center; font-size: .76rem; vertical-align: top; }}
table.photos th {{ background: none; white-space: normal; vertical-align: bottom; }}
table.photos img {{ display: block; image-rendering: pixelated; margin: 0 auto .2rem; width: {_PHOTO_PX}px; }}
table.photos img {{ outline: 1px solid var(--faint); }}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What Figure 8 shows."""

    runs: tuple[tuple[str, PhotoRun], ...]
    """Name and run of each model, a column each."""
    rows: tuple[tuple[dict[str, Any], ...], ...]
    """Panel rows, one tuple a photo and level, one row a model."""
    classes: tuple[str, ...]

    def caption(self, row: Mapping[str, Any]) -> str:
        """Return the predicted class with a tick or a cross; empty for a model that predicts none."""
        if row["predicted"] is None:
            return ""
        return f"{self.name(row['predicted'])} {_RIGHT if row['predicted'] == row['label'] else _WRONG}"

    def name(self, label: int) -> str:
        """Return the name of a class, cut where it is long."""
        name = self.classes[label]
        return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def shown_photos(rows_of: Mapping[str, Sequence[Row]]) -> Shown:
    """
    Return the models of Figure 8, those of the smallest section of Table 3 that restore, the first seed of each; others of Table 3 too
    where there are fewer than two.

    Each photo is shown at one noise level, the levels of the panel in turn.
    """
    rows = [row for row in rows_of["3"] if row.run is not None and row.run.paths and row.kind != CLASSIFIER]
    rows = [row for row in rows if row.run is not None and not is_random(row.run.spec)]
    smallest = [row for row in rows if row.group == 0]
    rows = smallest if len(smallest) >= _FEWEST_MODELS else [*smallest, *(row for row in rows if row.group != 0)]
    restoring = [(row.label, row.run) for row in rows if row.run is not None]
    restoring = [
        (label, run) for label, run in restoring if read_photo_panel(run.paths[0])[0][0]["restored"] is not None
    ]
    runs = tuple(restoring[:_MOST_MODELS])
    if not runs:
        return Shown(runs=(), rows=(), classes=())
    panels = [read_photo_panel(run.paths[0]) for _, run in runs]
    found = [{(row["image"], row["sigma"]): row for row in rows} for rows, _ in panels]
    images = sorted({image for image, _ in found[0]})
    sigmas = sorted({sigma for _, sigma in found[0]})
    wanted = [(image, sigmas[number % len(sigmas)]) for number, image in enumerate(images)][:_MOST_PHOTOS]
    shown = tuple(tuple(one[key] for one in found) for key in wanted if all(key in one for one in found))
    return Shown(runs=runs, rows=shown, classes=panels[0][1].classes)


def draw_figure_8(shown: Shown, out: Path) -> None:
    """Write `figure_8_{light,dark}.{svg,png}`: a row a photo; noisy, restored by each model, clean."""
    for theme in THEMES:
        columns, lines = 2 + len(shown.runs), max(len(shown.rows), 1)
        figure = new_figure((1.9 * columns, 2.2 * lines + 0.5), theme)
        for i, rows in enumerate(shown.rows):
            for j, (title, content, caption) in enumerate(_pictures(shown, rows)):
                axes = figure.add_subplot(lines, columns, i * columns + j + 1)
                _show(axes, content, rows[0], theme)
                axes.set_xlabel(caption, color=THEMES[theme]["ink"], fontsize=8)
                if i == 0:
                    axes.set_title(textwrap.fill(title, 22), color=THEMES[theme]["ink"], fontsize=9)
                if j == 0:
                    axes.set_ylabel(f"σ = {rows[0]['sigma']:g}", color=THEMES[theme]["ink"], fontsize=9)
        if not shown.rows:
            figure.text(0.5, 0.5, "no model that restores has a record", color=THEMES[theme]["ink"], ha="center")
        else:
            figure.tight_layout()
        for kind in ("svg", "png"):
            save_figure(figure, out / f"figure_8_{theme}.{kind}")


def photo_panel_html(shown: Shown) -> str:
    """Return Figure 8 as a table, every image once at its own pixels; a word instead where no model restores."""
    if not shown.rows:
        return "<p class=note>No model that restores has a record.</p>"
    titles = ["", *(title for title, _, _ in _pictures(shown, shown.rows[0]))]
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = []
    for rows in shown.rows:
        cells = [_cell(content, rows[0], title, caption) for title, content, caption in _pictures(shown, rows)]
        body.append(f"<tr><th>σ = {rows[0]['sigma']:g}</th>{''.join(cells)}</tr>")
    return f"<div class=scroll><table class=photos><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def _pictures(shown: Shown, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes, str]]:
    """Return title, pixels and caption of each picture of a row."""
    first = rows[0]
    restored = [(label, row["restored"], shown.caption(row)) for (label, _), row in zip(shown.runs, rows, strict=True)]
    return [("noisy", first["noisy"], ""), *restored, ("clean", first["clean"], shown.name(first["label"]))]


def _show(axes: Axes, content: bytes, row: Mapping[str, Any], theme: str) -> None:
    axes.imshow(np.frombuffer(content, np.uint8).reshape(row["height"], row["width"], 3), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(THEMES[theme]["ink"])
        spine.set_linewidth(0.5)


def _cell(content: bytes, row: Mapping[str, Any], title: str, caption: str) -> str:
    uri = base64.b64encode(png(content, row["height"], row["width"])).decode()
    alt = html.escape(f"{title}, σ = {row['sigma']:g}")
    return f'<td><img src="data:image/png;base64,{uri}" alt="{alt}">{html.escape(caption)}</td>'
