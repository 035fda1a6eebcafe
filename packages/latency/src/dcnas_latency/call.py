"""The latency of one call: samples beside a slow canary are left out, and whatever still spoils the figure is said beside it."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from dcnas_latency.bystanders import MOST_OTHERS_PCT, Bystanders
from dcnas_latency.canary import LEAST_SAMPLES, Canary, CanaryStore, choose_canary, session_best
from dcnas_latency.cuda import Cuda
from dcnas_latency.rig import RigSample
from dcnas_latency.samples import LEAST_KEPT, rejection
from dcnas_latency.seen import Seen
from dcnas_latency.timers import Cache, Program, Sample, Timer, UnsynchronisedTimer, choose_timer
from dcnas_latency.watch import Watch
from dcnas_schema.provenance import DeviceState
from dcnas_schema.records import MeasuredLatency

if TYPE_CHECKING:
    import torch

WARM_CALLS = 1
"""Untimed calls right before each timed one: the canary between them has taken the cache."""
_MOST_ROUNDS = 3
_MOST_SETTLING_CALLS = 10
"""Until what the allocator keeps fits; see `timers.thread_environment`."""
_LEAST_WATCHED_S = 1.0
"""The kernel counts processor time in ticks of 10 ms: the others' share of a shorter time would be a guess."""

Context = Callable[[], AbstractContextManager[object]]
Learn = Callable[[Sequence[float]], float]
"""From all canary times of this session, in ms, to the reference that the samples beside them are judged by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallPlan:
    """How many samples are taken, and which are believed."""

    warmup: int
    """Calls before timing."""
    repeats: int
    """Timed calls; once or twice as many again where fewer than `LEAST_KEPT` are accepted."""
    canary_band_pct: float
    """Samples whose canary is further than this above the reference are rejected."""
    unsynchronised: bool = False
    """Take the paper's unsynchronised figure too, after all others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallTiming:
    """What the samples of one program make, in ms: of the accepted ones, or of the quieter half of all where too few were."""

    median_ms: float
    p5_ms: float
    p95_ms: float
    """Of the wall time until the result was there."""
    device_median_ms: float | None
    """Of the time on the device, the whole call queued before it began; `None` on a CPU, or where that never succeeded."""
    device_p5_ms: float | None = None
    device_p95_ms: float | None = None
    raw: int
    kept: int
    """Samples taken and accepted; `kept` below `LEAST_KEPT` tells that the quieter half had to do."""
    rejected: dict[str, int]
    """Samples rejected, by reason."""
    canary_reference_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CallSetting:
    """What a call takes, and how its device computes it."""

    batch: int
    height: int
    width: int
    """Images, and their pixels."""
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    cache: Cache
    tf32: bool
    """Whether a GPU computes fp32 convolutions in TF32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredCall:
    """A timing with the state that the device was in."""

    timing: CallTiming
    before: DeviceState
    after: DeviceState
    others_pct: float | None
    """Share of all processors' time that other programs took, over a second at least; `None` where the system does not tell."""
    noise: tuple[str, ...]
    """Why the figure is not to be believed; empty where it is."""
    unsynchronised_ms: float | None = None
    """Mean of back-to-back calls in ms, the device never waited for; `None` where it was not asked for."""

    def record(self, plan: CallPlan, setting: CallSetting) -> MeasuredLatency:
        """Return what records hold of it: the call was made by `plan` in `setting`."""
        timing = self.timing
        return MeasuredLatency(
            **asdict(setting),
            warmup=plan.warmup,
            warm_calls=WARM_CALLS,
            repeats=plan.repeats,
            median_ms=timing.median_ms,
            p5_ms=timing.p5_ms,
            p95_ms=timing.p95_ms,
            device_median_ms=timing.device_median_ms,
            device_p5_ms=timing.device_p5_ms,
            device_p95_ms=timing.device_p95_ms,
            unsynchronised_ms=self.unsynchronised_ms,
            raw=timing.raw,
            kept=timing.kept,
            rejected=timing.rejected,
            canary_band_pct=plan.canary_band_pct,
            canary_reference_ms=timing.canary_reference_ms,
            others_pct=self.others_pct,
            noise=self.noise,
            before=self.before,
            after=self.after,
        )


class _Taken(NamedTuple):
    sample: Sample
    judged: RigSample
    """The same sample with its canary, as rejection takes it."""


def measure_call(
    program: Program,
    device: "torch.device | str",
    plan: CallPlan,
    *,
    context: Context = nullcontext,
    store_of: Callable[[str], CanaryStore] | None = None,
    cache: Cache = "warm",
) -> MeasuredCall:
    """
    Time `program` on `device`; the caller holds the device's lock, exclusively.

    Args:
        context: Makes what the program runs in, such as inference mode; the canary, whose time must not depend on it, runs outside.

        store_of: Gives where the best time of a canary is kept, by the canary's `op`; without it the reference is the best of this
            session, which cannot tell that the machine is slow throughout.

        cache: `cold` writes over a GPU's second-level cache before each timed call.

    Raises:
        BadInputError: A cold cache is asked of a CPU.

        UnfitEnvironmentError: The GPU does not answer any more.

        CorruptArtefactError: The best time that is kept is damaged.
    """
    timer, canary = choose_timer(device, cache=cache), choose_canary(device, runtime="torch_eager")
    learn = session_best if store_of is None else _learning(store_of(canary.op), canary)
    others, began = Bystanders(), time.monotonic()
    with Watch(device) as watch:
        timing = time_program(program, timer, canary, plan, context=context, learn=learn)
        time.sleep(max(0.0, began + _LEAST_WATCHED_S - time.monotonic()))
        share = others.share()
        unsynchronised = _unsynchronised_ms(program, device, context) if plan.unsynchronised else None
    states = watch.states
    others_pct = None if share is None else round(100 * share, 2)
    return MeasuredCall(
        timing=timing,
        before=states[0][1],
        after=states[-1][1],
        others_pct=others_pct,
        noise=_noise(timing, watch.seen(), others_pct),
        unsynchronised_ms=unsynchronised,
    )


