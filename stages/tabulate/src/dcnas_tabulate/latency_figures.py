"""The figures of a latency profile: what each op costs where, the predictor's error, the curves over the width, the device over the run."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dcnas_harness.errors import CorruptArtefactError
from dcnas_latency.gate import REJECTED_THROTTLE_BITS
from dcnas_latency.table import LatencyKeyMissingError, LookupTable
from dcnas_schema.genotype import block_key
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.latency import Accuracy, Entry, NetTiming, PlanReport, ProfileMetadata
from dcnas_schema.provenance import DeviceState
from dcnas_schema.space import OPS, PLACES, NetKind, OpName, padded
from dcnas_tabulate.drawing import COLOURS, THEMES, new_figure, save_in_both_themes, style_axes

_MAP = "cividis"
_KIND_COLOURS: dict[NetKind, str] = {"c_nas": COLOURS[0], "d_nas": COLOURS[1], "dc_nas": COLOURS[2]}
_KIND_MARKERS: dict[NetKind, str] = {"c_nas": "o", "d_nas": "s", "dc_nas": "^"}
_SE_COLOURS = {0: COLOURS[0], 1: COLOURS[1], 2: COLOURS[2]}
"""By the width of the squeeze over the block's input channels."""
_STATES: tuple[tuple[str, str], ...] = (
    ("sm_clock_mhz", "SM clock\n(MHz)"),
    ("memory_clock_mhz", "memory clock\n(MHz)"),
    ("temperature_c", "temperature\n(°C)"),
    ("temperature_margin_c", "left until it\nslows (°C)"),
    ("power_w", "power\n(W)"),
    ("cpu_mhz", "CPU clock\n(MHz)"),
    ("cpu_pressure_pct", "waiting for a\nprocessor (%)"),
    ("load_average", "load\naverage"),
)
_CANARY = "canary"


def draw_latency(entries: Sequence[Entry], metadata: ProfileMetadata, out: Path) -> None:
    """Write every figure of `FIGURES` into the folder `out`, as `<name>_light.svg` and `<name>_dark.svg`."""
    for name, (draw, _) in FIGURES.items():
        save_in_both_themes(draw(entries, metadata, "light"), out / name)


def heat_map(entries: Sequence[Entry], metadata: ProfileMetadata, theme: str) -> Figure:
    """Return the latency of each op at each place, at the width with which a search starts; ops that were not profiled are left out."""
    names, ms = starting_latencies(entries, metadata)
    figure = new_figure((2.6 + 1.15 * max(len(names), 3), 8.4), theme)
    axes = figure.add_subplot()
    style_axes(axes, theme)
    axes.grid(visible=False)
    norm = Normalize(0, float(ms.max()))
    image = axes.imshow(ms, cmap=_MAP, norm=norm, aspect="auto", interpolation="nearest")
    for row, column in np.ndindex(*ms.shape):
        ink = _readable_on(colormaps[_MAP](norm(ms[row, column])))
        text = f"{ms[row, column]:#.3g}".rstrip(".")
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(names)), [_op_label(name) for name in names])
    labels = [_place_label(i, metadata) for i in range(len(PLACES))]
    axes.set_yticks(range(len(PLACES)), labels, family="monospace")
    axes.set_ylabel("place: network stage.block, channels in → out, input in pixels", labelpad=10)
    axes.set_xlabel(
        "candidate op: kernel, width at the start of a search over the input channels, squeeze and excitation"
    )
    bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05)
    bar.set_label("latency (ms a batch)", color=THEMES[theme]["ink"], fontsize=10)
    style_axes(bar.ax, theme)
    bar.ax.grid(visible=False)
    figure.tight_layout()
    return figure


def starting_latencies(entries: Sequence[Entry], metadata: ProfileMetadata) -> tuple[list[OpName], np.ndarray]:
    """
    Return the ops that the table covers, and their latency in ms, places x ops, each at its starting width.

    Raises:
        CorruptArtefactError: It covers none.
    """
    table = LookupTable.of(entries, modulus=metadata.plan.modulus, stairs=metadata.plan.stairs)
    height, width = padded(metadata.setting.height), padded(metadata.setting.width)
    names: list[OpName] = []
    columns = []
    for name, op in OPS.items():
        parts = [Part(block_key(p, name, height, width), p.in_channels * op.expand_ratio) for p in PLACES]
        try:
            columns.append([table.lookup(part) for part in parts])
        except LatencyKeyMissingError:
            continue  # profiled with a smaller set of ops
        names.append(name)
    if not names:
        raise CorruptArtefactError(
            "The latency table covers no candidate op at every place of the space.", remedy="profile the device again"
        )
    return names, np.array(columns).T


