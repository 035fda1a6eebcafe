"""The latency of one call: which samples its figures are of, and when the figures call themselves noisy."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dcnas_latency import call
from dcnas_latency.call import CallPlan, MeasuredCall, measure_call, time_program
from dcnas_latency.canary import Canary, CanaryStore
from dcnas_latency.timers import Program, Sample
from dcnas_schema.provenance import DeviceState

REFERENCE_MS, SLOW_MS = 1.0, 3.0


class Machine:
    """
    A program, its timer and the canary's, each answering from a script; `log` holds what ran, in order.

    Letters: `u` untimed run, `t` timed run, `c` canary, `(` and `)` the context.
    """

    def __init__(self, samples: Sequence[dict[str, Any]], canaries: Sequence[float] = ()) -> None:
        self.log = ""
        self._samples, self._canaries = iter(samples), iter(canaries)
        self.settling: Iterator[int] = iter([0])
        """Page faults of the timed runs of the warm-up; the last is repeated for ever."""
        self._inside = self._settled = False

    def run(self) -> None:
        """Run the program untimed."""
        assert self._inside
        self.log += "u"

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """Time the program: before the first canary the warm-up's calls, then those of the script."""
        assert program is self
        assert self._inside
        assert not marked
        self.log += "t"
        if not self._settled:
            return Sample(total_ms=99.0, wall_ms=99.0, page_faults=next(self.settling))
        values = next(self._samples)
        return Sample(**{"total_ms": values.get("wall_ms"), **values})

    @property
    def canary(self) -> Canary:
        """A canary of this machine; where the script of its times ends it is at its reference."""
        machine = self

        class Script:
            def run(self) -> None:
                return

            def sample(self, _program: Program, *, marked: bool = False) -> Sample:
                assert not machine._inside
                assert not marked
                return Sample(total_ms=machine._ms, wall_ms=0.0)

        class Noted(Canary):
            def sample(self) -> float:
                machine.log += "c"
                machine._settled, machine._ms = True, next(machine._canaries, REFERENCE_MS)
                return super().sample()

        return Noted(op="script", program=Script(), timer=Script())

    @contextmanager
    def context(self) -> Iterator[None]:
        """Note that it is entered and left."""
        self.log += "("
        self._inside = True
        yield
        self._inside = False
        self.log += ")"


def walls(*ms: float, **more: Any) -> list[dict[str, Any]]:
    """Return samples of these wall times."""
    return [{"wall_ms": value, **more} for value in ms]


def timed(machine: Machine, *, warmup: int = 0, repeats: int = 5, band_pct: float = 15.0) -> call.CallTiming:
    """Time the machine's program."""
    plan = CallPlan(warmup=warmup, repeats=repeats, canary_band_pct=band_pct)
    return time_program(machine, machine, machine.canary, plan, context=machine.context)


def test_each_sample_stands_between_two_canaries() -> None:
    """Warm-up, then canary, untimed run, timed run, canary and so on; the program runs inside the context, the canary outside."""
    machine = Machine(walls(1, 2, 3, 4, 5))
    timed(machine, warmup=3)
    assert machine.log == "(uuut)c" + "(ut)c" * 5


def test_the_figures_are_of_the_wall_time() -> None:
    """Median, 5th and 95th percentile are NumPy's, of every sample where all are accepted, the warm-up's left out."""
    ms = [5.0, 1.0, 9.0, 2.0, 4.0, 3.0]
    found = timed(Machine(walls(*ms)), repeats=6)
    assert (found.median_ms, found.p5_ms, found.p95_ms) == pytest.approx(
        (np.median(ms), np.quantile(ms, 0.05), np.quantile(ms, 0.95))
    )
    assert (found.raw, found.kept, found.rejected, found.device_median_ms) == (6, 6, {}, None)


def test_a_slow_canary_on_either_side_rejects_a_sample() -> None:
    """Of seven samples the two beside the slow canary are left out of every figure, however fast they are."""
    canaries = [REFERENCE_MS] * 3 + [SLOW_MS] + [REFERENCE_MS] * 4
    found = timed(Machine(walls(10, 11, 1, 1, 12, 13, 14), canaries), repeats=7)
    assert (found.raw, found.kept, found.rejected) == (7, 5, {"canary": 2})
    assert found.median_ms == 12
    assert found.p5_ms > 10


