"""From raw samples to a figure with its interval: what is rejected and why, and how far the bootstrap over rounds can be believed."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dcnas_latency.rig import RigSample
from dcnas_latency.samples import Summary, attained_confidence, rejection, summarise

REFERENCE_MS, BAND_PCT = 1.0, 10.0
TRUE_MS = 5.0


def sample(**changes: Any) -> RigSample:
    """Return a sample that nothing disturbed, with changed fields."""
    fields: dict[str, Any] = {
        "subject": 0,
        "build": 0,
        "round": 0,
        "total_ms": 10.0,
        "part_ms": (),
        "canary_ms": 1.0,
        "page_faults": 0,
        "run_delay_ms": 0.0,
        "wall_ms": 10.0,
        "enqueue_ms": None,
    }
    return RigSample(**{**fields, **changes})


def summary_of(values_ms: NDArray[np.float64]) -> Summary:
    """Return the summary of samples in an array (round, build, sample)."""
    rounds, builds, _ = np.indices(values_ms.shape)
    raw = values_ms.size
    return summarise(values_ms.ravel(), rounds.ravel(), builds.ravel(), raw=raw, kept=raw)


def covers(summary: Summary) -> bool:
    """Return whether the interval holds the truth."""
    return summary.low_ms <= TRUE_MS <= summary.high_ms


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"canary_ms": 1.1}, None),
        ({"canary_ms": 1.101}, "canary"),
        ({"canary_ms": 0.2}, None),
        ({"page_faults": 1}, "page faults"),
        ({"run_delay_ms": 0.05}, None),
        ({"run_delay_ms": 0.051}, "run delay"),
        ({"run_delay_ms": 0.051, "total_ms": 20.0}, None),
        ({"run_delay_ms": None}, None),
        ({"canary_ms": 2.0, "page_faults": 3, "run_delay_ms": 5.0}, "canary"),
    ],
)
def test_a_sample_is_rejected_for_what_disturbed_it(changes: dict[str, Any], reason: str | None) -> None:
    """Beyond the band, a page fault and half a per cent of waiting reject; at the limit, and where nothing is told, a sample stands."""
    assert rejection(sample(**changes), reference_ms=REFERENCE_MS, band_pct=BAND_PCT) == reason


def test_a_summary_holds_the_figures_of_its_samples() -> None:
    """Median over the rounds' medians, least, 90th percentile and spread are those worked out by hand; so is each build's median."""
    values = np.array([[[1.0, 1.0, 4.0], [2.0, 2.0, 2.0]], [[3.0, 3.0, 3.0], [6.0, 5.0, 4.0]]])
    summary = summary_of(values)
    assert summary.median_ms == 2.5  # of 1, 2, 3, 5
    assert summary.min_ms == 1.0
    assert summary.p90_ms == pytest.approx(4.9)
    assert summary.mad_ms == 1.0  # about 3
    assert summary.builds_ms == (3.0, 3.0)
    assert (summary.raw, summary.kept) == (12, 12)


def test_a_round_with_many_samples_weighs_no_more_than_one_with_few() -> None:
    """A part that repeats within one disturbed round does not pull the median: rounds count, not samples."""
    values = np.array([9.0] * 20 + [5.0, 5.0, 5.0])
    rounds = np.array([0] * 20 + [1, 2, 3])
    summary = summarise(values, rounds, np.zeros(23, dtype=np.int64), raw=23, kept=23)
    assert summary.median_ms == 5.0


def test_builds_are_compared_by_their_medians() -> None:
    """Two builds 1 ms apart about a mean of 5 ms differ by 20 %; one build has nothing to differ from."""
    both = np.stack([np.full((4, 3), 4.5), np.full((4, 3), 5.5)], axis=1)
    assert summary_of(both).builds_differ_pct == pytest.approx(20.0)
    assert summary_of(both[:, :1]).builds_differ_pct is None


def test_builds_may_be_compared_by_other_times_than_the_figures() -> None:
    """What was taken out of the figure may be what builds differ by; a build without samples that count is counted as measured."""
    values, ones = np.full(8, 5.0), np.arange(8)
    own = np.where(ones % 2, 5.5, 4.5)
    summary = summarise(values, ones // 2, ones % 2, raw=8, kept=8, build_ms=own)
    assert (summary.median_ms, summary.builds_ms, summary.builds) == (5.0, (4.5, 5.5), 2)
    left = summarise(values[:4], ones[:4], np.zeros(4, dtype=np.int64), raw=8, kept=4, measured_builds=2)
    assert (left.builds, left.builds_differ_pct) == (2, None)


@pytest.mark.parametrize("shape", [(20, 1, 4), (20, 2, 2)], ids=["one build", "two builds"])
def test_the_interval_covers_the_truth_where_samples_of_a_round_are_alike(shape: tuple[int, int, int]) -> None:
    """
    With conditions that last a round, shared by both builds, about 95 % of the intervals hold the truth.

    Of the intervals that the same bootstrap makes over single samples, far fewer do.
    """
    generator = np.random.Generator(np.random.PCG64(1))
    by_round = by_sample = 0
    trials = 200
    for _ in range(trials):
        conditions = 0.3 * generator.standard_normal((shape[0], 1, 1))
        values = TRUE_MS + conditions + 0.05 * generator.standard_normal(shape)
        by_round += covers(summary_of(values))
        by_sample += covers(summary_of(values.reshape(-1, 1, 1)))
    assert 0.90 <= by_round / trials <= 0.99
    assert by_sample / trials < 0.75


def test_the_interval_covers_the_truth_where_some_rounds_were_rejected() -> None:
    """Rounds that one build lost do not shift the interval, nor make it a certainty."""
    generator = np.random.Generator(np.random.PCG64(2))
    held = 0
    trials = 200
    for _ in range(trials):
        conditions = 0.3 * generator.standard_normal((20, 1))
        values = TRUE_MS + conditions + 0.05 * generator.standard_normal((20, 2))
        rounds, builds = np.indices(values.shape)
        there = generator.random(values.shape) < 0.7
        kept = int(there.sum())
        held += covers(summarise(values[there], rounds[there], builds[there], raw=40, kept=kept))
    assert 0.90 <= held / trials <= 0.99


def test_the_interval_of_the_same_samples_is_the_same() -> None:
    """The bootstrap draws nothing from outside: two summaries of one array are equal, and bound the median."""
    values = TRUE_MS + np.random.Generator(np.random.PCG64(3)).standard_normal((8, 2, 2))
    first, second = summary_of(values), summary_of(values)
    assert first == second
    assert first.min_ms < first.low_ms < first.median_ms < first.high_ms


def test_one_sample_makes_a_figure_without_a_spread() -> None:
    """Where a single sample had to do, every figure is that sample."""
    summary = summary_of(np.full((1, 1, 1), TRUE_MS))
    assert summary.low_ms == summary.median_ms == summary.high_ms == summary.min_ms == TRUE_MS
    assert summary.mad_ms == 0.0


@pytest.mark.parametrize(("rounds", "level"), [(1, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375), (6, 0.95), (40, 0.95)])
def test_few_rounds_attain_less_than_their_intervals_name(rounds: int, level: float) -> None:
    """Between the least and the greatest of n lies the true median with 1 - 2^(1 - n): 95 % takes six rounds."""
    assert attained_confidence(rounds) == pytest.approx(level)


@pytest.mark.parametrize(("hidden", "reason"), [(None, None), (True, None), (False, "launches not hidden")])
def test_a_gpu_that_waited_for_launches_gave_no_time_of_its_own(hidden: bool | None, reason: str | None) -> None:
    """What events measured then holds gaps between launches; off CUDA there is no such thing."""
    one = RigSample(
        subject=0,
        build=0,
        round=0,
        total_ms=1.0,
        part_ms=(),
        canary_ms=1.0,
        page_faults=0,
        run_delay_ms=None,
        wall_ms=1.0,
        enqueue_ms=None,
        launches_hidden=hidden,
    )
    assert rejection(one, reference_ms=1.0, band_pct=10.0) == reason