def calibration_plot(_entries: Sequence[Entry], metadata: ProfileMetadata, theme: str) -> Figure:
    """Return whole nets, predicted against measured, and the errors in per cent; hollow where the calibration was fitted on them."""
    ink = THEMES[theme]["ink"]
    figure = new_figure((13.5, 6.4), theme)
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        style_axes(axes, theme)
        axes.set_xlabel("predicted latency (ms a batch)")
        for kind in _KIND_COLOURS:
            _draw_nets(axes, [net for net in metadata.nets if net.kind == kind], relative=axes is right)
    ends = np.array(left.get_xlim())
    for kind, colour in _KIND_COLOURS.items():
        share = min(metadata.calibration.interval_pct[kind] / 100, 0.99)
        left.fill_between(ends, ends * (1 - share), ends * (1 + share), color=colour, alpha=0.1, lw=0)
        # predicted over measured, where measured is predicted * (1 - share) to predicted * (1 + share)
        right.axhspan(100 / (1 + share) - 100, 100 / (1 - share) - 100, color=colour, alpha=0.1, lw=0)
    left.plot(ends, ends, color=ink, lw=0.9)
    left.set_xlim(*ends)
    left.set_ylim(*_around([net.measured_ms for net in metadata.nets] + [*ends]))
    left.set_ylabel("measured latency (ms a batch)")
    right.axhline(0, color=ink, lw=0.9)
    for limit in (-10, -5, 5, 10):
        right.axhline(limit, color=ink, lw=0.8, ls=":")
    right.set_ylim(*_around([100 * (net.predicted_ms / net.measured_ms - 1) for net in metadata.nets] + [-11, 11]))
    right.set_ylabel("error of the prediction (% of the measured latency)")
    handles = [*_kind_handles(metadata.accuracy), *_use_handles(metadata, theme)]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, labelcolor=ink, fontsize=9.5)
    figure.tight_layout(rect=(0, 0.19, 1, 1))
    return figure


def width_curves(entries: Sequence[Entry], metadata: ProfileMetadata, theme: str) -> Figure:
    """Return the table over the width, a panel a kind of place; crosses are measured widths that the table does not use."""
    panels = _panels(entries)
    figure = new_figure((13.5, 10.5), theme)
    grid = figure.subplots(3, 4, squeeze=False).ravel()
    for number, (axes, (place, curves)) in enumerate(zip(grid, panels.items(), strict=False)):
        style_axes(axes, theme)
        for key, points in curves.items():
            _draw_width_curve(axes, key, points, metadata.plan)
        axes.set_title(place, color=THEMES[theme]["ink"], fontsize=9.5)
        axes.set_ylim(0, 1.2 * max(entry.median_ms for points in curves.values() for entry in points))
        if number + 4 >= len(panels):
            axes.set_xlabel("width (channels)")
        if number % 4 == 0:
            axes.set_ylabel("latency (ms a batch)")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    grid[-1].legend(
        handles=_curve_handles(metadata, theme),
        loc="center",
        frameon=False,
        labelcolor=THEMES[theme]["ink"],
        fontsize=9.5,
    )
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.055, top=0.965, hspace=0.28, wspace=0.22)
    return figure


def over_the_run(_entries: Sequence[Entry], metadata: ProfileMetadata, theme: str) -> Figure:
    """Return what the device tells of itself over the run, the canary first; upright lines where it was throttled."""
    given = [
        (name, title)
        for name, title in _STATES
        if any(getattr(state, name) is not None for _, state in metadata.states)
    ]
    if metadata.canary:
        given.insert(0, (_CANARY, "canary\n(ms)"))
    seconds = max((when for when, *_ in (*metadata.states, *metadata.canary)), default=0.0)
    scale, unit = (60.0, "min") if seconds > 300 else (1.0, "s")
    figure = new_figure((13.5, 0.9 + 1.35 * max(len(given), 1)), theme)
    rows = figure.subplots(max(len(given), 1), 1, sharex=True, squeeze=False).ravel()
    for axes, (name, title) in zip(rows, given, strict=False):
        style_axes(axes, theme)
        if name == _CANARY:
            _draw_canary(axes, metadata, theme, scale)
        else:
            _draw_state(axes, metadata.states, name, scale)
        axes.set_ylabel(title, fontsize=9)
    if not given:
        rows[0].set_axis_off()
        rows[0].text(0.5, 0.5, "the device tells nothing of its state", ha="center", color=THEMES[theme]["ink"])
    if seconds == 0:
        rows[-1].set_xlim(-0.05, 1)  # looked at once: without this the axis runs below nought
    rows[-1].set_xlabel(f"since the start ({unit})")
    figure.align_ylabels()
    figure.tight_layout()
    return figure


