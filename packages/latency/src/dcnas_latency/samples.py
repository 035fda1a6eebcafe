"""From raw samples to a figure with its interval: rejection by the canary and the system's counters, bootstrap over rounds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcnas_latency.rig import RigSample

Floats = NDArray[np.float64]
_RESAMPLES = 400
_RUN_DELAY_SHARE = 0.005
"""Share of a sample that its threads may have waited for a processor."""
_INTERVAL = (2.5, 97.5)
LEAST_KEPT = 5
"""Accepted samples that a figure needs; with fewer, the quietest are taken and the noise gate hears of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A figure in ms: median of the accepted samples, its 95 % interval from a bootstrap over rounds, and their spread."""

    median_ms: float
    low_ms: float
    high_ms: float
    min_ms: float
    p90_ms: float
    mad_ms: float
    raw: int
    kept: int
    """Accepted samples; fewer than `LEAST_KEPT` where the quietest had to do."""
    builds_ms: tuple[float, ...]
    """Median of each build alone."""

    @property
    def builds_differ_pct(self) -> float | None:
        """How far the builds' medians lie apart, in per cent of their mean; `None` for one build."""
        if len(self.builds_ms) < 2:
            return None
        return 100 * (max(self.builds_ms) - min(self.builds_ms)) / (sum(self.builds_ms) / len(self.builds_ms))


def rejection(sample: RigSample, *, reference_ms: float, band_pct: float) -> str | None:
    """
    Return why `sample` is not to be believed, or `None`.

    A canary above its reference tells contention that no counter in a guest shows (another machine on the same processor); page faults
    and run delay tell this machine's own.
    """
    if sample.canary_ms > reference_ms * (1 + band_pct / 100):
        return "canary"
    if sample.page_faults:
        return "page faults"
    if sample.run_delay_ms is not None and sample.run_delay_ms > _RUN_DELAY_SHARE * sample.total_ms:
        return "run delay"
    return None


def accept(
    samples: Sequence[RigSample], *, reference_ms: float, band_pct: float
) -> tuple[list[RigSample], Counter[str]]:
    """Return the samples to be believed, and how many were rejected by reason."""
    kept: list[RigSample] = []
    rejected: Counter[str] = Counter()
    for sample in samples:
        reason = rejection(sample, reference_ms=reference_ms, band_pct=band_pct)
        if reason is None:
            kept.append(sample)
        else:
            rejected[reason] += 1
    return kept, rejected


def summarise(
    values_ms: Floats, rounds: NDArray[np.int64], builds: NDArray[np.int64], *, raw: int, kept: int
) -> Summary:
    """
    Summarise the samples of one thing.

    Args:
        values_ms: 1-D, the samples that count.

        rounds: 1-D, the round of each sample; a round of one build is one unit of the bootstrap, because samples of one moment share
            its conditions: an interval over single samples would be far too narrow.

        builds: 1-D, the build of each sample.

        raw: Samples before rejection.

        kept: Accepted ones.
    """
    units = rounds * (int(builds.max()) + 1) + builds
    names, place = np.unique(units, return_inverse=True)
    per_round = np.array([np.median(values_ms[place == unit]) for unit in range(len(names))])
    generator = np.random.Generator(np.random.PCG64(len(per_round)))
    drawn = generator.integers(0, len(per_round), size=(_RESAMPLES, len(per_round)))
    low, high = np.percentile(np.median(per_round[drawn], axis=1), _INTERVAL)
    median = float(np.median(per_round))
    return Summary(
        median_ms=median,
        low_ms=float(low),
        high_ms=float(high),
        min_ms=float(values_ms.min()),
        p90_ms=float(np.percentile(values_ms, 90)),
        mad_ms=float(np.median(np.abs(values_ms - np.median(values_ms)))),
        raw=raw,
        kept=kept,
        builds_ms=tuple(float(np.median(values_ms[builds == build])) for build in np.unique(builds)),
    )
