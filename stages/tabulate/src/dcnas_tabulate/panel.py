"""Figure 3 on the page: each image once, at its own pixels, enlarged by the reader's browser; so it is small and sharp."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dcnas_schema.scenes import DIGIT_SIZE
from dcnas_tabulate.layout import Run
from dcnas_tabulate.records import read_panel

_SCENE_PX, _ZOOM_PX = 136, 112
"""Sides of a scene and of its enlarged first digit on the page, in CSS pixels."""
PANEL_STYLE = f"""
table.panel td, table.panel th {{ border: 0; padding: .2rem; text-align: center; font-size: .74rem; vertical-align: top; }}
table.panel th {{ background: none; vertical-align: bottom; white-space: normal; }}
table.panel tbody th {{ vertical-align: middle; white-space: nowrap; }}
table.panel div {{ background-image: var(--i); background-repeat: no-repeat; image-rendering: pixelated; margin: 0 auto .3rem; }}
table.panel .whole {{ background-size: 100% 100%; outline: 1px solid var(--faint); position: relative; width: {_SCENE_PX}px; }}
table.panel .whole i {{ border: 1.5px solid #d55e00; box-sizing: border-box; position: absolute; }}
table.panel .zoom {{ border: 1.5px solid #d55e00; height: {_ZOOM_PX}px; width: {_ZOOM_PX}px; }}
"""


def shown_panels(runs: Sequence[Run]) -> list[tuple[Run, list[dict[str, Any]]]]:
    """Return the runs that restore, each with the first scene's rows of its first seed's panel, a row a noise level."""
    first = [(run, read_panel(run.paths[0])) for run in runs if run.paths]
    return [(run, [row for row in rows if row["scene"] == 0]) for run, rows in first if rows[0]["restored"] is not None]


def caption(predicted: Sequence[int] | None, label: Sequence[int]) -> str:
    """Return each digit's predicted class with a tick or a cross; empty for a model that predicts none."""
    if predicted is None:
        return ""
    return "  ".join(f"{p} {'✓' if p == truth else '✗'}" for p, truth in zip(predicted, label, strict=True))


def panel_html(runs: Sequence[Run]) -> str:
    """
    Return clean, noisy and restored scenes as a table, a row a noise level and a column a model, with the first digit enlarged and each
    digit's predicted class below; a word instead where no model restores.
    """
    shown = shown_panels(runs)
    if not shown:
        return "<p class=note>No model that restores has a record.</p>"
    titles = ["", "clean", "noisy", *(run.label for run, _ in shown)]
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = []
    for number, first in enumerate(shown[0][1]):
        cells = [_cell(first["clean"], first, "clean", ""), _cell(first["noisy"], first, "noisy", "")]
        for run, rows in shown:
            row = rows[number]
            cells.append(_cell(row["restored"], row, run.label, caption(row["predicted"], row["label"])))
        body.append(f"<tr><th>σ = {first['sigma']:g}</th>{''.join(cells)}</tr>")
    return f"<div class=scroll><table class=panel><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def png(content: bytes, height: int, width: int) -> bytes:
    """Return RGB pixels, uint8, row-major, as PNG: in one channel where the three are equal."""
    pixels = np.frombuffer(content, np.uint8).reshape(height, width, 3)
    gray = bool((pixels == pixels[..., :1]).all())
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if gray else pixels).save(file, "png", optimize=True)
    return file.getvalue()


def _cell(content: bytes, row: dict[str, Any], name: str, text: str) -> str:
    height, width = row["height"], row["width"]
    top, left = row["corners"][:2]
    uri = base64.b64encode(png(content, height, width)).decode()
    box = ";".join(
        f"{side}:{100 * part / whole:.2f}%"
        for side, part, whole in (
            ("top", top, height),
            ("left", left, width),
            ("height", DIGIT_SIZE, height),
            ("width", DIGIT_SIZE, width),
        )
    )
    scale = _ZOOM_PX / DIGIT_SIZE
    zoom = f"background-size:{scale * width:g}px {scale * height:g}px;background-position:{-scale * left:g}px {-scale * top:g}px"
    alt = html.escape(f"{name}, σ = {row['sigma']:g}")
    return (
        f'<td style="--i:url(data:image/png;base64,{uri})"><div class=whole role=img aria-label="{alt}" '
        f'style="height:{_SCENE_PX * height / width:g}px"><i style="{box}"></i></div>'
        f'<div class=zoom style="{zoom}"></div>{html.escape(text)}</td>'
    )
