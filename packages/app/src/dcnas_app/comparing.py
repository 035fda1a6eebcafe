"""Two latency profiles side by side, of two devices, of two runtimes, or twice of the same: what differs, ratios, a picture."""

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.stats import spearmanr

from dcnas_harness.errors import BadInputError
from dcnas_latency.files import read_profile
from dcnas_latency.table import LookupTable
from dcnas_schema.keys import PROFILED_PARTS, LatencyKey, Part
from dcnas_schema.latency import Entry, ProfileMetadata
from dcnas_schema.provenance import Record
from dcnas_schema.space import NET_KINDS
from dcnas_tabulate.drawing import COLOURS, THEMES, new_figure, save_figure, style_axes

_CLOSE_PCT = 5.0
_MARKERS = ("o", "s", "^", "D", "v", "P")
_OUTCOMES = frozenset({"rejected", "seconds"})
"""Fields of the protocol that tell how it went, not what it was."""
_HEAD = f"{'':<14}{'matched':>8}{'interpolated':>14}{'median':>9}{'5th':>9}{'95th':>9}{'within 5 %':>12}{'of the median':>15}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The latency in ms of one part or whole net in both profiles."""

    group: str
    """Name of the part or kind of net."""
    first_ms: float
    second_ms: float
    interpolated: bool = False
    """Whether one of them lies between measured widths."""

    @property
    def ratio(self) -> float:
        """Second over first."""
        return self.second_ms / self.first_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A profile as read."""

    path: Path
    entries: tuple[Entry, ...]
    metadata: ProfileMetadata

    @classmethod
    def read(cls, path: Path) -> "Profile":
        """Return the profile in `path`; raises CorruptArtefactError where it is missing or damaged."""
        entries, metadata = read_profile(path)
        return cls(path=path, entries=entries, metadata=metadata)


def compare_profiles(first: Path, second: Path, out: Path) -> None:
    """
    Print what differs between two profiles, then the ratios of their parts and whole nets; write the picture.

    Args:
        first: Profile A. Ratios are those of `second` over it.

        second: Profile B.

        out: Where the picture goes: as `.png` and as `.svg`, whichever suffix is given.

    Raises:
        BadInputError: They have no part in common.

        CorruptArtefactError: A profile is missing or damaged.
    """
    a, b = Profile.read(first), Profile.read(second)
    print(f"A  {_title(a)}\nB  {_title(b)}\n")
    print("\n".join(["what differs (A | B):", *_indented(differences(a.metadata, b.metadata) or ["nothing"])]))
    parts, nets = matched_parts(a, b), matched_nets(a.metadata, b.metadata)
    if not parts:
        raise BadInputError(
            f"{first} and {second} have no part in common: the differences above say why.",
            remedy="profile both for the same image size and number of classes",
        )
    print("\n".join(["", "ratios B / A:", *_indented(ratio_lines(parts, nets))]))
    stem = out.with_suffix("") if out.suffix in (".png", ".svg", ".parquet") else out
    figure = picture(a, b, parts, nets)
    for path in (stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")):
        save_figure(figure, path)
        print(f"picture: {path}")


def differences(a: ProfileMetadata, b: ProfileMetadata) -> list[str]:
    """Return a line for every field of device card, setting, protocol and plan in which two profiles differ, and for their gates."""
    lines = [
        *_unlike("device", a.device, b.device, frozenset({"absent"})),
        *_unlike("setting", a.setting, b.setting, frozenset()),
        *_unlike("protocol", a.protocol, b.protocol, _OUTCOMES),
    ]
    for name in ("width_multiple", "modulus", "stairs"):
        if (values := (getattr(a.plan, name), getattr(b.plan, name)))[0] != values[1]:
            lines.append(f"plan {name}: {values[0]} | {values[1]}")
    if a.provenance.commit != b.provenance.commit:
        lines.append(f"commit: {a.provenance.commit} | {b.provenance.commit}")
    if a.gate.verdict != b.gate.verdict:
        lines.append(f"noise gate: {_gate(a)} | {_gate(b)}")
    return lines


def matched_parts(a: Profile, b: Profile) -> list[Pair]:
    """
    Return every part that both profiles tell of, at every width that either measured inside the range of both.

    Where only one measured a width, the other's latency is its table's, interpolated.
    """
    plans = [p.metadata.plan for p in (a, b)]
    tables = [LookupTable.of(p.entries, modulus=q.modulus, stairs=q.stairs) for p, q in zip((a, b), plans, strict=True)]
    measured = [{Part(e.key, e.mid_channels): e.median_ms for e in p.entries} for p in (a, b)]
    bounds = [_bounds(p.entries) for p in (a, b)]
    pairs = []
    for part in dict.fromkeys([*measured[0], *measured[1]]):
        if not all(_inside(part, known) for known in bounds):
            continue
        ms = [known[part] if part in known else t.lookup(part) for known, t in zip(measured, tables, strict=True)]
        interpolated = any(part not in known for known in measured)
        pairs.append(Pair(group=part.key.part, first_ms=ms[0], second_ms=ms[1], interpolated=interpolated))
    return pairs


def matched_nets(a: ProfileMetadata, b: ProfileMetadata) -> list[Pair]:
    """Return the whole nets that both profiles measured."""
    known = {(net.kind, net.genotype): net.measured_ms for net in b.nets}
    return [
        Pair(group=net.kind, first_ms=net.measured_ms, second_ms=known[net.kind, net.genotype])
        for net in a.nets
        if (net.kind, net.genotype) in known
    ]


def ratio_lines(parts: Sequence[Pair], nets: Sequence[Pair]) -> list[str]:
    """Return the table of ratios: a row a kind of part and a kind of net, each with percentiles and shares within 5 %."""
    lines = [_HEAD, *_rows(parts, PROFILED_PARTS), _row("all parts", parts)]
    if not nets:
        return [*lines, "whole nets: none was measured in both (other seeds, or other candidate ops)"]
    lines += ["whole nets, measured:", *_rows(nets, NET_KINDS), _row("all nets", nets)]
    if len(nets) > 2:
        order = spearmanr([pair.first_ms for pair in nets], [pair.second_ms for pair in nets]).statistic
        lines.append(f"order of the whole nets: Spearman {order:.3f}")
    return lines


def picture(a: Profile, b: Profile, parts: Sequence[Pair], nets: Sequence[Pair]) -> Figure:
    """Return three panels: parts of B over those of A, their ratio over A's latency, whole nets of B over those of A."""
    ink = THEMES["light"]["ink"]
    figure = new_figure((15, 6.4), "light")
    both, ratios, whole = figure.subplots(1, 3)
    for axes, title, pairs in ((both, "parts", parts), (ratios, "parts", parts), (whole, "whole nets, measured", nets)):
        style_axes(axes, "light")
        axes.set_title(f"{title}{_median_text(pairs)}", color=ink, fontsize=11)
        axes.set_xlabel("A: latency (ms a batch)")
        axes.set_ylabel("B: latency (ms a batch)")
    ratios.set_ylabel("B over A")
    _scatter(both, parts, PROFILED_PARTS, log=True)
    _scatter(whole, nets, NET_KINDS, log=False)
    _draw_ratios(ratios, parts)
    text = "\n".join(f"{name}: {line}" for name, p in (("A", a), ("B", b)) for line in textwrap.wrap(_title(p), 170))
    figure.text(0.01, 0.985, text, va="top", fontsize=9, color=ink, parse_math=False)
    handles = {
        label: handle for axes in (both, whole) for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=6, frameon=False, fontsize=9.5)
    figure.tight_layout(rect=(0, 0.1, 1, 0.92), w_pad=2.5)
    return figure


