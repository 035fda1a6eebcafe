"""
Which widths are measured: from the ends of every curve inwards, where linear interpolation is off, until it is good enough.

A curve is one key over its widths. First short runs of neighbouring widths on a few curves tell whether the device favours multiples
of some modulus, or computes in blocks of one, so that latency is a staircase; then every curve starts with the ends and the middle of
each alignment class, or of its steps, and is refined by halves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dcnas_schema.genotype import block_key
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.space import OPS, PLACES, OpName, padded, width_bounds

_RUN = 9
"""Neighbouring widths of a probe."""
_PROBES = 8
_FACTORS = (2, 4, 8)
"""Moduli tried, as multiples of the width multiple."""
_SSE_LEFT = 0.7
"""A modulus must leave at most this share of the squared error of a plain line."""
_LEAST_GAIN = 0.004
_STAIR_FACTORS = (4, 8)
"""Steps tried, as multiples of the width multiple; where a step has two widths, the two alignment classes are straight as it is."""
_STAIR_SSE_LEFT = 0.5
"""A staircase, which denies all that happens between two steps, must leave at most this share of what the best line leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A key with the widths that a search may give it."""

    key: LatencyKey
    widths: tuple[int, ...]
    """Ascending multiples of the width multiple."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Whether the device favours multiples of some modulus."""

    modulus: int
    """Equal to the width multiple where it favours none."""
    gain_pct: float
    """How far multiples of it lie under the line of the others; 0 of a staircase."""
    stairs: bool = False
    """Every begun `modulus` costs a whole one: widths between two multiples cost what the upper one does."""


