"""
A device that is a formula: known costs, overlap, alignment steps, noise, contention and drift, and a clock that only calls move.

It tests the whole profiler against a known truth, and stands in for a device in the smoke preset, where every run must give the same
bytes. What it makes is marked: its runtime is `simulated`, and its card says so.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_latency.rig import RigSample, Subject
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.latency import Clock
from dcnas_schema.provenance import DeviceCard, DeviceState

_CANARY_MS = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """What the simulated device costs, and how it disturbs."""

    launch_ms: float = 0.02
    """Of each convolution or linear layer."""
    macs_per_ms: float = 4e7
    modulus: int = 16
    """Widths that are multiples of it run faster by `modulus_gain`."""
    modulus_gain: float = 0.05
    computed_in: int = 1
    """Widths are computed in blocks of so many channels, of which every begun one costs a whole one."""
    overlap: float = 0.03
    """Share of each part's time that a whole net hides behind its neighbours."""
    overhead_ms: float = 0.05
    """Of each call of a whole net."""
    noise: float = 0.0
    """Standard deviation of the logarithm of each sample."""
    contention: float = 0.0
    """Share of samples that run half as fast, canary included."""
    hidden_contention: float = 0.0
    """Share of samples that run half as fast, unseen by the canary."""
    drift_per_sample: float = 0.0
    """Relative growth of everything from sample to sample, unseen by the canary."""
    build_bias: float = 0.0
    """How much slower each build is than the one before."""


@dataclass(kw_only=True, slots=True)
class SimulatedRig:
    """A rig over a `Law`; the same seed gives the same samples."""

    law: Law
    seed: int = 0
    builds: int = 2
    in_context: bool = True
    clock: Clock = "simulated"
    subjects: Sequence[Subject] = ()
    taken: int = 0
    """Samples so far."""

    def load(self, subjects: Sequence[Subject]) -> None:
        """
        Take `subjects`; nothing has to be built.

        Raises:
            UnfitEnvironmentError: A net of the literature is among them: the law knows what parts cost, and nothing of others.
        """
        if any(subject.reference is not None for subject in subjects):
            raise UnfitEnvironmentError(
                "A simulated device cannot time nets of the literature.", remedy="set profile_latency.references: []"
            )
        self.subjects = subjects

    def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
        """Return samples by the law."""
        generator = np.random.Generator(np.random.PCG64([self.seed, build, round, len(self.subjects), *order[:1]]))
        return [self._sample(number, build, round, marked=marked, generator=generator) for number in order]

    def state(self) -> DeviceState:
        """Return an undisturbed state."""
        return DeviceState(load_average=0.0)

    def close(self) -> None:
        """Nothing was started."""

    def __enter__(self) -> Self:
        """Return the rig."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was started."""

    def _sample(
        self, number: int, build: int, round: int, *, marked: bool, generator: np.random.Generator
    ) -> RigSample:
        law, subject = self.law, self.subjects[number]
        self.taken += 1
        slow = (1 + law.drift_per_sample) ** self.taken * (1 + law.build_bias * build)
        contended, hidden = generator.random(2) < (law.contention, law.hidden_contention)
        slow *= 2.0 if contended or hidden else 1.0
        inside = 1 - law.overlap if len(subject.parts) > 1 else 1.0
        times = np.array([part_ms(part, law) for part in subject.parts]) * inside * slow
        if law.noise:
            times = times * np.exp(law.noise * generator.standard_normal(len(times)))
        total = float(times.sum() + (law.overhead_ms * slow if len(subject.parts) > 1 else 0.0))
        return RigSample(
            subject=number,
            build=build,
            round=round,
            total_ms=total,
            part_ms=tuple(times.tolist()) if marked else (),
            canary_ms=_CANARY_MS * (2.0 if contended else 1.0),
            page_faults=0,
            run_delay_ms=0.0,
            wall_ms=total,
            enqueue_ms=None,
        )


def true_ms(subject: Subject, law: Law) -> float:
    """Return what an undisturbed call of a whole net costs by the law."""
    return sum(part_ms(part, law) for part in subject.parts) * (1 - law.overlap) + law.overhead_ms


def part_ms(part: Part, law: Law) -> float:
    """Return what a part alone costs by the law."""
    mid = None if part.mid_channels is None else -(-part.mid_channels // law.computed_in) * law.computed_in
    layers, macs = _work(part.key, mid)
    gain = law.modulus_gain if part.mid_channels is not None and part.mid_channels % law.modulus == 0 else 0.0
    return law.launch_ms * layers + macs / law.macs_per_ms * (1 - gain)


def simulated_card(threads: int) -> DeviceCard:
    """Return the card of the simulated device."""
    return DeviceCard(
        kind="cpu",
        name="simulated device",
        cores=1,
        threads=threads,
        python=platform.python_version(),
        torch="not used",
        system="simulated",
        absent={"cpu_model": "the device is a formula"},
    )


def _work(key: LatencyKey, mid: int | None) -> tuple[int, float]:
    """Return layers and MACs of one image; a rough count is enough for a made-up device."""
    pixels = key.height * key.width
    out_pixels = -(-key.height // key.stride) * -(-key.width // key.stride)
    window = key.kernel_size**2
    match key.part:
        case "first_stem":
            return 1, out_pixels * key.in_channels * key.out_channels * window
        case "second_stem":
            return 4, pixels * key.in_channels * (window + key.out_channels)
        case "block":
            assert mid is not None
            se = 2 if key.se_channels else 0
            return 3 + se, mid * (
                pixels * key.in_channels + out_pixels * (window + key.out_channels) + 2 * key.se_channels
            )
        case "decoder":
            per_pixel = key.in_channels + window * (key.out_channels + key.skip_channels + key.out_channels)
            return 3, 4 * pixels * key.out_channels * per_pixel
        case _:
            return 1, pixels * key.in_channels * key.out_channels