def _bounds(entries: Iterable[Entry]) -> dict[LatencyKey, tuple[int, int]]:
    """Return the least and greatest width of each key in the table; (0, 0) where it has none."""
    widths: dict[LatencyKey, list[int]] = defaultdict(list)
    for entry in entries:
        if entry.role == "plan":
            widths[entry.key].append(entry.mid_channels or 0)
    return {key: (min(values), max(values)) for key, values in widths.items()}


def _inside(part: Part, bounds: Mapping[LatencyKey, tuple[int, int]]) -> bool:
    least, greatest = bounds.get(part.key, (1, 0))
    return least <= (part.mid_channels or 0) <= greatest


def _title(profile: Profile) -> str:
    setting, noisy = profile.metadata.setting, "" if profile.metadata.gate.passed else "; NOISY: its gate did not pass"
    noisy = noisy if profile.metadata.gate.trusted or noisy else "; NOT TRUSTED: see its gate"
    runtime = setting.runtime + (f" ({setting.provider})" if setting.provider else "")
    return (
        f"{profile.path}: {profile.metadata.device.name}, {runtime} {setting.precision} {setting.memory_format}, "
        f"batch {setting.batch} at {setting.height}x{setting.width}, {setting.threads} threads{noisy}"
    )


def _gate(metadata: ProfileMetadata) -> str:
    return metadata.gate.verdict