def curves_of(ops: Sequence[OpName], *, height: int, width: int, width_multiple: int) -> tuple[Curve, ...]:
    """Return every curve of the space for an image of `height` x `width` pixels, in the order of the places."""
    ranges: dict[LatencyKey, tuple[int, int]] = {}
    for place in PLACES:
        for op in ops:
            key = block_key(place, op, padded(height), padded(width))
            least, most = width_bounds(place.in_channels, OPS[op])
            known = ranges.get(key, (least, most))
            ranges[key] = (min(least, known[0]), max(most, known[1]))
    return tuple(
        Curve(
            key=key,
            widths=tuple(range(-(-least // width_multiple) * width_multiple, most + 1, width_multiple)),
        )
        for key, (least, most) in ranges.items()
    )


def probe_runs(curves: Sequence[Curve]) -> list[list[Part]]:
    """Return runs of neighbouring widths on curves spread over the space, at places spread over their ranges."""
    long = [curve for curve in curves if len(curve.widths) >= _RUN]
    chosen = [long[i] for i in sorted({round(x) for x in np.linspace(0, len(long) - 1, _PROBES)})] if long else []
    runs = []
    for number, curve in enumerate(chosen):
        start = (len(curve.widths) - _RUN) * (number % 4) // 3
        runs.append([Part(curve.key, width) for width in curve.widths[start : start + _RUN]])
    return runs


def detect_alignment(
    runs: Sequence[Sequence[Part]], measured: Mapping[Part, float], *, width_multiple: int
) -> Alignment:
    """
    Return the modulus that explains best how the probes leave their lines, or none where a plain line does as well.

    For each run latency = a + b * width + c * [width is a multiple of the modulus] is fitted; the modulus with the least squared
    relative error is taken when it removes enough of it and the effect has one sign. Then latency = a + b * [multiples begun], the
    staircase, which has fewer parameters and must do much better: what it takes for level is not measured any more.
    """
    plain = sum(_fit(run, measured)[0] for run in runs)
    best = Alignment(modulus=width_multiple, gain_pct=0.0)
    least = _SSE_LEFT * plain
    for factor in _FACTORS:
        modulus = factor * width_multiple
        fits = [_fit(run, measured, modulus=modulus) for run in runs]
        error = sum(sse for sse, _ in fits)
        gain = float(np.median([gain for _, gain in fits])) if fits else 0.0
        if error < least and gain > _LEAST_GAIN:
            best, least = Alignment(modulus=modulus, gain_pct=100 * gain), error
    least = _STAIR_SSE_LEFT * (plain if best.modulus == width_multiple else least)
    for factor in _STAIR_FACTORS:
        fits = [_fit(run, measured, step=factor * width_multiple) for run in runs]
        error = sum(sse for sse, _ in fits)
        if error < least:
            best, least = Alignment(modulus=factor * width_multiple, gain_pct=0.0, stairs=True), error
    return best


def first_points(curves: Sequence[Curve], *, modulus: int, stairs: bool = False) -> list[Part]:
    """Return the ends and the middle of each alignment class of every curve, or of its steps."""
    points = []
    for curve in curves:
        for widths in classes_of(curve, modulus, stairs=stairs):
            points += [Part(curve.key, widths[i]) for i in sorted({0, len(widths) // 2, len(widths) - 1})]
    return points


def refine(
    curves: Sequence[Curve],
    measured: Mapping[Part, float],
    *,
    modulus: int,
    stairs: bool = False,
    tolerance_pct: float,
    most: int,
) -> list[Part]:
    """
    Return at most `most` further points, the worst first: the middles of the gaps beside each point that lies off its neighbours' line.

    Args:
        measured: Latency in ms of the points measured so far.

        tolerance_pct: How far off is good enough, in per cent of the point's latency.
    """
    wanted: dict[Part, float] = {}
    for curve in curves:
        for widths in classes_of(curve, modulus, stairs=stairs):
            known = [i for i, width in enumerate(widths) if Part(curve.key, width) in measured]
            for left, middle, right in zip(known, known[1:], known[2:], strict=False):
                three = (left, middle, right)
                # the last step may be cut off by the range: its width is no measure of how far up it is
                places = three if stairs else [widths[i] for i in three]
                error = _off_line_pct(places, [measured[Part(curve.key, widths[i])] for i in three])
                if error <= tolerance_pct:
                    continue
                for a, b in ((left, middle), (middle, right)):
                    if b - a > 1:
                        part = Part(curve.key, widths[(a + b) // 2])
                        wanted[part] = max(error, wanted.get(part, 0.0))
    return sorted(wanted, key=lambda part: -wanted[part])[: max(most, 0)]


def held_out_points(
    curves: Sequence[Curve], measured: Mapping[Part, float], *, count: int, generator: np.random.Generator
) -> list[Part]:
    """Return up to `count` points that were not measured, drawn from all curves alike."""
    left = [[Part(c.key, w) for w in c.widths if Part(c.key, w) not in measured] for c in curves]
    left = [points for points in left if points]
    order = [int(i) for _ in range(-(-count // max(len(left), 1))) for i in generator.permutation(len(left))]
    chosen: dict[Part, None] = {}
    for i in order[: 2 * count]:
        if len(chosen) < count:
            chosen[left[i][int(generator.integers(len(left[i])))]] = None
    return list(chosen)


def classes_of(curve: Curve, modulus: int, *, stairs: bool = False) -> list[list[int]]:
    """
    Return the widths of each alignment class of `curve` that has any: multiples of `modulus`, and the others.

    Of a staircase the one class has the greatest width of each step.
    """
    if stairs:
        return [list({-(-width // modulus): width for width in curve.widths}.values())]
    aligned = [width for width in curve.widths if width % modulus == 0]
    others = [width for width in curve.widths if width % modulus]
    return [widths for widths in (aligned, others) if widths]


def _off_line_pct(places: Sequence[int], ms: Sequence[float]) -> float:
    left, middle, right = ms
    share = (places[1] - places[0]) / (places[2] - places[0])
    return 100 * abs(left + share * (right - left) - middle) / middle


def _fit(
    run: Sequence[Part], measured: Mapping[Part, float], *, modulus: int | None = None, step: int = 1
) -> tuple[float, float]:
    """
    Return the squared relative error left by the line, and the relative gain of the multiples of `modulus`.

    Args:
        step: The line is one over the multiples of it that a width begins.
    """
    widths = np.array([part.mid_channels for part in run], dtype=np.float64)
    ms = np.array([measured[part] for part in run])
    places = np.ceil(widths / step)
    columns = [np.ones_like(widths), places - places.mean()]
    if modulus is not None:
        columns.append((widths % modulus == 0).astype(np.float64))
    scaled = [column / max(np.abs(column).max(), 1.0) for column in columns]
    design = np.stack(scaled, axis=1) / ms.mean()
    solution, *_ = np.linalg.lstsq(design, ms / ms.mean(), rcond=None)
    error = float(((design @ solution - ms / ms.mean()) ** 2).sum())
    return error, 0.0 if modulus is None else float(-solution[2] / ms.mean())
