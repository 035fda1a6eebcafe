"""The predictor: the sum over the lookup table, calibrated on whole nets, with a prediction interval and its error on held-out nets."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcnas_latency.table import LookupTable
from dcnas_schema.genotype import is_full_depth
from dcnas_schema.keys import Part
from dcnas_schema.latency import (
    DEPTHS,
    Accuracy,
    Calibration,
    Depth,
    DepthAccuracy,
    Entry,
    Leverage,
    NetTiming,
    ProfileMetadata,
)
from dcnas_schema.space import NetKind

Floats = NDArray[np.float64]
_BISQUARE = 4.685
"""Residuals beyond this many robust standard deviations weigh nothing (Beaton and Tukey 1974; 95 % efficiency on normal errors)."""
_LEAST_SD = 1e-3
"""Relative; no timing is better, and nets that happen to lie on a line are no measure of the others."""
_ITERATIONS = 30
_SETTLED = 1e-9
"""Relative change of a prediction below which the fit has settled."""
_MAD_TO_SD = 1.4826
_PARAMETERS = 2
_SINGULAR = 1e12
"""Condition of the normal matrix beyond which nets that are all alike fit no line."""
_BISECTIONS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Latency in ms of one forward pass of a whole batch, and the interval in which a measurement is expected."""

    ms: float
    low_ms: float
    high_ms: float


class Predictor:
    """Predicts whole nets from the lookup table and the calibration of one profile."""

    def __init__(self, table: LookupTable, calibration: Calibration, *, session_slow_pct: float = 0.0) -> None:
        self.table, self.calibration = table, calibration
        self._slow = 1 + session_slow_pct / 100

    @classmethod
    def of(cls, entries: Sequence[Entry], metadata: ProfileMetadata) -> "Predictor":
        """Return the predictor of a profile as read from its file."""
        plan = metadata.plan
        table = LookupTable.of(entries, modulus=plan.modulus, stairs=plan.stairs)
        return cls(table, metadata.calibration, session_slow_pct=metadata.protocol.session_slow_pct)

    def predict(self, kind: NetKind, parts: Sequence[Part]) -> Prediction:
        """
        Return the predicted latency of a net of `kind` that consists of `parts`.

        The interval is wider for a net unlike those that were fitted. Of a machine that was slow throughout while it was profiled it
        reaches down as far as that machine is faster on its good days.

        Raises:
            LatencyKeyMissingError: The table has no entry for a part.
        """
        fit, total = self.calibration, self.table.total(parts)
        ms = fit.scale[kind] * total + fit.overhead_ms[kind]
        half = abs(ms) * fit.interval_pct[kind] / 100
        if (own := fit.leverage.get(kind)) is not None:
            half *= math.sqrt((1 + _leverage_at(own, total, ms)) / (1 + own.typical))
        return Prediction(ms=ms, low_ms=(ms - half) / self._slow, high_ms=ms + half)


def calibrate(
    table_ms: Mapping[NetKind, Sequence[float]],
    measured_ms: Mapping[NetKind, Sequence[float]],
    *,
    confidence: float,
    full_depth: int,
) -> Calibration:
    """
    Fit scale and overhead of each kind of net by robust regression of relative errors; each has a spread of its own.

    Args:
        table_ms: Plain sums over the table of the nets to fit, by kind. `measured_ms` likewise: at least three nets a kind.

        confidence: Level of the prediction interval.

        full_depth: How many of the nets, of all kinds together, have every block.
    """
    scale: dict[NetKind, float] = {}
    overhead: dict[NetKind, float] = {}
    spread: dict[NetKind, float] = {}
    interval: dict[NetKind, float] = {}
    leverages: dict[NetKind, Leverage] = {}
    for kind, sums in table_ms.items():
        x, y = np.asarray(sums, dtype=np.float64), np.asarray(measured_ms[kind], dtype=np.float64)
        assert len(x) >= _PARAMETERS + 1, f"{kind}: {len(x)} nets cannot fit {_PARAMETERS} values"
        scale[kind], overhead[kind] = _robust_line(x, y)
        residuals = y / (scale[kind] * x + overhead[kind]) - 1
        freedom = len(x) - _PARAMETERS
        # not the robust spread: what the fit leaves out, a user still meets
        spread[kind] = 100 * float(np.sqrt((residuals**2).sum() / freedom))
        typical = math.sqrt(1 + _PARAMETERS / len(x))
        interval[kind] = spread[kind] * typical * student_quantile(0.5 + confidence / 2, freedom)
        if (found := _leverage(x, scale[kind] * x + overhead[kind])) is not None:
            leverages[kind] = found
    return Calibration(
        scale=scale,
        overhead_ms=overhead,
        spread_pct=spread,
        interval_pct=interval,
        leverage=leverages,
        confidence=confidence,
        fitted_on=sum(map(len, table_ms.values())),
        fitted_on_full_depth=full_depth,
    )


