"""Which samples are believed, by the canary and the system's counters; and from samples to a figure with its interval."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcnas_latency.rig import RigSample
from dcnas_schema.latency import used_all

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_RESAMPLES = 400
_RUN_DELAY_SHARE = 0.005
"""Share of a sample that its threads may have waited for a processor."""
_INTERVAL = (2.5, 97.5)
LEAST_KEPT = 5
"""Accepted samples that the figure of one call needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """
    A figure in ms: median of the samples that count, its interval from a bootstrap over rounds, and their spread.

    The interval is one of 95 % where there are enough rounds, else of the level that they attain (`attained_confidence`).
    """

    median_ms: float
    low_ms: float
    high_ms: float
    min_ms: float
    p90_ms: float
    mad_ms: float
    raw: int
    kept: int
    """Accepted samples; where they are fewer than half, all count (`used_all`)."""
    builds: int
    """Builds that took samples, whether any of them counts or not."""
    builds_ms: tuple[float, ...]
    """Median of each build alone, of those with samples that count."""
    rounds: int = 1
    """Rounds with samples that count: the units of the bootstrap."""

    @property
    def used_all(self) -> bool:
        """Whether rejected samples count too, because fewer than half were accepted."""
        return used_all(self.raw, self.kept)

    @property
    def builds_differ_pct(self) -> float | None:
        """How far the builds' medians lie apart, in per cent of their mean; `None` where only one has samples that count."""
        if len(self.builds_ms) < 2:
            return None
        return 100 * (max(self.builds_ms) - min(self.builds_ms)) / (sum(self.builds_ms) / len(self.builds_ms))


def attained_confidence(rounds: int) -> float:
    """
    Return the level that a bootstrap interval of a median over so many rounds can attain: at most 95 %.

    From the least to the greatest of n lies the true median with 1 - 2^(1 - n), and no resampling gets beyond those: 75 % of three rounds,
    87.5 % of four; 95 % takes six.
    """
    return min((_INTERVAL[1] - _INTERVAL[0]) / 100, 1 - 2.0 ** (1 - rounds)) if rounds > 1 else 0.5


def rejection(sample: RigSample, *, reference_ms: float, band_pct: float) -> str | None:
    """
    Return why `sample` is not to be believed, or `None`.

    A canary above its reference tells contention that no counter in a guest shows (another machine on the same processor); page faults
    and run delay tell this machine's own. On CUDA the time between events is the device's own only where every launch was queued before.
    """
    if sample.canary_ms > reference_ms * (1 + band_pct / 100):
        return "canary"
    if sample.launches_hidden is False:
        return "launches not hidden"
    if sample.page_faults:
        return "page faults"
    if sample.run_delay_ms is not None and sample.run_delay_ms > _RUN_DELAY_SHARE * sample.total_ms:
        return "run delay"
    return None


def summarise(
    values_ms: Floats,
    rounds: Ints,
    builds: Ints,
    *,
    raw: int,
    kept: int,
    build_ms: Floats | None = None,
    measured_builds: int | None = None,
) -> Summary:
    """
    Summarise the samples of one thing.

    Args:
        values_ms: 1-D, the samples that count.

        rounds: 1-D, the round of each sample. A round with what all builds gave in it is one unit of the bootstrap, because samples of one
            moment share its conditions: an interval over single samples, or over each build's rounds apart, would be too narrow.

        builds: 1-D, the build of each sample.

        raw: Samples before rejection.

        kept: Accepted ones.

        build_ms: 1-D, the samples by which builds are compared, where those differ from `values_ms`.

        measured_builds: Builds that took samples, where some of them may have none that counts.
    """
    compared = values_ms if build_ms is None else build_ms
    names = np.unique(builds)
    by_round = _round_medians(values_ms, rounds, builds)
    generator = np.random.Generator(np.random.PCG64(len(by_round)))
    drawn = generator.integers(0, len(by_round), size=(_RESAMPLES, len(by_round)))
    low, high = np.percentile(_medians(by_round[drawn].reshape(_RESAMPLES, -1)), _INTERVAL)
    return Summary(
        median_ms=float(_medians(by_round.reshape(1, -1))[0]),
        low_ms=float(low),
        high_ms=float(high),
        min_ms=float(values_ms.min()),
        p90_ms=float(np.percentile(values_ms, 90)),
        mad_ms=float(np.median(np.abs(values_ms - np.median(values_ms)))),
        raw=raw,
        kept=kept,
        builds=len(names) if measured_builds is None else measured_builds,
        builds_ms=tuple(float(np.median(compared[builds == build])) for build in names),
        rounds=len(by_round),
    )


def _round_medians(values_ms: Floats, rounds: Ints, builds: Ints) -> Floats:
    """Return the median of each round (row) of each build (column); NaN where a build has no sample that counts."""
    names, row = np.unique(rounds, return_inverse=True)
    columns, column = np.unique(builds, return_inverse=True)
    cells, place, counts = np.unique(row * len(columns) + column, return_inverse=True, return_counts=True)
    ordered = values_ms[np.lexsort((values_ms, place))]
    starts = np.cumsum(counts) - counts
    medians = np.full(len(names) * len(columns), np.nan)
    medians[cells] = (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2
    return medians.reshape(len(names), len(columns))


def _medians(values: Floats) -> Floats:
    """Return the median of each row, NaN left out; every row has a number."""
    ordered = np.sort(values, axis=1)  # NaN last
    counts = np.count_nonzero(~np.isnan(ordered), axis=1)
    rows = np.arange(len(ordered))
    medians: Floats = (ordered[rows, (counts - 1) // 2] + ordered[rows, counts // 2]) / 2
    return medians
