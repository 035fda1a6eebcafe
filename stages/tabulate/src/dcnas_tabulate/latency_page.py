"""What a latency profile says of itself, for readers: Markdown, CSV, and a section of the report page; it measures nothing."""

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnas_harness.files import sha256_of
from dcnas_latency.files import read_profile
from dcnas_schema.latency import Entry, GateCheck, ProfileMetadata
from dcnas_tabulate.latency_figures import FIGURES
from dcnas_tabulate.page import drawing, list_html
from dcnas_tabulate.sentences import card_items, percent

_COLUMNS = ("section", "item", "quantity", "value", "unit", "limit", "passed", "note")
_READING = (
    "Predicted = scale x (sum over the table) + overhead, fitted on {fitted} whole nets, {full} of them of full depth, and tested on the "
    "held-out ones. Errors are in per cent of the measured latency: MAPE their mean size, bias their mean. Latencies are of one forward "
    "pass of a whole batch."
)
_LEVELLED = "what they cost, as told by all subjects timed about then, is taken out of every figure alike"
_SIMULATED = "The device is a formula: these times test the pipeline and say nothing of any machine."


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyResult:
    """A latency profile as read, with the file and its SHA-256."""

    source: Path
    sha256: str
    entries: tuple[Entry, ...]
    metadata: ProfileMetadata

    @classmethod
    def read(cls, path: Path) -> "LatencyResult":
        """Return the profile in `path`; raises CorruptArtefactError where it is missing or damaged."""
        entries, metadata = read_profile(path)
        return cls(source=path, sha256=sha256_of(path), entries=entries, metadata=metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A small table of texts; `text_columns` are set left, the others right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: frozenset[int]


def latency_markdown(result: LatencyResult) -> str:
    """Return the profile's summary as Markdown: setting, accuracy on held-out nets, plan, noise gate, protocol and device."""
    metadata = result.metadata
    parts = ["## Latency profile"]
    if banner := noisy_banner(metadata):
        parts.append(f"**{banner}**")
    if _simulated(metadata):
        parts.append(_SIMULATED)
    parts += [
        _bullets(_setting_items(metadata)),
        "### The predictor on held-out whole nets",
        _markdown_grid(_accuracy_grid(metadata)),
        *map(_markdown_grid, _depth_grids(metadata)),
        _reading(metadata),
        "### The table over the width",
        _bullets(_plan_items(metadata)),
        f"### Noise gate: {_verdict(metadata)}",
        _markdown_grid(_gate_grid(metadata)),
        "### How it was measured",
        _bullets([*_protocol_items(metadata), *_source_items(result)]),
        f"### Device: {metadata.device.name}",
        _bullets(card_items(metadata.device)),
    ]
    return "\n\n".join(parts) + "\n"


def latency_csv(metadata: ProfileMetadata) -> str:
    """Return accuracy, calibration, plan and noise gate as CSV, a row a quantity, at full precision."""
    rows: list[tuple[object, ...]] = []
    for one in metadata.accuracy:
        values = one.model_dump(exclude={"kind"})
        rows += [("accuracy", one.kind, name, value, _unit(name), "", "", "") for name, value in values.items()]
    for part in metadata.depths:
        item, values = f"{part.kind} {part.depth}", part.model_dump(exclude={"kind", "depth"})
        rows += [("accuracy by depth", item, name, value, _unit(name), "", "", "") for name, value in values.items()]
    fit = metadata.calibration
    for kind in fit.scale:
        rows.append(("calibration", kind, "scale", fit.scale[kind], "", "", "", ""))
        rows.append(("calibration", kind, "overhead_ms", fit.overhead_ms[kind], "ms", "", "", ""))
        rows.append(("calibration", kind, "spread_pct", fit.spread_pct[kind], "%", "", "", ""))
        rows.append(("calibration", kind, "interval_pct", fit.interval_pct[kind], "%", "", "", ""))
    pooled = fit.model_dump(include={"confidence", "fitted_on", "fitted_on_full_depth"})
    rows += [("calibration", "all", name, value, _unit(name), "", "", "") for name, value in pooled.items()]
    plan = metadata.plan.model_dump()
    rows += [("plan", "all", name, value, _unit(name), "", "", "") for name, value in plan.items()]
    for check in metadata.gate.checks:
        value = "" if check.value is None else check.value
        rows.append(("gate", check.name, "value", value, check.unit, check.limit, check.passed, check.reason))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    return buffer.getvalue()


def latency_section(result: LatencyResult, figures: Path) -> str:
    """Return the page's section on the profile, with the figures that stand in the folder `figures` inside."""
    metadata = result.metadata
    parts = ["<h2 id=latency>Latency profile</h2>"]
    if banner := noisy_banner(metadata):
        parts.append(f"<p class=noisy role=alert>{html.escape(banner)}</p>")
    if _simulated(metadata):
        parts.append(f"<p class=note>{_SIMULATED}</p>")
    parts += [
        list_html(_setting_items(metadata)),
        "<h3>The predictor on held-out whole nets</h3>",
        _html_grid(_accuracy_grid(metadata)),
        *map(_html_grid, _depth_grids(metadata)),
        f"<p class=note>{html.escape(_reading(metadata))}</p>",
        *(f"<h3>{html.escape(title)}</h3>{drawing(figures, name, title)}" for name, (_, title) in FIGURES.items()),
        "<h3>The table over the width</h3>",
        list_html(_plan_items(metadata)),
        f"<h3>Noise gate: {_verdict(metadata)}</h3>",
        _html_grid(_gate_grid(metadata)),
        "<h3>How the profile was measured</h3>",
        list_html([*_protocol_items(metadata), *_source_items(result)]),
        f"<h3>The profile's device: {html.escape(metadata.device.name)}</h3>",
        list_html([*card_items(metadata.device), *_state_absences(metadata)]),
    ]
    return "\n".join(parts)


def noisy_banner(metadata: ProfileMetadata) -> str:
    """Return the warning that everything made from a profile which failed its noise gate, or is not trusted, carries; else nothing."""
    failed = [check.name for check in metadata.gate.checks if not check.passed]
    if not failed and metadata.gate.trusted:
        return ""
    if not failed:
        return (
            f"NOT TRUSTED: the device does not tell of {'; '.join(metadata.gate.untold)}. The noise gate found nothing else, but nobody "
            "knows what disturbed these latencies."
        )
    return (
        f"NOISY: the noise gate did not pass ({'; '.join(failed)}). These latencies, and what is predicted from them, are not to be "
        "relied on; they were recorded because profile_latency.allow_noisy is set."
    )


def _simulated(metadata: ProfileMetadata) -> bool:
    return metadata.setting.runtime == "simulated"


def _reading(metadata: ProfileMetadata) -> str:
    fit = metadata.calibration
    return _READING.format(fitted=fit.fitted_on, full=fit.fitted_on_full_depth)


def _verdict(metadata: ProfileMetadata) -> str:
    return metadata.gate.verdict


def _accuracy_grid(metadata: ProfileMetadata) -> Grid:
    fit = metadata.calibration
    head = (
        "Kind of net",
        "Held-out nets",
        "Of full depth",
        "MAPE (%)",
        "Within 5 % (%)",
        "Within 10 % (%)",
        "Spearman",
        "Kendall",
        "Bias (%)",
        "Worst (%)",
        f"Inside the {percent(fit.confidence)} interval (%)",
        "MAPE of the plain table (%)",
        "Interval (±%)",
        "Scale",
        "Overhead (ms)",
    )
    rows = tuple(
        (
            one.kind,
            str(one.nets),
            str(one.full_depth),
            f"{one.mape_pct:.2f}",
            f"{one.within_5_pct:.0f}",
            f"{one.within_10_pct:.0f}",
            f"{one.spearman:.3f}",
            f"{one.kendall:.3f}",
            f"{one.bias_pct:+.2f}",
            f"{one.worst_pct:.2f}",
            f"{one.inside_interval_pct:.0f}",
            f"{one.table_mape_pct:.2f}",
            f"{fit.interval_pct[one.kind]:.1f}",
            f"{fit.scale[one.kind]:.3f}",
            f"{fit.overhead_ms[one.kind]:.3f}",
        )
        for one in metadata.accuracy
    )
    return Grid(head=head, rows=rows, text_columns=frozenset({0}))


def _depth_grids(metadata: ProfileMetadata) -> list[Grid]:
    """Return the errors apart by depth as a table; none where all nets have full depth (profiles before version 3)."""
    head = (
        "Kind and depth",
        "Held-out nets",
        "MAPE (%)",
        "Bias (%)",
        "Worst (%)",
        "Spearman",
        "MAPE of the plain table (%)",
    )
    rows = tuple(
        (
            f"{one.kind}, {one.depth}",
            str(one.nets),
            f"{one.mape_pct:.2f}",
            f"{one.bias_pct:+.2f}",
            f"{one.worst_pct:.2f}",
            f"{one.spearman:.3f}",
            f"{one.table_mape_pct:.2f}",
        )
        for one in metadata.depths
    )
    return [Grid(head=head, rows=rows, text_columns=frozenset({0}))] if rows else []


def _gate_grid(metadata: ProfileMetadata) -> Grid:
    head = ("Check", "Found", "Limit", "Passed", "Remark", "Remedy")
    return Grid(
        head=head, rows=tuple(_gate_row(check) for check in metadata.gate.checks), text_columns=frozenset({0, 3, 4, 5})
    )


def _gate_row(check: GateCheck) -> tuple[str, ...]:
    found = "not told" if check.value is None else f"{check.value:.3g} {check.unit}".rstrip()
    limit = f"{check.limit:g} {check.unit}".rstrip()
    remedy = "" if check.passed else check.remedy
    return check.name, found, limit, "yes" if check.passed else "NO", check.reason, remedy


def _setting_items(metadata: ProfileMetadata) -> list[tuple[str, str]]:
    setting = metadata.setting
    provider = f" ({setting.provider})" if setting.provider else ""
    return [
        ("device", metadata.device.name),
        ("runtime", f"{setting.runtime}{provider}, {setting.precision}, {setting.memory_format}"),
        ("input", f"batch of {setting.batch}, {setting.height}x{setting.width} pixels, {setting.classes} classes"),
        ("threads", str(setting.threads)),
    ]


def _plan_items(metadata: ProfileMetadata) -> list[tuple[str, str]]:
    plan = metadata.plan
    if plan.stairs:
        step = f"a staircase: every begun {plan.modulus} channels cost as many"
    elif plan.modulus == plan.width_multiple:
        step = "none seen"
    else:
        step = f"multiples of {plan.modulus} run {plan.modulus_gain_pct:.1f} % under the others' line"
    error = f"off by {plan.mean_error_pct:.1f} % in the mean, bias {plan.bias_pct:+.1f} %, worst {plan.worst_error_pct:.1f} %"
    return [
        ("entries", f"{plan.entries}, widths in multiples of {plan.width_multiple} channels"),
        ("alignment step", step),
        ("interpolation", f"{error}, at {plan.held_out} held-out widths" if plan.held_out else "not tested"),
    ]


def _protocol_items(metadata: ProfileMetadata) -> list[tuple[str, str]]:
    protocol = metadata.protocol
    rejected = ", ".join(f"{count} for {reason}" for reason, count in protocol.rejected.items()) or "none"
    where = "between marks inside whole nets" if protocol.in_context else "each alone"
    return [
        ("parts timed", where),
        ("samples", f"up to {protocol.rounds} rounds over {protocol.processes} processes that take turns"),
        ("before each", f"{protocol.warm_calls} untimed calls; cache {metadata.setting.cache}; clock {protocol.clock}"),
        ("canary", f"reference {protocol.canary_reference_ms:.3g} ms, band {protocol.canary_band_pct:g} %"),
        ("rejected", rejected),
        ("quiet moments", f"canary {protocol.session_slow_pct:.1f} % above its reference"),
        ("intervals of medians", f"{100 * protocol.interval_confidence:.3g} %, which so many rounds attain"),
        ("slow moments", _LEVELLED if protocol.levelled else "left in the samples that were accepted"),
        ("duration", f"{protocol.seconds:.0f} s"),
    ]


def _source_items(result: LatencyResult) -> list[tuple[str, str]]:
    provenance = result.metadata.provenance
    return [
        ("profile", f"{result.source.as_posix()}, SHA-256 {result.sha256}"),
        ("commit", provenance.commit or "not a git checkout"),
        ("changed since the commit", ", ".join(provenance.dirty or ()) or "nothing"),
        ("seed", str(provenance.seed)),
        ("versions", ", ".join(f"{name} {version}" for name, version in provenance.versions.items())),
    ]


def _state_absences(metadata: ProfileMetadata) -> list[tuple[str, str]]:
    reasons = {name: reason for _, state in metadata.states for name, reason in state.absent.items()}
    return [(f"{name} over the run absent", reason) for name, reason in sorted(reasons.items())]


def _unit(quantity: str) -> str:
    return {"pct": "%", "ms": "ms"}.get(quantity.rsplit("_", 1)[-1], "")


def _bullets(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in items)


def _markdown_grid(grid: Grid) -> str:
    lines = [grid.head, *grid.rows]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(grid.head))]
    rule = ["-" * width if i in grid.text_columns else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def _html_grid(grid: Grid) -> str:
    kinds = ["text" if i in grid.text_columns else "" for i in range(len(grid.head))]
    head = "".join(f"<th class='{kind}'>{html.escape(cell)}</th>" for kind, cell in zip(kinds, grid.head, strict=True))
    rows = "".join(
        "<tr>"
        + "".join(f"<td class='{k}'>{html.escape(cell)}</td>" for k, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in grid.rows
    )
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