def accuracy_of(kind: NetKind, nets: Sequence[NetTiming]) -> Accuracy:
    """Return the predictor's error on `nets`, all of one kind and none used in the fit."""
    errors = _Errors.of(nets)
    inside = [net.predicted_low_ms <= net.measured_ms <= net.predicted_high_ms for net in nets]
    return Accuracy(
        kind=kind,
        nets=len(nets),
        full_depth=sum(depth_of(net) == "full" for net in nets),
        mape_pct=errors.mape_pct,
        table_mape_pct=errors.table_mape_pct,
        bias_pct=errors.bias_pct,
        worst_pct=errors.worst_pct,
        within_5_pct=errors.within_pct(5),
        within_10_pct=errors.within_pct(10),
        spearman=errors.spearman,
        kendall=_kendall(errors.predicted, errors.measured),
        inside_interval_pct=100 * float(np.mean(inside)),
    )


def accuracy_by_depth(kind: NetKind, nets: Sequence[NetTiming]) -> tuple[DepthAccuracy, ...]:
    """Return the predictor's error on those of `nets`, all of one kind, that have every block, and on those that do not."""
    parted: dict[Depth, list[NetTiming]] = {depth: [n for n in nets if depth_of(n) == depth] for depth in DEPTHS}
    found = {depth: _Errors.of(some) for depth, some in parted.items() if some}
    return tuple(
        DepthAccuracy(
            kind=kind,
            depth=depth,
            nets=len(errors.measured),
            mape_pct=errors.mape_pct,
            table_mape_pct=errors.table_mape_pct,
            bias_pct=errors.bias_pct,
            worst_pct=errors.worst_pct,
            spearman=errors.spearman,
        )
        for depth, errors in found.items()
    )


def depth_of(net: NetTiming) -> Depth:
    """Return whether a net has every block that its kind may have."""
    return "full" if is_full_depth(net.kind, net.genotype) else "reduced"


@dataclass(frozen=True, slots=True)
class _Errors:
    """Latencies of nets in ms, and how far the predictor is off."""

    measured: Floats
    predicted: Floats
    table: Floats

    @classmethod
    def of(cls, nets: Sequence[NetTiming]) -> "_Errors":
        columns = ([n.measured_ms for n in nets], [n.predicted_ms for n in nets], [n.table_ms for n in nets])
        return cls(*(np.array(column, dtype=np.float64) for column in columns))

    @property
    def error(self) -> Floats:
        return 100 * (self.predicted / self.measured - 1)

    @property
    def mape_pct(self) -> float:
        return float(np.abs(self.error).mean())

    @property
    def table_mape_pct(self) -> float:
        return 100 * float(np.abs(self.table / self.measured - 1).mean())

    @property
    def bias_pct(self) -> float:
        return float(self.error.mean())

    @property
    def worst_pct(self) -> float:
        return float(np.abs(self.error).max())

    @property
    def spearman(self) -> float:
        return _correlation(_ranks(self.predicted), _ranks(self.measured))

    def within_pct(self, limit_pct: float) -> float:
        return 100 * float((np.abs(self.error) <= limit_pct).mean())