def test_the_reference_is_the_best_of_the_session() -> None:
    """It is the 5th percentile of all canary times, and the band beginning there is the plan's."""
    canaries = [1.0, 1.1, 1.2, 1.1, 1.0, 1.0, 1.1, 1.2]
    reference = float(np.quantile(canaries, 0.05))
    narrow = timed(Machine(walls(*range(1, 22)), [*canaries, *[1.2] * 99]), repeats=7, band_pct=5.0)
    wide = timed(Machine(walls(*range(1, 8)), canaries), repeats=7, band_pct=25.0)
    assert wide.canary_reference_ms == pytest.approx(reference)
    assert (wide.kept, wide.raw) == (7, 7)
    assert narrow.kept < 5


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        ({"page_faults": 3}, "page faults"),
        ({"run_delay_ms": 0.2}, "run delay"),
    ],
    ids=["faults", "waiting"],
)
def test_what_the_system_counts_rejects_a_sample(spoilt: dict[str, Any], reason: str) -> None:
    """A sample that faulted in pages, or whose threads waited for a processor, is left out."""
    samples = [*walls(10, 11, 12), *walls(1, **spoilt), *walls(13, 14)]
    found = timed(Machine(samples), repeats=6)
    assert (found.kept, found.rejected, found.median_ms) == (5, {reason: 1}, 12)


def test_the_warm_up_goes_on_until_no_page_is_faulted_in() -> None:
    """What the allocator still has to fetch is over before the first sample."""
    machine = Machine(walls(1, 2, 3, 4, 5))
    machine.settling = iter([900, 40, 0])
    timed(machine, warmup=2)
    assert machine.log.startswith("(uuttt)c")


def test_faults_of_an_allocator_that_keeps_nothing_reject_nothing() -> None:
    """Where every call of the warm-up faults, after ten of them, the samples' faults are no sign of a disturbance."""
    machine = Machine(walls(1, 2, 3, 4, 5, page_faults=13_792))
    machine.settling = iter([13_792] * 10)
    found = timed(machine, warmup=1)
    assert machine.log.startswith("(u" + "t" * 10 + ")c")
    assert (found.kept, found.rejected) == (5, {})


def kept_in(folder: Path, best_ms: float | None = None, op: str = "script") -> Callable[[str], CanaryStore]:
    """Return what gives the store of a canary in `folder`, where this op has once taken `best_ms`."""

    def store_of(asked: str) -> CanaryStore:
        return CanaryStore(folder=folder, fingerprint="f", runtime="torch_eager", threads=1, op=asked)

    if best_ms is not None:
        store_of(op).learn([best_ms] * 100)
    return store_of


def test_a_machine_slow_throughout_is_seen_from_earlier_sessions(
    measured: Callable[..., MeasuredCall], tmp_path: Path
) -> None:
    """Steady, but a third slower than ever before: within the session nothing shows, against the best time kept nothing is accepted."""
    assert measured().noise == ()
    found = measured(store_of=kept_in(tmp_path, best_ms=REFERENCE_MS / 1.3))
    assert found.noise == ("fewer than 5 samples accepted",)
    assert (found.timing.kept, found.timing.rejected) == (0, {"canary": 15})
    assert found.timing.canary_reference_ms == pytest.approx(REFERENCE_MS / 1.3)


def test_the_best_time_outlives_the_session(measured: Callable[..., MeasuredCall], tmp_path: Path) -> None:
    """What a session saw is kept where it is better, and only for this very op; few samples are no obstacle."""
    kept_in(tmp_path, best_ms=0.1, op="another op")
    found = measured(store_of=kept_in(tmp_path))
    assert (found.noise, found.timing.canary_reference_ms) == ((), REFERENCE_MS)
    kept = kept_in(tmp_path)("script").read()
    assert kept is not None
    assert kept.best_ms == REFERENCE_MS
    assert measured(store_of=kept_in(tmp_path, best_ms=REFERENCE_MS / 1.1)).noise == ()


