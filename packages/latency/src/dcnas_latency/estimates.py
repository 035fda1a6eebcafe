"""From the samples of subjects timed together to figures: of every part and of every whole net, in conditions that are alike for all."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcnas_latency.rig import RigSample, Subject
from dcnas_latency.samples import Floats, Ints, Summary, rejection, summarise
from dcnas_latency.slowness import slowness
from dcnas_schema.keys import Part
from dcnas_schema.latency import used_all


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """Subjects that were timed together, and all their samples in the order taken."""

    subjects: Sequence[Subject]
    samples: Sequence[RigSample]

    @property
    def canaries_ms(self) -> list[float]:
        """The canary of each sample."""
        return [sample.canary_ms for sample in self.samples]


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """All samples of one part or net: 1-D arrays, a value a sample."""

    ms: Floats
    """As in the machine's quiet moments."""
    build_ms: Floats
    """As in the quiet moments of the sample's own build: what builds differ by is left in."""
    rounds: Ints
    builds: Ints
    accepted: NDArray[np.bool_]

    @property
    def used(self) -> NDArray[np.bool_]:
        """
        The accepted samples, or all where fewer than half were: the gate counts such figures and closes on many (`Summary.used_all`).

        Few quiet samples are no better than many whose slowness was taken out: simulated hosts and a contended one gave whole nets and
        table that agree better by all.
        """
        too_few = used_all(len(self.ms), int(self.accepted.sum()))
        return np.ones_like(self.accepted) if too_few else self.accepted

    @property
    def median_ms(self) -> float:
        """The figure without the bootstrap that only final ones need."""
        return float(np.median(self.ms[self.used]))

    def summary(self) -> Summary:
        """Return the figure with its interval."""
        used = self.used
        return summarise(
            self.ms[used],
            self.rounds[used],
            self.builds[used],
            raw=len(used),
            kept=int(self.accepted.sum()),
            build_ms=self.build_ms[used],
            measured_builds=len(np.unique(self.builds)),
        )


class Estimates:
    """
    What the samples of one phase tell.

    Samples are accepted or rejected one by one, as `samples.rejection` has it. Then the slowness of each moment, which all subjects tell
    together, is taken out of every sample, whether of a part or of a whole net: none is measured in quieter conditions than another.

    Args:
        reference_ms: The canary's best time.

        band_pct: Samples whose canary is further above are rejected.
    """

    def __init__(self, phase: Phase, *, reference_ms: float, band_pct: float) -> None:
        self._phase = phase
        reasons = [rejection(sample, reference_ms=reference_ms, band_pct=band_pct) for sample in phase.samples]
        self.rejected = Counter(reason for reason in reasons if reason is not None)
        """Samples rejected, by reason."""
        self._accepted = np.array([reason is None for reason in reasons])
        self._rounds = _column(phase.samples, "round")
        self._builds = _column(phase.samples, "build")
        self._slowness = slowness(
            np.array([sample.total_ms for sample in phase.samples], dtype=np.float64),
            _column(phase.samples, "subject"),
            # who was accepted is told by others who were: one preempted neighbour says nothing of an undisturbed moment
            np.unique(np.stack([self._rounds, self._builds, self._accepted]), axis=1, return_inverse=True)[1].ravel(),
            self._builds,
        )

    def accepted(self, first: int) -> tuple[RigSample, ...]:
        """Return the accepted samples, as they were taken, of the subjects from number `first` on."""
        pairs = zip(self._phase.samples, self._accepted, strict=True)
        return tuple(sample for sample, accepted in pairs if accepted and sample.subject >= first)

    def subjects(self, first: int) -> list[Readings]:
        """Return what was read of each subject as a whole, from number `first` on."""
        rows: dict[int, list[int]] = defaultdict(list)
        for place, sample in enumerate(self._phase.samples):
            rows[sample.subject].append(place)
        samples = self._phase.samples
        return [
            self._readings(rows[number], [samples[place].total_ms for place in rows[number]])
            for number in range(first, len(self._phase.subjects))
        ]

    def parts(self) -> dict[Part, Readings]:
        """Return what was read of each part, between marks or alone."""
        rows: dict[Part, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for place, sample in enumerate(self._phase.samples):
            subject = self._phase.subjects[sample.subject]
            alone = subject.kind is None and subject.reference is None
            times = sample.part_ms or ((sample.total_ms,) if alone else ())
            for part, ms in zip(subject.parts, times, strict=False):
                rows[part][0].append(place)
                rows[part][1].append(ms)
        return {part: self._readings(places, times) for part, (places, times) in rows.items()}

    def _readings(self, places: Sequence[int], times_ms: Sequence[float]) -> Readings:
        chosen, ms = np.array(places, dtype=np.int64), np.array(times_ms, dtype=np.float64)
        return Readings(
            ms=ms / self._slowness.factor[chosen],
            build_ms=ms / self._slowness.within_build[chosen],
            rounds=self._rounds[chosen],
            builds=self._builds[chosen],
            accepted=self._accepted[chosen],
        )


def _column(samples: Sequence[RigSample], name: str) -> Ints:
    return np.array([getattr(sample, name) for sample in samples], dtype=np.int64)