FIGURES: dict[str, tuple[Callable[[Sequence[Entry], ProfileMetadata, str], Figure], str]] = {
    "latency_heat_map": (heat_map, "Latency of each op at each place, at the width with which a search starts"),
    "latency_calibration": (calibration_plot, "Whole nets: predicted against measured latency, and the errors"),
    "latency_widths": (width_curves, "Latency over the width, measured points and the table between them"),
    "latency_run": (
        over_the_run,
        "The device over the run: samples beside a canary above the dotted line do not count; upright lines where the device slowed itself",
    ),
}
"""Name of the files -> what draws it, its title."""


def _readable_on(colour: Sequence[float]) -> str:
    """Return black or white, whichever contrasts more with `colour` (WCAG 2.2, relative luminance)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"


def _op_label(name: OpName) -> str:
    op = OPS[name]
    return f"{op.kernel_size}x{op.kernel_size}\n{op.expand_ratio}x{' SE' if op.se else ''}"


def _place_label(number: int, metadata: ProfileMetadata) -> str:
    place = PLACES[number]
    key = block_key(place, "k3_e3", padded(metadata.setting.height), padded(metadata.setting.width))
    size = f"{key.height}x{key.width}"
    return f"{place.stage}.{place.block + 1}  {place.in_channels:3} → {place.out_channels:3}  {size:>7}"


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Return axis limits that hold `values`: intervals of single points may leave the frame, lest one of them flattens all others."""
    low, high = min(values), max(values)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _draw_nets(axes: Axes, nets: Sequence[NetTiming], *, relative: bool) -> None:
    """Draw nets of one kind with the bootstrap interval of their measurement; hollow those of the fit."""
    for use in ("fit", "held_out"):
        mine = [net for net in nets if net.use == use]
        if not mine:
            continue
        predicted = np.array([net.predicted_ms for net in mine])
        middle, low, high = (
            np.array([getattr(net, name) for net in mine]) for name in ("measured_ms", "low_ms", "high_ms")
        )
        if relative:
            middle, low, high = (100 * (predicted / ms - 1) for ms in (middle, high, low))
        bars = np.maximum([middle - low, high - middle], 0)
        colour, marker = _KIND_COLOURS[mine[0].kind], _KIND_MARKERS[mine[0].kind]
        face = colour if use == "held_out" else "none"
        axes.errorbar(
            predicted, middle, bars, fmt=marker, ms=5.5, color=colour, mfc=face, elinewidth=0.8, alpha=0.9, zorder=3
        )


def _kind_handles(accuracy: Sequence[Accuracy]) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            color=_KIND_COLOURS[one.kind],
            ls="",
            marker=_KIND_MARKERS[one.kind],
            label=f"{one.kind}, {one.nets} held out: MAPE {one.mape_pct:.1f} %, {one.within_5_pct:.0f} % within 5 %, "
            f"{one.within_10_pct:.0f} % within 10 %, Spearman {one.spearman:.3f}",
        )
        for one in accuracy
    ]


def _use_handles(metadata: ProfileMetadata, theme: str) -> list[Line2D | Patch]:
    ink, fit = THEMES[theme]["ink"], metadata.calibration
    shares = ", ".join(f"{kind} ±{share:.1f} %" for kind, share in fit.interval_pct.items())
    interval = f"{100 * fit.confidence:g} % prediction interval: {shares}"
    return [
        Line2D([], [], color=ink, lw=0.8, ls=":", label="right: errors of ±5 % and ±10 %"),
        Line2D([], [], color=ink, ls="", marker="o", label="held out, with its median's interval"),
        Line2D([], [], color=ink, ls="", marker="o", mfc="none", label=f"one of the {fit.fitted_on} nets of the fit"),
        Patch(color=ink, alpha=0.2, lw=0, label=interval),
    ]


