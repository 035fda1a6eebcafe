"""The report: one self-contained HTML page with tables, figures, device card and protocol, light and dark."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from dcnas_harness.files import write_text
from dcnas_lineage.cells import NOISY
from dcnas_schema.params import Params
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import EvaluationMetadata, MeasuredLatency
from dcnas_tabulate.layout import Run
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
td.text { font-size: .78rem; }
img { max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
p.note { font-size: .9rem; max-width: 60rem; }
p.noisy { background: #d55e00; color: #000000; font-weight: 700; max-width: 60rem; padding: .6rem .9rem; }
"""

_READING = (
    "Cells: mean over seeds ± half the width of its {confidence:.0%} interval (Student); the mean over all noise levels, and over "
    "those above 0, because PSNR without noise is unbounded. A cell is marked better only where the interval of the difference, seed "
    "by seed, leaves out zero. MACs of one scene of {size}x{size} pixels with one digit classified, as the paper's figures are. "
    "Latency: {latency}. The paper's columns are its own, on its own device (GeForce RTX 3090) and data (MNIST); its latency is not "
    "synchronised."
)
_NOISE = (
    "{mark} Noisy: the device was not left alone while this latency was timed ({reasons}). The record has the counts; to time it again: "
    "dvc repro --force --single-item evaluate@MODEL-SEED."
)


def footer(params: Params, runs: Sequence[Run]) -> str:
    """Return the notes under every printed table: protocol and device, from the records themselves."""
    lines = [_reading(params, runs), ""]
    if noise := _noise(runs):
        lines += [noise, ""]
    lines += [f"Preset {params.preset}. {_data_note(params)}", ""]
    lines += [f"- {line}" for line in _protocol_lines(_any(runs))]
    lines += [f"- device: {_card_line(card)}" for card in _cards(runs)]
    return "\n".join(lines) + "\n"


def write_page(params: Params, runs: Sequence[Run], tables: Sequence[Table], out: Path, *, latency: str = "") -> None:
    """
    Write `index.html` into `out`, with the figures that stand in `out`/figures inside.

    Args:
        latency: HTML of the section on the latency profile; empty without one.
    """
    metadata = _any(runs)
    parts = [
        f"<h1>dcnas: preset {html.escape(params.preset)}</h1>",
        f"<p class=note>{html.escape(_data_note(params))}</p>",
        f"<p class=note>{html.escape(_reading(params, runs))}</p>",
        f"<p class=note>{html.escape(noise)}</p>" if (noise := _noise(runs)) else "",
        *(_table_html(table) for table in tables),
        "<h2>Curves over the noise level</h2>",
        picture(out / "figures", "curves", "svg", "PSNR, SSIM and top-1 of every model over the noise level"),
        "<h2>Figure 3: restored scenes</h2>",
        picture(out / "figures", "figure_3", "png", "Clean, noisy and restored scenes at several noise levels"),
        latency,
        "<h2>Protocol</h2>",
        list_html(line.split(": ", 1) for line in _protocol_lines(metadata)),
        *(f"<h2>Device: {html.escape(card.name)}</h2>{list_html(card_items(card))}" for card in _cards(runs)),
        "<h2>Provenance</h2>",
        list_html(_provenance_items(runs)),
    ]
    body = "\n".join(part for part in parts if part)
    write_text(
        out / "index.html",
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f"<title>dcnas: {html.escape(params.preset)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
    )


def _reading(params: Params, runs: Sequence[Run]) -> str:
    measured = next((m.latency for run in runs for m in run.metadata if m.latency), None)
    latency = (
        f"median [5th, 95th percentile] of the wall time of a synchronised pass of a whole batch of {measured.batch}{_rejection(measured)}"
        if measured
        else "not measured (evaluate.latency.measure is off)"
    )
    return _READING.format(confidence=params.tabulate.confidence, size=_any(runs).cost.height, latency=latency)


def _rejection(latency: MeasuredLatency) -> str:
    if latency.canary_band_pct is None:
        return ""
    return (
        f", passes left out that faulted in pages, waited for a processor, or stood beside a reference op more than "
        f"{latency.canary_band_pct:g}% slower than its best"
    )