def _unlike(where: str, a: Record, b: Record, leave_out: frozenset[str]) -> list[str]:
    first, second = _flat(a.model_dump()), _flat(b.model_dump())
    names = [name for name in dict.fromkeys([*first, *second]) if name.split(".")[0] not in leave_out]
    return [
        f"{where} {name}: {_text(first.get(name))} | {_text(second.get(name))}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    """Return the values with each dictionary among them spread out: `allocator.MALLOC_TOP_PAD_`."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _text(value: object) -> str:
    return "not given" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _rows(pairs: Sequence[Pair], groups: Sequence[str]) -> list[str]:
    found = [(group, [pair for pair in pairs if pair.group == group]) for group in groups]
    return [_row(group, mine) for group, mine in found if mine]


def _row(name: str, pairs: Sequence[Pair]) -> str:
    ratios = np.array([pair.ratio for pair in pairs])
    low, median, high = np.percentile(ratios, [5, 50, 95])
    between = sum(pair.interpolated for pair in pairs)
    return (
        f"{name:<14}{len(pairs):>8}{between:>14}{median:>9.3f}{low:>9.3f}{high:>9.3f}"
        f"{_share_close(ratios, 1.0):>10.0f} %{_share_close(ratios, median):>13.0f} %"
    )


def _share_close(ratios: np.ndarray, to: float) -> float:
    """Return the share of `ratios`, in per cent, that are at most 5 % off `to`."""
    return 100 * float((np.abs(ratios / to - 1) <= _CLOSE_PCT / 100).mean())


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _median_text(pairs: Sequence[Pair]) -> str:
    return f": B / A {np.median([pair.ratio for pair in pairs]):.3f} in the median" if pairs else ""


def _scatter(axes: Axes, pairs: Sequence[Pair], groups: Sequence[str], *, log: bool) -> None:
    """Draw B over A, the line of equal latency, and that of the median ratio with a band of 5 % around it."""
    if not pairs:
        axes.text(0.5, 0.5, "none was measured in both", ha="center", transform=axes.transAxes)
        return
    _points(axes, pairs, groups, [pair.second_ms for pair in pairs])
    if log:
        axes.set_yscale("log")
        _log_axis(axes)
        _plain_ticks(axes.yaxis)
    (left, right), limits = axes.get_xlim(), axes.get_ylim()
    x = np.geomspace(left, right, 50)
    median = float(np.median([pair.ratio for pair in pairs]))
    _lines(axes, x, x, median * x)
    axes.set_xlim(left, right)
    axes.set_ylim(*limits)  # of the points: devices may be so far apart that equality is out of sight


def _draw_ratios(axes: Axes, pairs: Sequence[Pair]) -> None:
    ratios = [pair.ratio for pair in pairs]
    _points(axes, pairs, PROFILED_PARTS, ratios)
    _log_axis(axes)
    (left, right), limits = axes.get_xlim(), axes.get_ylim()
    x, median = np.array([left, right]), float(np.median(ratios))
    _lines(axes, x, np.ones(2), np.full(2, median))
    axes.set_xlim(left, right)
    axes.set_ylim(min(limits[0], 0.93 * median), max(limits[1], 1.07 * median))


def _points(axes: Axes, pairs: Sequence[Pair], groups: Sequence[str], values: Sequence[float]) -> None:
    """Draw a mark a pair; hollow where one of its latencies is interpolated."""
    for number, group in enumerate(groups):
        for hollow in (False, True):
            mine = [i for i, pair in enumerate(pairs) if (pair.group, pair.interpolated) == (group, hollow)]
            if mine:
                axes.plot(
                    [pairs[i].first_ms for i in mine],
                    [values[i] for i in mine],
                    _MARKERS[number],
                    color=COLOURS[number],
                    mfc="none" if hollow else COLOURS[number],
                    ms=5,
                    alpha=0.75,
                    label=f"{group}, interpolated in one" if hollow else group,
                )


def _lines(axes: Axes, x: np.ndarray, equal: np.ndarray, middle: np.ndarray) -> None:
    ink, share = THEMES["light"]["ink"], _CLOSE_PCT / 100
    axes.fill_between(
        x, middle * (1 - share), middle * (1 + share), color=ink, alpha=0.12, lw=0, label="median ratio ± 5 %"
    )
    axes.plot(x, middle, color=ink, lw=0.9, ls="--", label="median ratio")
    axes.plot(x, equal, color=ink, lw=0.9, label="equal latency")


def _log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)


def _plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times powers of ten, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
