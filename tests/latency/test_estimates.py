"""From samples to figures: which samples count, and that conditions are alike for parts and whole nets."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dcnas_latency.estimates import Estimates, Phase
from dcnas_latency.packing import whole_net
from dcnas_latency.rig import RigSample, Subject
from dcnas_schema.genotype import uniform_genotype

Disturb = Callable[[RigSample, int], RigSample]
NET = whole_net(uniform_genotype("k3_e3", 3), "c_nas", height=32, width=32, classes=10)
PART_MS = 0.5


def phase(
    disturb: Disturb = lambda sample, _: sample, *, subjects: int = 20, rounds: int = 4, builds: int = 2
) -> Phase:
    """Return a phase in which one net stands for all subjects, the even ones with marks; `disturb` takes a sample and its place."""
    generator = np.random.Generator(np.random.PCG64(0))
    samples: list[RigSample] = []
    for round in range(rounds):
        for build in range(builds):
            for number in generator.permutation(subjects):
                samples.append(disturb(_sample(int(number), build, round), len(samples)))
    return Phase(subjects=[NET] * subjects, samples=samples)


def _sample(subject: int, build: int, round: int) -> RigSample:
    total = PART_MS * len(NET.parts)
    return RigSample(
        subject=subject,
        build=build,
        round=round,
        total_ms=total,
        part_ms=() if subject % 2 else (PART_MS,) * len(NET.parts),
        canary_ms=1.0,
        page_faults=0,
        run_delay_ms=0.0,
        wall_ms=total,
        enqueue_ms=None,
    )


def slower(sample: RigSample, factor: float, *, canary: float = 1.0) -> RigSample:
    """Return a sample that took `factor` as long."""
    parts = tuple(ms * factor for ms in sample.part_ms)
    return replace(sample, total_ms=sample.total_ms * factor, part_ms=parts, canary_ms=canary)


def estimates(found: Phase) -> Estimates:
    """Return what the samples tell, the canary's best time being 1 ms and its band 10 %."""
    return Estimates(found, reference_ms=1.0, band_pct=10.0)


def test_undisturbed_samples_are_figures() -> None:
    """Without noise each part and each net is what it costs, from all samples."""
    found = estimates(phase())
    for readings in found.subjects(0):
        assert readings.summary().median_ms == pytest.approx(PART_MS * len(NET.parts))
        assert (readings.summary().raw, readings.summary().kept, readings.summary().builds) == (8, 8, 2)
    for readings in found.parts().values():
        assert readings.median_ms == pytest.approx(PART_MS)
    assert found.rejected == {}


def test_rejected_samples_are_counted_by_reason_and_do_not_count() -> None:
    """A canary out of its band, a page fault and a wait for a processor: each is told, and none reaches a figure."""

    def disturb(sample: RigSample, place: int) -> RigSample:
        match place % 8:
            case 0:
                return slower(sample, 3.0, canary=1.2)
            case 1:
                return replace(slower(sample, 3.0), page_faults=2)
            case 2:
                return replace(slower(sample, 3.0), run_delay_ms=sample.total_ms)
        return sample

    found = estimates(phase(disturb))
    assert found.rejected == {"canary": 20, "page faults": 20, "run delay": 20}
    assert len(found.accepted(0)) == 100
    assert {sample.subject for sample in found.accepted(15)} == set(range(15, 20))
    for readings in found.subjects(0):
        assert readings.summary().median_ms == pytest.approx(PART_MS * len(NET.parts))


def test_no_subject_is_measured_in_quieter_conditions_than_another() -> None:
    """
    The second half of every round is a tenth slower, within the canary's band: who came late by chance is measured like the others.

    By its own samples alone a subject that mostly came late would be a tenth too slow.
    """

    def disturb(sample: RigSample, place: int) -> RigSample:
        return slower(sample, 1.1 if place % 40 >= 20 else 1.0, canary=1.05)

    made = phase(disturb, subjects=40, builds=1, rounds=5)
    own = [np.median([s.total_ms for s in made.samples if s.subject == number]) for number in range(40)]
    assert max(own) == pytest.approx(1.1 * min(own))
    found = estimates(made)
    assert found.rejected == {}
    for readings in found.subjects(0):
        assert readings.median_ms == pytest.approx(PART_MS * len(NET.parts), rel=0.01)
    for readings in found.parts().values():
        assert readings.median_ms == pytest.approx(PART_MS, rel=0.01)


@pytest.mark.parametrize("quiet", [0, 1, 2])
def test_where_fewer_than_half_are_accepted_all_count(quiet: int) -> None:
    """Each round is slow in its own way, few of them within the canary's band: the figure is the quiet one, `kept` tells how few."""

    def disturb(sample: RigSample, _: int) -> RigSample:
        return slower(sample, (1.0, 1.05, 1.2, 1.3)[sample.round], canary=1.0 if sample.round < quiet else 2.0)

    for readings in estimates(phase(disturb, builds=1)).subjects(0):
        assert readings.used.sum() == (2 if quiet == 2 else 4)
        assert readings.summary().kept == quiet
        assert readings.summary().median_ms == pytest.approx(PART_MS * len(NET.parts))


def test_a_subjects_own_fast_samples_get_no_preference() -> None:
    """A subject whose samples differ while all others stand still was not in quieter moments: its figure is their median."""

    def disturb(sample: RigSample, _: int) -> RigSample:
        odd = sample.subject == 3
        return slower(sample, (1.3, 1.1, 1.2, 1.0)[sample.round] if odd else 1.0, canary=2.0)

    readings = estimates(phase(disturb, builds=1)).subjects(0)[3]
    assert readings.summary().median_ms == pytest.approx(1.15 * PART_MS * len(NET.parts))


def test_a_build_without_an_accepted_sample_is_still_a_build() -> None:
    """One process was disturbed throughout: nothing can be compared, but two builds were measured."""

    def disturb(sample: RigSample, _: int) -> RigSample:
        return replace(sample, page_faults=sample.build)

    (summary, *_) = (readings.summary() for readings in estimates(phase(disturb, rounds=10)).subjects(0))
    assert (summary.builds, len(summary.builds_ms)) == (2, 1)
    assert summary.builds_differ_pct is None


def test_parts_alone_are_read_from_their_whole_time() -> None:
    """Where a runtime sets no marks a subject is its part."""
    alone = Subject(kind=None, parts=NET.parts[:1], genotype=None)
    made = phase(subjects=8)
    samples = [replace(sample, part_ms=()) for sample in made.samples]
    found = estimates(Phase(subjects=[alone] * 8, samples=samples)).parts()
    assert list(found) == [NET.parts[0]]
    assert found[NET.parts[0]].median_ms == pytest.approx(PART_MS * len(NET.parts))
