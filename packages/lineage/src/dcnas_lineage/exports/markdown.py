"""The Markdown of the project's own tables as HTML: headings, pipe tables, lists, bold; nothing else is written there."""

import html
import re
from itertools import groupby, zip_longest

_SHOWN = ("†", "**")
"""How remarks begin that a reader must not miss, so that they are never folded."""


def rendered(text: str) -> tuple[str, str]:
    """Return the first heading and the rest as HTML; what stands behind the last table is folded, warnings left out of the fold."""
    lines = [line for line in text.splitlines() if line]
    title = next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
    lines = [line for line in lines if line.lstrip("# ") != title or not line.startswith("#")]
    tables = [place for place, line in enumerate(lines) if line.startswith("|")]
    end = tables[-1] + 1 if tables else len(lines)
    shown = [line for line in lines[end:] if line.startswith(_SHOWN)]
    notes = _blocks([line for line in lines[end:] if line not in shown])
    folded = f'<details class="plain"><summary class="note">Notes</summary><div class="note">{notes}</div></details>'
    return title, f"{_blocks(lines[:end])}{_blocks(shown)}{folded if notes else ''}"


def _blocks(lines: list[str]) -> str:
    return "".join(_block(kind, list(block)) for kind, block in groupby(lines, key=_kind_of))


def _kind_of(line: str) -> str:
    return (
        "table"
        if line.startswith("|")
        else "list"
        if line.startswith("- ")
        else "heading"
        if line[0] == "#"
        else "text"
    )


def _block(kind: str, lines: list[str]) -> str:
    if kind == "table":
        rules = [place for place, line in enumerate(lines) if not line.strip("|-: ")]
        starts = [rule - 1 for rule in rules if rule > 0]  # tables that only blank lines set apart
        return "".join(_grid(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True))
    if kind == "list":
        return f"<ul>{''.join(f'<li>{_bold(line[2:])}</li>' for line in lines)}</ul>"
    tag = "h4" if kind == "heading" else "p"
    return "".join(f"<{tag}>{_bold(line.lstrip('# '))}</{tag}>" for line in lines)


def _grid(lines: list[str]) -> str:
    """Return a table, its columns aligned as its second line says."""
    head, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|" if n == 1 else " | ")] for n, line in enumerate(lines)
    ]
    kinds = ["number" if mark.endswith(":") else "left" for mark in rule]

    def row(cells: list[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="{kind}">{_bold(cell)}</{tag}>' for cell, kind in zip_longest(cells, kinds, fillvalue="")
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f'<div class="scroll"><table class="results"><tr>{row(head, "th")}</tr>{body}</table></div>'


def _bold(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(text))
