"""The report: one self-contained HTML page with tables, figures, device card and protocol, light and dark."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from dcnas_harness.files import write_text
from dcnas_schema.params import Params
from dcnas_schema.provenance import Provenance
from dcnas_tabulate.drawing import inline_svg
from dcnas_tabulate.layout import Column, Run
from dcnas_tabulate.notes import cards, data_note, doubts, protocol_lines, reading
from dcnas_tabulate.panel import PANEL_STYLE, panel_html
from dcnas_tabulate.sentences import accepted_lines, card_items, exact_lines, sentence_case
from dcnas_tabulate.tables import Table, printed

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #ffffff; --faint: #d0d7de; --soft: #f6f8fa; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --faint: #30363d; --soft: #161b22; --accent: #56b4e9; }
}
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 92rem; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin-top: 2.4rem; }
h3 { font-size: 1rem; margin-top: 1.6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--faint); padding: .3rem .5rem; text-align: right; font-size: .86rem; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
th { background: var(--soft); font-weight: 600; }
td.paper, th.paper { color: color-mix(in srgb, var(--ink) 65%, var(--paper)); }
td.better { color: var(--accent); font-weight: 700; }
tr.faint td { color: color-mix(in srgb, var(--ink) 60%, var(--paper)); }
td.text { font-size: .78rem; }
svg.figure { display: block; width: 100%; height: auto; }
svg.figure * { stroke-linejoin: round; stroke-linecap: butt; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
nav { font-size: .9rem; }
nav a { color: var(--accent); }
p.note { font-size: .9rem; max-width: 60rem; }
p.noisy { background: #d55e00; color: #000000; font-weight: 700; max-width: 60rem; padding: .6rem .9rem; }
"""

_PAGES = {"index.html": "two-digit scenes and the latency profile", "photos.html": "photographs and searches"}
"""The pages that stand beside each other in the folder of results, and what each is of."""


def write_page(params: Params, runs: Sequence[Run], tables: Sequence[Table], out: Path, *, latency: str = "") -> None:
    """
    Write `index.html` into `out`, with the figures that stand in `out`/figures inside.

    Args:
        latency: HTML of the section on the latency profile; empty without one.
    """
    parts = [
        f"<h1>dcnas: preset {html.escape(params.preset)}</h1>",
        f"<p class=note>{html.escape(data_note(params, runs))}</p>",
        *(_table_html(params, table) for table in tables),
        "<h2>Curves over the noise level</h2>",
        drawing(out / "figures", "curves", "PSNR, SSIM and top-1 of every model over the noise level"),
        "<h2>Figure 3: restored scenes</h2>",
        panel_html(runs),
        latency,
        "<h2>Protocol</h2>",
        list_html(line.split(": ", 1) for line in protocol_lines(runs)),
        *(f"<h2>Device: {html.escape(card.name)}</h2>{list_html(card_items(card))}" for card in cards(runs)),
        "<h2>Provenance</h2>",
        list_html(provenance_items([m.provenance for run in runs for m in run.metadata], "table_1")),
    ]
    write_html(out / "index.html", f"dcnas: {params.preset}", parts, style=PANEL_STYLE)


def write_html(path: Path, title: str, parts: Iterable[str], *, style: str = "") -> None:
    """
    Write a page of `parts`, which are HTML, below a line that leads to the other page; empty ones are left out.

    Args:
        style: Further rules, behind those that every page has.
    """
    body = "\n".join(part for part in (_navigation(path.name), *parts) if part)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
    )


def _navigation(here: str) -> str:
    """Return the line that names all pages: this one as where the reader is, the other as a link, which needs no server."""
    items = [
        f"<b aria-current=page>{title}</b>" if name == here else f'<a href="{name}">{title}</a>'
        for name, title in _PAGES.items()
    ]
    return f"<nav>Results: {' | '.join(items)}</nav>"


def provenance_items(records: Sequence[Provenance], table: str) -> list[tuple[str, str]]:
    """Return what the page says of where its figures come from; `table` is one whose cells can be checked."""
    commits = sorted({record.commit or "not a git checkout" for record in records})
    dirty = sorted({path for record in records for path in record.dirty or ()})
    versions = {
        name: sorted({r.versions[name] for r in records if name in r.versions}) for r in records for name in r.versions
    }
    return [
        ("commit", ", ".join(commits)),
        ("changed since the commit", ", ".join(dirty) or "nothing"),
        ("seeds", ", ".join(map(str, sorted({record.seed for record in records if record.seed is not None})))),
        ("versions", ", ".join(f"{name} {' or '.join(found)}" for name, found in versions.items())),
        ("to check a cell", f"dcnas audit results/{table} --cell 'ROW,COLUMN'"),
    ]


def _table_html(params: Params, table: Table) -> str:
    notes = [
        reading(params, table),
        doubts(table),
        *sentence_case(exact_lines(path for run in table.layout.runs for path in run.paths)),
        *sentence_case(accepted_lines(table)),
    ]
    return table_html(table, notes)


def table_html(table: Table, notes: Iterable[str], *, left_out: str | None = None) -> str:
    """
    Return a table with its heading, and below it the notes that are not empty.

    Args:
        left_out: Rows whose last cell says this are faint, and say it behind their name too.
    """
    columns = table.layout.columns
    kinds = [_kind_of(number, column) for number, column in enumerate(columns)]
    head = "".join(f"<th class='{kind}'>{html.escape(c.title)}</th>" for kind, c in zip(kinds, columns, strict=True))
    rows = []
    for row in table.rows:
        cells = []
        for kind, cell in zip(kinds, row, strict=True):
            marked = "better" if cell is not None and cell.marked_better else kind
            cells.append(f"<td class='{marked}'>{html.escape(printed(cell).strip('*'))}</td>")
        last = row[-1]
        if left_out is not None and last is not None and last.text == left_out:
            cells[0] = cells[0].replace("</td>", f" <i>{html.escape(left_out)}</i></td>")
            rows.append(f"<tr class=faint>{''.join(cells)}</tr>")
        else:
            rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "".join(rows) or "<tr><td>No model of this kind is in runs.models.</td></tr>"
    heading = f"<h2>{html.escape(table.layout.title)}</h2>"
    below = "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes if note)
    return f"{heading}<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{below}"


def _kind_of(number: int, column: Column) -> str:
    if column.reducer == "reference":
        return "paper"
    return "text" if column.reducer == "paths" or (column.reducer == "label" and number) else ""


def drawing(folder: Path, name: str, alt: str) -> str:
    """Return the drawing `<name>_light.svg` of `folder` as a part of the page that takes the page's colours, light or dark."""
    return inline_svg((folder / f"{name}_light.svg").read_text(encoding="utf-8"), alt)


def list_html(items: Iterable[Sequence[str]]) -> str:
    """Return pairs of a name and a text as a description list."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in items) + "</dl>"