def test_without_a_store_nothing_is_written(
    measured: Callable[..., MeasuredCall], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives no place for it gets no file."""
    monkeypatch.chdir(tmp_path)
    measured()
    assert list(tmp_path.iterdir()) == []


def test_too_few_accepted_ask_for_more() -> None:
    """With three of five accepted another five are taken; eight are then enough, and the figures are of these alone."""
    canaries = [REFERENCE_MS, REFERENCE_MS, SLOW_MS, *[REFERENCE_MS] * 8]
    found = timed(Machine(walls(10, 1, 1, 10, 10, 20, 20, 20, 20, 20), canaries))
    assert (found.raw, found.kept, found.rejected) == (10, 8, {"canary": 2})
    assert found.median_ms == 20


def test_where_nothing_helps_the_quieter_half_is_used() -> None:
    """After three times as many the half beside the faster canaries is taken, and fewer than five stand as accepted."""
    quiet, loud = walls(*[10] * 8, run_delay_ms=5.0), walls(*[50] * 7, run_delay_ms=5.0)
    canaries = [REFERENCE_MS] * 9 + [SLOW_MS] * 7
    found = timed(Machine([*quiet, *loud], canaries))
    assert (found.raw, found.kept, found.rejected) == (15, 0, {"canary": 7, "run delay": 8})
    assert (found.median_ms, found.p95_ms) == (10, 10)


def test_time_on_the_device_counts_only_whole_queues() -> None:
    """The device's median is of the accepted samples that were queued before the device began; without any there is none."""
    hidden = [{"wall_ms": 9.0, "total_ms": ms, "launches_hidden": True} for ms in (5.0, 6.0, 7.0)]
    shown = [{"wall_ms": 9.0, "total_ms": 100.0, "launches_hidden": False}] * 2
    found = timed(Machine([*hidden, *shown]))
    assert (found.median_ms, found.device_median_ms) == (9.0, 6.0)
    assert timed(Machine(shown * 3)).device_median_ms is None


class Product:
    """A matrix product of torch."""

    def __init__(self) -> None:
        self.factor = torch.ones(128, 128)

    def run(self) -> torch.Tensor:
        """Multiply."""
        return self.factor @ self.factor


def test_a_cpu_is_timed_with_its_states() -> None:
    """A real run gives ordered figures, counts that add up, the states before and after, and no figure of a device."""
    found = measure_call(Product(), "cpu", CallPlan(warmup=2, repeats=5, canary_band_pct=15.0))
    timing = found.timing
    assert 0 < timing.p5_ms <= timing.median_ms <= timing.p95_ms
    assert timing.kept + sum(timing.rejected.values()) == timing.raw >= 5
    assert timing.device_median_ms is None
    assert timing.canary_reference_ms > 0
    assert None not in (found.before.load_average, found.after.load_average)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MeasuredCall]:
    """A function that times a scripted program beside others of a given share, over states of the device that are given."""

    def run(
        *,
        share: float | None = 0.0,
        seconds: float = 60.0,
        kept: int = 5,
        states: Sequence[DeviceState] = (),
        store_of: Callable[[str], CanaryStore] | None = None,
    ) -> MeasuredCall:
        class FakeWatch(call.Watch):
            def _look(self, *, full: bool) -> None:
                del full
                self._states = [(float(i), state) for i, state in enumerate(states or (DeviceState(), DeviceState()))]

        class FakeBystanders:
            def share(self) -> float | None:
                run.watched_s = clock()  # type: ignore[attr-defined] # an attribute of this test alone
                return share

        delay = {"run_delay_ms": 9.0} if kept < 5 else {}
        machine = Machine(walls(*range(1, 16), **delay))
        moments = [0.0, seconds]

        def clock() -> float:
            return moments.pop(0) if len(moments) > 1 else moments[0]

        def sleep(duration: float) -> None:
            moments[0] += duration

        monkeypatch.setattr(call, "Watch", FakeWatch)
        monkeypatch.setattr(call, "Bystanders", FakeBystanders)
        monkeypatch.setattr(call, "choose_timer", lambda _device, **_: machine)
        monkeypatch.setattr(call, "choose_canary", lambda _device, **_: machine.canary)
        monkeypatch.setattr(call, "time", SimpleNamespace(monotonic=clock, sleep=sleep))
        plan = CallPlan(warmup=0, repeats=5, canary_band_pct=15.0)
        return measure_call(machine, "cpu", plan, context=machine.context, store_of=store_of)

    return run


def test_a_quiet_run_believes_itself(measured: Callable[..., MeasuredCall]) -> None:
    """No reason, and the others' share stands beside the figures in per cent."""
    found = measured(share=0.0312)
    assert (found.noise, found.others_pct) == ((), 3.12)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"kept": 0}, "fewer than 5 samples accepted"),
        ({"share": 0.06}, "other programs took processor time"),
        ({"states": [DeviceState(throttle_reasons=0x40), DeviceState()]}, "the device was slowed"),
        ({"states": [DeviceState(other_processes=0), DeviceState(other_processes=1)]}, "other processes on the GPU"),
    ],
    ids=["rejected", "others", "throttled", "strangers"],
)
def test_a_disturbed_run_says_why(measured: Callable[..., MeasuredCall], given: dict[str, Any], reason: str) -> None:
    """Each disturbance is a reason of its own, in words."""
    assert measured(**given).noise == (reason,)


@pytest.mark.parametrize(("seconds", "watched_s"), [(0.3, 1.0), (60.0, 60.0)])
def test_others_are_watched_for_a_second_at_least(
    measured: Callable[..., MeasuredCall], seconds: float, watched_s: float
) -> None:
    """The kernel's ticks are too coarse for less: after a shorter run the watch goes on, so that no run is left unwatched."""
    found = measured(share=0.5, seconds=seconds)
    assert measured.watched_s == watched_s  # type: ignore[attr-defined] # an attribute of this test alone
    assert (found.others_pct, found.noise) == (50.0, ("other programs took processor time",))


def test_a_system_that_tells_nothing_of_others_gives_no_reason(measured: Callable[..., MeasuredCall]) -> None:
    """Without the system's word there is neither a share nor a doubt."""
    found = measured(share=None)
    assert (found.others_pct, found.noise) == (None, ())


def test_the_states_are_the_first_and_the_last(measured: Callable[..., MeasuredCall]) -> None:
    """Before and after are what the device was at both ends."""
    states = [DeviceState(load_average=float(i)) for i in range(3)]
    found = measured(states=states)
    assert (found.before, found.after) == (states[0], states[2])
