"""The machine's slowness: told by all subjects together, and nothing of it is left in what is measured of one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from dcnas_latency.slowness import slowness

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def random(seed: int = 0) -> np.random.Generator:
    """Return the generator of a seed."""
    return np.random.Generator(np.random.PCG64(seed))


class Run:
    """Subjects of 1 to 20 ms timed once a turn, in an order of each turn's own; builds take turns."""

    def __init__(
        self, *, subjects: int = 30, rounds: int = 8, builds: int = 2, noise: float = 0.01, seed: int = 0
    ) -> None:
        generator = random(seed)
        self.levels = generator.uniform(1, 20, subjects)
        turns = rounds * builds
        self.subjects = np.concatenate([generator.permutation(subjects) for _ in range(turns)])
        self.turns = np.repeat(np.arange(turns), subjects)
        self.builds = self.turns % builds
        self.times_ms = self.levels[self.subjects] * np.exp(noise * generator.standard_normal(len(self.subjects)))

    def slowed(self, factor: Floats) -> "Run":
        """Slow each sample by a factor."""
        self.times_ms = self.times_ms * factor
        return self

    def figures(self, *, within_build: bool = False) -> Floats:
        """Return the median of each subject over its samples, slowness taken out."""
        found = slowness(self.times_ms, self.subjects, self.turns, self.builds)
        ms = self.times_ms / (found.within_build if within_build else found.factor)
        return np.array([np.median(ms[self.subjects == number]) for number in range(len(self.levels))])

    def ratios(self) -> Floats:
        """Return figure over truth of each subject, beside the median of them all: what a common level leaves."""
        ratios = self.figures() / self.levels
        return ratios / np.median(ratios)


def phases(count: int, *, length: int, slow: float, seed: int = 1) -> Floats:
    """Return a factor a sample that changes between 1 and `slow` every `length` samples or so."""
    generator, factors = random(seed), np.ones(0)
    while len(factors) < count:
        for level in (1.0, slow):
            factors = np.concatenate([factors, np.full(int(generator.integers(length // 2, 2 * length)), level)])
    return factors[:count]


@pytest.mark.parametrize("slow", [1.2, 1.5, 2.0])
def test_slow_phases_of_the_host_leave_no_subject_slower_than_another(slow: float) -> None:
    """With half the time in phases of tens of samples, each subject is measured beside the others as on a quiet machine."""
    run = Run()
    run.slowed(phases(len(run.times_ms), length=40, slow=slow))
    assert np.abs(run.ratios() - 1).max() < 0.03
    assert np.abs(run.ratios() - 1).mean() < 0.008


def test_a_subject_that_met_slow_moments_only_is_measured_like_the_others() -> None:
    """Every time that one subject comes the machine is half as slow again, for its neighbours too: no median of its own tells that."""
    run = Run()
    places = np.flatnonzero(run.subjects == 7)
    near = np.abs(np.arange(len(run.subjects))[:, None] - places[None, :]).min(axis=1) <= 6
    run.slowed(np.where(near, 1.5, 1.0))
    own = float(np.median(run.times_ms[run.subjects == 7])) / run.levels[7]
    assert own == pytest.approx(1.5, rel=0.01)
    assert run.ratios()[7] == pytest.approx(1.0, abs=0.02)


def test_figures_are_those_of_quiet_moments() -> None:
    """Where more than a quarter of the time is quiet, the common level is that of the quiet machine."""
    run = Run()
    run.slowed(phases(len(run.times_ms), length=40, slow=1.5))
    assert run.figures() == pytest.approx(run.levels, rel=0.03)


def test_single_disturbed_samples_say_nothing_of_their_neighbours() -> None:
    """A tenth of the samples at a third of the speed, here and there: from hardly any other is anything taken out."""
    run = Run(noise=0.0)
    hit = random(3).random(len(run.times_ms)) < 0.1
    run.slowed(np.where(hit, 3.0, 1.0))
    found = slowness(run.times_ms, run.subjects, run.turns, run.builds)
    assert (np.abs(found.factor - 1) > 1e-6).mean() < 0.02
    assert run.figures() == pytest.approx(run.levels)


def test_what_builds_differ_by_is_taken_out_of_figures_and_left_for_comparison() -> None:
    """A build 8 % slower than the other does not spread the figures, and shows where builds are compared."""
    run = Run()
    run.slowed(np.where(run.builds == 1, 1.08, 1.0))
    found = slowness(run.times_ms, run.subjects, run.turns, run.builds)
    left, taken = (
        [np.median((run.times_ms / factor / run.levels[run.subjects])[run.builds == build]) for build in (0, 1)]
        for factor in (found.within_build, found.factor)
    )
    assert left[1] / left[0] == pytest.approx(1.08, abs=0.005)
    assert taken[1] / taken[0] == pytest.approx(1.0, abs=0.005)


def test_a_moment_without_neighbours_is_taken_as_it_is() -> None:
    """One sample a turn has nothing to be compared with, and none is made up."""
    times = np.array([1.0, 2.0, 3.0, 5.0])
    found = slowness(times, np.zeros(4, dtype=np.int64), np.arange(4), np.zeros(4, dtype=np.int64))
    assert found.factor.tolist() == [1.0] * 4


def test_neighbours_of_another_turn_are_not_heard() -> None:
    """Samples of two kinds that alternate, one of them slow throughout: each is told by its own kind."""
    run = Run(noise=0.0, builds=1)
    kind = np.arange(len(run.subjects)) % 2
    run.slowed(np.where(kind == 1, 1.5, 1.0))
    found = slowness(run.times_ms, run.subjects, run.turns * 2 + kind, run.builds)
    assert run.times_ms / found.factor == pytest.approx(run.levels[run.subjects], rel=1e-3)


def test_the_unit_does_not_matter_and_nothing_is_drawn() -> None:
    """Microseconds give the same slowness as milliseconds, and twice the same."""
    run = Run(seed=5)
    run.slowed(phases(len(run.times_ms), length=20, slow=1.4))
    first, second = (slowness(run.times_ms * unit, run.subjects, run.turns, run.builds) for unit in (1.0, 1000.0))
    assert first.factor == pytest.approx(second.factor)
    assert (slowness(run.times_ms, run.subjects, run.turns, run.builds).factor == first.factor).all()
