"""The synchronised timer: as many samples as asked for, after the warm-up, each one call's time in ms."""

import pytest
import torch

from dcnas_latency import timer
from dcnas_latency.timer import time_calls

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


class Machine:
    """A device and a clock that only our calls move: each call queues work of 5 ms, finished when the device is waited for."""

    def __init__(self) -> None:
        self.now, self.queued, self.log = 0.0, 0.0, ""

    def call(self) -> None:
        """Queue one pass: 1 ms on the host, 5 ms on the device."""
        self.now += 0.001
        self.queued += 0.005
        self.log += "c"

    def synchronize(self, device: torch.device) -> None:
        """Wait for what is queued."""
        assert device == CUDA
        self.now += self.queued
        self.queued = 0.0
        self.log += "s"

    def event(self, *, enable_timing: bool) -> "Event":
        """Return an event that can be timed."""
        assert enable_timing
        return Event(self)


class Event:
    """A CUDA event of the machine: the moment at which the device reaches it."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.reached = machine, 0.0

    def record(self) -> None:
        """Stand behind what is queued."""
        self.reached = self.machine.now + self.machine.queued
        self.machine.log += "e"

    def elapsed_time(self, end: "Event") -> float:
        """Return the ms between two events; the end must have been waited for."""
        assert self.machine.queued == 0
        return (end.reached - self.reached) * 1000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine in the place of torch.cuda and the clock."""
    machine = Machine()
    monkeypatch.setattr(torch.cuda, "Event", machine.event)
    monkeypatch.setattr(torch.cuda, "synchronize", machine.synchronize)
    monkeypatch.setattr(timer.time, "perf_counter", lambda: machine.now)
    return machine


@pytest.mark.parametrize(("warmup", "repeats"), [(0, 3), (2, 5)])
def test_a_cpu_is_timed_call_by_call(machine: Machine, warmup: int, repeats: int) -> None:
    """The call runs warm-up plus repeats times and gives one sample in ms for each repeat, none for the slow warm-up."""

    def call() -> None:
        machine.now += 0.002 if len(machine.log) >= warmup else 0.5
        machine.log += "c"

    timing = time_calls(call, CPU, warmup=warmup, repeats=repeats)
    assert machine.log == "c" * (warmup + repeats)
    assert timing.wall_ms == pytest.approx([2.0] * repeats)
    assert timing.device_ms is None


@pytest.mark.parametrize(("warmup", "repeats"), [(0, 3), (4, 2)])
def test_cuda_is_synchronised_around_every_call(machine: Machine, warmup: int, repeats: int) -> None:
    """Before and after each timed call the device is waited for, with the events inside; the warm-up is neither timed nor counted."""
    timing = time_calls(machine.call, CUDA, warmup=warmup, repeats=repeats)
    assert machine.log == "c" * warmup + "seces" * repeats
    assert len(timing.wall_ms) == repeats
    assert timing.device_ms is not None
    assert len(timing.device_ms) == repeats


def test_a_cuda_sample_is_one_calls_latency(machine: Machine) -> None:
    """Wall time holds the queueing and the work, 6 ms, not the millisecond that queueing alone takes, nor the warm-up's work."""
    timing = time_calls(machine.call, CUDA, warmup=100, repeats=3)
    assert timing.wall_ms == pytest.approx([6.0] * 3)
    assert timing.device_ms == pytest.approx([6.0] * 3)


def test_samples_stand_in_the_order_taken(machine: Machine) -> None:
    """A drift over the run can be seen in the raw samples."""
    costs = iter([0.001, 0.003, 0.002])

    def slower() -> None:
        machine.now += next(costs)

    assert time_calls(slower, CUDA, warmup=0, repeats=3).wall_ms == pytest.approx([1.0, 3.0, 2.0])