def _noise(runs: Sequence[Run]) -> str:
    """Return what the mark of a noisy latency means, with the reasons that the records give; empty where none is noisy."""
    latencies = [metadata.latency for run in runs for metadata in run.metadata if metadata.latency]
    reasons = sorted({reason for latency in latencies for reason in latency.noise})
    return _NOISE.format(mark=NOISY, reasons="; ".join(reasons)) if reasons else ""


def _data_note(params: Params) -> str:
    digits = params.generate_data.digits
    counts = digits.scenes
    return (
        f"Scenes of {digits.source} digits: {counts.train} for training, {counts.validation} for validation, {counts.test} for testing, "
        f"from disjoint source digits."
    )


def _any(runs: Sequence[Run]) -> EvaluationMetadata:
    return next(metadata for run in runs for metadata in run.metadata)


def _cards(runs: Sequence[Run]) -> list[DeviceCard]:
    cards = (metadata.card for run in runs for metadata in run.metadata)
    return list({card.model_dump_json(): card for card in cards}.values())


def _protocol_lines(metadata: EvaluationMetadata) -> list[str]:
    protocol = metadata.protocol
    sigmas = ", ".join(f"{sigma:g}" for sigma in protocol.sigmas)
    clip = "clipped to [0, 1]" if protocol.clip_noisy else "not clipped"
    return [
        f"noise: σ in {sigmas} of the [0, 1] range; noisy images {clip}; seed {protocol.noise_seed}",
        f"PSNR: {protocol.psnr}",
        f"SSIM: {protocol.ssim}",
        f"precision: {protocol.precision}",
    ]


def _card_line(card: DeviceCard) -> str:
    return "; ".join(f"{name} {value}" for name, value in card_items(card))


def card_items(card: DeviceCard) -> list[tuple[str, str]]:
    """Return what the device gives, then what it does not with the reason."""
    values = card.model_dump()
    absent = values.pop("absent")
    items = [(name, str(value)) for name, value in values.items() if value is not None]
    return items + [(f"{name} absent", reason) for name, reason in absent.items()]


def _provenance_items(runs: Sequence[Run]) -> list[tuple[str, str]]:
    records = [metadata.provenance for run in runs for metadata in run.metadata]
    commits = sorted({record.commit or "not a git checkout" for record in records})
    dirty = sorted({path for record in records for path in record.dirty or ()})
    versions = records[0].versions
    return [
        ("commit", ", ".join(commits)),
        ("changed since the commit", ", ".join(dirty) or "nothing"),
        ("seeds", ", ".join(sorted({str(record.seed) for record in records}))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("to check a cell", "dcnas audit results/table_1 --cell 'ROW,COLUMN'"),
    ]


def _table_html(table: Table) -> str:
    columns = table.layout.columns
    kinds = ["paper" if c.reducer == "reference" else "text" if c.reducer == "paths" else "" for c in columns]
    head = "".join(f"<th class='{kind}'>{html.escape(c.title)}</th>" for kind, c in zip(kinds, columns, strict=True))
    rows = []
    for row in table.rows:
        cells = []
        for kind, cell in zip(kinds, row, strict=True):
            marked = "better" if cell is not None and cell.marked_better else kind
            cells.append(f"<td class='{marked}'>{html.escape(printed(cell).strip('*'))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "".join(rows) or "<tr><td>No model of this kind is in runs.models.</td></tr>"
    heading = f"<h2>{html.escape(table.layout.title)}</h2>"
    return f"{heading}<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def picture(folder: Path, name: str, kind: str, alt: str) -> str:
    """Return `<name>_light` and `<name>_dark` of `folder` as one picture that follows the reader's scheme, their bytes inside."""
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    light, dark = (
        f"data:{mime};base64,{base64.b64encode((folder / f'{name}_{theme}.{kind}').read_bytes()).decode()}"
        for theme in ("light", "dark")
    )
    return f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)"><img src="{light}" alt="{html.escape(alt)}"></picture>'


def list_html(items: Iterable[Sequence[str]]) -> str:
    """Return pairs of a name and a text as a description list."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in items) + "</dl>"