def _panels(entries: Sequence[Entry]) -> dict[str, dict[LatencyKey, list[Entry]]]:
    """Return the curves of each kind of place: places that take the same keys are one."""
    panels: dict[str, dict[LatencyKey, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        if entry.mid_channels is not None:
            key = entry.key
            panels[_panel_title(key)][key].append(entry)
    return {title: panels[title] for title in sorted(panels, key=lambda title: _panel_order(panels[title]))}


def _panel_title(key: LatencyKey) -> str:
    stages = sorted(
        {
            place.stage
            for place in PLACES
            if (place.in_channels, place.out_channels, place.stride) == (key.in_channels, key.out_channels, key.stride)
        }
    )
    stage = "/".join(map(str, stages))
    shape = f"{key.in_channels} → {key.out_channels}, stride {key.stride}, {key.height}x{key.width}"
    return f"network stage {stage}: {shape}"


def _panel_order(curves: dict[LatencyKey, list[Entry]]) -> tuple[int, int]:
    key = next(iter(curves))
    return key.in_channels, key.out_channels


def _draw_width_curve(axes: Axes, key: LatencyKey, points: Sequence[Entry], plan: PlanReport) -> None:
    colour = _SE_COLOURS[key.se_channels // key.in_channels]
    marker, line = ("o", "-") if key.kernel_size == 3 else ("s", "--")
    for aligned in (True, False):
        mine = sorted((e for e in points if e.role == "plan" and _aligned(e, plan) == aligned), key=_width)
        x, y = [_width(e) for e in mine], [e.median_ms for e in mine]
        face, joined = colour if aligned else "none", "" if plan.stairs else line
        axes.plot(x, y, color=colour, ls=joined, lw=1.1, marker=marker, ms=3.6, mfc=face, mec=colour, mew=0.9)
        axes.vlines(x, [e.low_ms for e in mine], [e.high_ms for e in mine], color=colour, lw=0.8, alpha=0.5)
    if plan.stairs:
        table = LookupTable.of(points, modulus=plan.modulus, stairs=True)
        ends = [_width(e) for e in points if e.role == "plan"]
        widths = list(range(min(ends), max(ends) + 1, plan.width_multiple))
        axes.plot(widths, [table.lookup(Part(key, w)) for w in widths], color=colour, ls=line, lw=1.1)
    held_out = [e for e in points if e.role == "held_out"]
    axes.plot(
        [_width(e) for e in held_out], [e.median_ms for e in held_out], "x", color=colour, ms=7, mew=1.8, zorder=4
    )


def _aligned(entry: Entry, plan: PlanReport) -> bool:
    """Return whether an entry is drawn full: a multiple of the modulus, or any on a staircase, which has one class alone."""
    return plan.stairs or _width(entry) % plan.modulus == 0


def _width(entry: Entry) -> int:
    assert entry.mid_channels is not None
    return entry.mid_channels


def _curve_handles(metadata: ProfileMetadata, theme: str) -> list[Line2D | Patch]:
    ink, plan = THEMES[theme]["ink"], metadata.plan
    titles = {0: "without SE", 1: "SE as in e3", 2: "SE as in e6"}
    handles: list[Line2D | Patch] = [Patch(color=colour, label=titles[se]) for se, colour in _SE_COLOURS.items()]
    handles += [
        Line2D([], [], color=ink, ls="-", marker="o", ms=4, label="3x3 kernel: table and measured points"),
        Line2D([], [], color=ink, ls="--", marker="s", ms=4, label="5x5 kernel"),
    ]
    if plan.modulus != plan.width_multiple and not plan.stairs:
        label = f"hollow: no multiple of {plan.modulus}"
        handles.append(Line2D([], [], color=ink, ls="", marker="o", mfc="none", ms=5, label=label))
    handles += [
        Line2D([], [], color=ink, ls="", marker="|", ms=9, label="interval of the median"),
        Line2D([], [], color=ink, ls="", marker="x", ms=7, mew=1.8, label="held out: not in the table"),
    ]
    return handles


def _draw_canary(axes: Axes, metadata: ProfileMetadata, theme: str, scale: float) -> None:
    """Draw the canary's times, its reference as a line and what its band still allows as a dotted one."""
    ink, protocol = THEMES[theme]["ink"], metadata.protocol
    axes.plot(*zip(*((when / scale, ms) for when, ms in metadata.canary), strict=True), color=COLOURS[0], lw=1.0)
    axes.axhline(protocol.canary_reference_ms, color=ink, lw=0.9)
    axes.axhline(protocol.canary_reference_ms * (1 + protocol.canary_band_pct / 100), color=ink, lw=0.8, ls=":")
    axes.set_ylim(bottom=0)


def _draw_state(axes: Axes, states: Sequence[tuple[float, DeviceState]], name: str, scale: float) -> None:
    told = [(when / scale, getattr(state, name)) for when, state in states if getattr(state, name) is not None]
    axes.plot(*zip(*told, strict=True), color=COLOURS[0], lw=1.2, marker="o", ms=2.5)
    for when, state in states:
        if (state.throttle_reasons or 0) & REJECTED_THROTTLE_BITS:
            axes.axvline(when / scale, color=COLOURS[1], lw=0.8, alpha=0.6, zorder=0)
    axes.margins(y=0.2)