def _robust_line(x: Floats, y: Floats) -> tuple[float, float]:
    """
    Return slope and intercept of the line that fits y with small relative errors, outliers left out (an MM-estimate, Yohai 1987).

    Start and spread come from medians, and stay: a loss that only bounds the residuals' weight, such as Huber's, is captured by the
    smallest net where that is the wild one. Errors are relative to the start's line, not to y, or a net measured ten times too fast
    would weigh ten times as much.
    """
    start = _median_line(x, y)
    line = start[0] * x + start[1]
    design = np.stack([x / line, 1 / line], axis=1)
    target = y / line
    solution: Floats = np.array(start)
    small_sample = len(x) / (len(x) - _PARAMETERS)
    limit = _BISQUARE * max(small_sample * _robust_sd(design @ solution - target), _LEAST_SD)
    for _ in range(_ITERATIONS):
        root: Floats = np.maximum(1 - ((design @ solution - target) / limit) ** 2, 0.0)  # of the bisquare weight
        before = solution
        solution = np.asarray(np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0], dtype=np.float64)
        if np.abs(design @ (solution - before)).max() < _SETTLED:
            break
    if (solution[0] * x + solution[1] <= 0).any():
        return start  # few nets, of them some left out: a line that no latency can have
    return float(solution[0]), float(solution[1])


def _leverage(x: Floats, line: Floats) -> Leverage | None:
    """Return what the fit of relative errors adds to a prediction's variance; `None` where the nets do not tie down a line."""
    design = np.stack([x / line, 1 / line], axis=1)
    normal = design.T @ design
    if np.linalg.cond(normal) > _SINGULAR:
        return None
    inverse = np.linalg.inv(normal)
    return Leverage(
        a=float(inverse[0, 0]), b=float(inverse[0, 1]), c=float(inverse[1, 1]), typical=_PARAMETERS / len(x)
    )


def _leverage_at(fit: Leverage, total_ms: float, predicted_ms: float) -> float:
    return max((fit.a * total_ms**2 + 2 * fit.b * total_ms + fit.c) / predicted_ms**2, 0.0)


def _median_line(x: Floats, y: Floats) -> tuple[float, float]:
    """
    Return slope and intercept by the medians of Theil (1950) and Sen (1968): a quarter of the nets may be anything.

    Where that line is not positive at every net, the one through nought with the median ratio.
    """
    left, right = np.triu_indices(len(x), 1)
    apart = x[left] != x[right]
    if apart.any():
        slope = float(np.median(((y[left] - y[right])[apart]) / (x[left] - x[right])[apart]))
        intercept = float(np.median(y - slope * x))
        if (slope * x + intercept > 0).all():
            return slope, intercept
    return float(np.median(y / x)), 0.0


def _robust_sd(values: Floats) -> float:
    return float(_MAD_TO_SD * np.median(np.abs(values)))


def student_quantile(probability: float, freedom: int) -> float:
    """
    Return the quantile of Student's t: of `freedom` >= 1 degrees, for a probability of 0.5 or more.

    By bisection of its distribution, which for whole degrees is a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4); so an edge
    box needs no SciPy.
    """
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _student_cdf(value: float, freedom: int) -> float:
    angle = math.atan(value / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for number in range(odd, freedom - 1, 2):
        total += term
        term *= square * (number + 1) / (number + 2)
    between = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + between / 2


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Floats = ends - (counts - 1) / 2
    return means[place]


def _correlation(a: Floats, b: Floats) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _kendall(a: Floats, b: Floats) -> float:
    if len(a) < 2:
        return 0.0
    signs = np.sign(a[:, None] - a[None, :]) * np.sign(b[:, None] - b[None, :])
    return float(signs[np.triu_indices(len(a), 1)].mean())