def time_program(
    program: Program,
    timer: Timer,
    canary: Canary,
    plan: CallPlan,
    *,
    context: Context = nullcontext,
    learn: Learn = session_best,
) -> CallTiming:
    """Warm `program` up, then time it between canaries until enough samples are accepted or the plan is spent thrice over."""
    with context():
        faults_tell = _warm_up(program, timer, plan.warmup)
    taken: list[_Taken] = []
    canaries = [canary.sample()]
    for _ in range(_MOST_ROUNDS):
        for _ in range(plan.repeats):
            with context():
                for _ in range(WARM_CALLS):
                    program.run()
                sample = timer.sample(program)
            canaries.append(canary.sample())
            taken.append(_Taken(sample, _judged(sample, max(canaries[-2:]), faults_tell=faults_tell)))
        reference = learn(canaries)
        kept, rejected = _accept(taken, reference_ms=reference, band_pct=plan.canary_band_pct)
        if len(kept) >= LEAST_KEPT:
            break
    used = kept if len(kept) >= LEAST_KEPT else _quieter_half(taken)
    wall = np.array([sample.wall_ms for sample, _ in used])
    device = [sample.total_ms for sample, _ in used if sample.launches_hidden]
    low, median, high = np.quantile(wall, (0.05, 0.5, 0.95))
    return CallTiming(
        median_ms=float(median),
        p5_ms=float(low),
        p95_ms=float(high),
        device_median_ms=float(np.median(device)) if device else None,
        device_p5_ms=float(np.quantile(device, 0.05)) if device else None,
        device_p95_ms=float(np.quantile(device, 0.95)) if device else None,
        raw=len(taken),
        kept=len(kept),
        rejected=dict(sorted(rejected.items())),
        canary_reference_ms=reference,
    )


def _learning(store: CanaryStore, canary: Canary) -> Learn:
    """Return what takes this session's canaries into the store, with further ones where they are too few to tell a best time."""
    more: list[float] = []
    session = store.session()

    def learn(times: Sequence[float]) -> float:
        while len(times) + len(more) < LEAST_SAMPLES:
            more.append(canary.sample())
        return session([*times, *more]).best_ms

    return learn


def _unsynchronised_ms(program: Program, device: "torch.device | str", context: Context) -> float:
    kind, _, index = str(device).partition(":")
    with context():
        return UnsynchronisedTimer(Cuda(int(index or 0)) if kind == "cuda" else None).sample(program).total_ms


def _warm_up(program: Program, timer: Timer, calls: int) -> bool:
    """
    Run `calls` times, then on until a call faults in no page; return whether one did.

    Where none does, this process's allocator gives memory back after every call: its faults then tell nothing of the machine.
    """
    for _ in range(calls):
        program.run()
    return any(timer.sample(program).page_faults == 0 for _ in range(_MOST_SETTLING_CALLS))


def _judged(sample: Sample, canary_ms: float, *, faults_tell: bool) -> RigSample:
    return RigSample(
        subject=0,
        build=0,
        round=0,
        total_ms=sample.total_ms,
        part_ms=(),
        canary_ms=canary_ms,
        page_faults=sample.page_faults if faults_tell else 0,
        run_delay_ms=sample.run_delay_ms,
        wall_ms=sample.wall_ms,
        enqueue_ms=sample.enqueue_ms,  # launches that were not hidden spoil the time on the device alone, which leaves such samples out
    )


def _accept(taken: Sequence[_Taken], *, reference_ms: float, band_pct: float) -> tuple[list[_Taken], Counter[str]]:
    kept: list[_Taken] = []
    rejected: Counter[str] = Counter()
    for one in taken:
        reason = rejection(one.judged, reference_ms=reference_ms, band_pct=band_pct)
        if reason is None:
            kept.append(one)
        else:
            rejected[reason] += 1
    return kept, rejected


def _quieter_half(taken: Sequence[_Taken]) -> Sequence[_Taken]:
    """Return the samples beside the faster canaries."""
    return sorted(taken, key=lambda one: one.judged.canary_ms)[: -(-len(taken) // 2)]


def _noise(timing: CallTiming, seen: Seen, others_pct: float | None) -> tuple[str, ...]:
    reasons = {
        f"fewer than {LEAST_KEPT} samples accepted": timing.kept < LEAST_KEPT,
        "other programs took processor time": others_pct is not None and others_pct > MOST_OTHERS_PCT,
        "the device was slowed": bool(seen.throttled),
        "other processes on the GPU": bool(seen.other_processes),
    }
    return tuple(reason for reason, holds in reasons.items() if holds)
