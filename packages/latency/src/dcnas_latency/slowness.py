"""
How slow the machine was at each moment, told by all subjects together, so that it can be taken out of every figure alike.

A host's slow and fast phases last for many samples. Whoever is timed in them by chance looks slow or fast: a table's entry in a quiet
round, a whole net in a busy one. Rejection by each subject's own samples does not mend that, because it leaves each in conditions of its
own. But subjects are timed in random order, so those timed around one moment, each beside its own usual time, tell how slow that moment
was for all: log time = level of the subject + slowness of the moment + what is left, a two-way layout fitted by medians (Tukey 1977).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_NEIGHBOURS = 6
"""Samples to each side that tell a moment's slowness."""
_SWEEPS = 20
_SETTLED = 1e-4
QUIET_SHARE = 0.1
"""
Slowness is counted from what the quietest tenth of a build's samples stays under. Of simulated hosts the tenth repeated best: builds that
were alike came out 0.3 to 1.5 % apart in the median, with the quarter 0.5 to 3.7 %, with the half 0.8 to 13 %.
"""
_TENTH_OF_NORMAL = 1.2816
_MEDIAN_SD = 1.2533
"""Standard deviation of a median over that of a mean, of normal errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slowness:
    """How slow the machine was at each sample: a time over `factor` is what it would have been in the machine's quiet moments."""

    factor: Floats
    """1-D, of each sample; its build's own level is in it."""
    within_build: Floats
    """1-D, the same beside the quiet moments of the sample's own build: what builds differ by is left in."""


def slowness(times_ms: Floats, subjects: Ints, turns: Ints, builds: Ints) -> Slowness:
    """
    Return how slow the machine was at each sample.

    Args:
        times_ms: 1-D, in the order taken.

        subjects: 1-D, what was timed: whole numbers from 0.

        turns: 1-D, samples of one number tell of each other's moments: those of one process's turn, one after the other.

        builds: 1-D, the process of each sample.
    """
    log_ms = np.log(times_ms)
    levels = _medians_by(log_ms, subjects)
    moments = np.zeros_like(log_ms)
    windows = _neighbours(turns)
    for _ in range(_SWEEPS):
        before = moments
        moments = _window_medians(log_ms - levels[subjects], windows)
        levels = _medians_by(log_ms - moments, subjects)
        if np.abs(moments - before).max() < _SETTLED:
            break
    left = log_ms - levels[subjects] - moments
    # on a quiet machine nothing but noise spreads the moments, and their lowest tenth is under the truth by that
    noise = _TENTH_OF_NORMAL * _MEDIAN_SD * _robust_sd(left) / np.sqrt(2 * _NEIGHBOURS)
    quiet = {int(build): _quiet_level(moments[builds == build], noise) for build in np.unique(builds)}
    own = np.array([quiet[int(build)] for build in builds])
    return Slowness(
        factor=np.exp(moments - np.mean(list(quiet.values()))),
        within_build=np.exp(moments - own),
    )


def _quiet_level(moments: Floats, noise: float) -> float:
    low, middle = np.quantile(moments, (QUIET_SHARE, 0.5))
    return float(min(low + noise, middle))


def _robust_sd(values: Floats) -> float:
    return float(1.4826 * np.median(np.abs(values)))


def _neighbours(turns: Ints) -> Ints:
    """Return the places of the next few samples of the same turn before and after each sample; -1 where there are fewer."""
    order = np.argsort(turns, kind="stable")
    offsets = np.array([o for o in range(-_NEIGHBOURS, _NEIGHBOURS + 1) if o])
    beside = np.arange(len(turns))[:, None] + offsets[None, :]
    inside = (beside >= 0) & (beside < len(turns))
    beside = order[np.where(inside, beside, 0)]
    inside &= turns[beside] == turns[order][:, None]
    found = np.empty_like(beside)
    found[order] = np.where(inside, beside, -1)
    return found


def _window_medians(values: Floats, windows: Ints) -> Floats:
    """Return the median of each sample's neighbours; 0 where it has none."""
    ordered = np.sort(np.where(windows >= 0, values[windows], np.inf), axis=1)
    counts = (windows >= 0).sum(axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum(counts - 1, 0) // 2, counts // 2
    middle = (ordered[rows, low] + ordered[rows, np.minimum(high, ordered.shape[1] - 1)]) / 2
    return np.where(counts > 0, middle, 0.0)


def _medians_by(values: Floats, groups: Ints) -> Floats:
    """Return the median of each group, by its number; 0 for numbers that do not occur."""
    order = np.lexsort((values, groups))
    counts = np.bincount(groups)
    ends = np.cumsum(counts)
    starts = ends - counts
    there = counts > 0
    ordered = values[order]
    medians = np.zeros(len(counts))
    medians[there] = (ordered[(starts + (counts - 1) // 2)[there]] + ordered[(starts + counts // 2)[there]]) / 2
    return medians
