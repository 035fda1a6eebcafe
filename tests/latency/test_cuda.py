"""The calls of torch.cuda that timing makes: on the device asked for, in the order that a measurement needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcnas_harness.errors import ExitCode, UnfitEnvironmentError
from dcnas_latency.cuda import Cuda
from dcnas_latency.timers import CapturedProgram, CudaEventTimer

CYCLES_PER_MS = 1_500_000


class Machine:
    """torch.cuda with two devices; it writes down what is called and where."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.current = 0
        self.spun = 0

    def event(self, *, enable_timing: bool) -> SimpleNamespace:
        """Return an event which is reached after the cycles spun so far."""
        assert enable_timing
        event = SimpleNamespace(at=0)

        def record(stream: object) -> None:
            event.at = self.spun
            self.log.append(("record", stream))

        event.record = record
        event.elapsed_time = lambda end: (end.at - event.at) / CYCLES_PER_MS
        return event

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        """Make `device` current."""
        before, self.current = self.current, device.index
        yield
        self.current = before

    def sleep(self, cycles: int) -> None:
        """Spin on the current device."""
        self.spun += cycles
        self.log.append(("spin", self.current, cycles))

    def stream(self, device: torch.device | None = None) -> SimpleNamespace:
        """Return the current stream of a device."""
        index = self.current if device is None else device.index
        return SimpleNamespace(index=index, wait_stream=lambda _other: self.log.append("wait"))

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Note the beginning and the end of a block."""
        self.log.append(f"{name} begins")
        yield
        self.log.append(f"{name} ends")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine in the place of torch.cuda."""
    machine = Machine()
    graph = SimpleNamespace(replay=lambda: machine.log.append("replay"))
    stand_ins: dict[str, Callable[..., Any]] = {
        "device_count": lambda: 2,
        "Event": machine.event,
        "device": machine.device,
        "_sleep": machine.sleep,
        "current_stream": machine.stream,
        "synchronize": lambda device: machine.log.append(("synchronize", device.index)),
        "Stream": machine.stream,
        "stream": lambda _stream: machine.noted("aside"),
        "graph": lambda _graph: machine.noted("capture"),
        "CUDAGraph": lambda: graph,
    }
    for name, function in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, function)
    return machine


def test_a_device_that_is_not_there_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA, or without a device of that number, the exit code is 3 and the remedy named."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UnfitEnvironmentError, match="choose the CPU") as raised:
        Cuda(0)
    assert raised.value.exit_code == ExitCode.UNFIT_ENVIRONMENT


def test_idling_is_in_ms_whatever_the_clock(machine: Machine) -> None:
    """The device's own speed of spinning is measured once, and every idling is of so many of its cycles."""
    cuda = Cuda(1)
    cuda.sleep(2.0)
    cuda.sleep(0.5)
    spins = [entry for entry in machine.log if entry[0] == "spin"]
    assert [cycles for _, _, cycles in spins[-2:]] == [3_000_000, 750_000]
    assert len(spins) == 4
    assert {device for _, device, _ in spins} == {1}


def test_all_happens_on_the_device_asked_for(machine: Machine) -> None:
    """Events go to the current stream of our device though another one is current; waiting is for ours."""
    cuda = Cuda(1)
    cuda.record(cuda.event())
    cuda.synchronize()
    (_, stream), waited = machine.log
    assert stream.index == 1
    assert waited == ("synchronize", 1)
    assert machine.current == 0


@pytest.mark.parametrize(
    ("properties", "size"), [(SimpleNamespace(L2_cache_size=50), 100), (SimpleNamespace(), 256 * 1024**2)]
)
@pytest.mark.usefixtures("machine")
def test_the_flushed_buffer_covers_the_cache(
    properties: SimpleNamespace, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the L2 cache is written, 256 MiB where its size is unknown, by one buffer made once."""
    made = []

    class Buffer:
        def __init__(self, size: int, **settings: object) -> None:
            made.append((size, settings["dtype"], str(settings["device"])))

        def zero_(self) -> None:
            made.append("written")

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch, "empty", Buffer)
    cuda = Cuda(1)
    cuda.flush()
    cuda.flush()
    assert made == [(size, torch.uint8, "cuda:1"), "written", "written"]


def test_a_capture_is_warmed_up_aside_and_then_replayed(machine: Machine) -> None:
    """Libraries settle in three runs on a side stream that is waited for; the fourth run is the graph."""
    program = SimpleNamespace(run=lambda: machine.log.append("run"))
    captured = CapturedProgram(program, Cuda(1))
    warm_up = ["wait", "aside begins", "run", "run", "run", "aside ends", "wait"]
    assert machine.log == [*warm_up, "capture begins", "run", "capture ends"]
    captured.run()
    assert machine.log[-1] == "replay"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
class TestOnAGpu:
    """What only a GPU can show."""

    @staticmethod
    def program() -> Any:
        """Return two matrix products with a mark after each."""
        matrix = torch.randn(1024, 1024, device="cuda")

        def run_marked(mark: Callable[[], None]) -> torch.Tensor:
            first = matrix @ matrix
            mark()
            second = first @ matrix
            mark()
            return second

        return SimpleNamespace(run=lambda: run_marked(lambda: None), run_marked=run_marked)

    def test_idling_lasts_as_long_as_asked(self) -> None:
        """Ten ms of idling are ten ms by the device's events, within a fifth: clocks move."""
        cuda = Cuda()
        cuda.sleep(1.0)
        start, end = cuda.event(), cuda.event()
        cuda.record(start)
        cuda.sleep(10.0)
        cuda.record(end)
        cuda.synchronize()
        assert start.elapsed_time(end) == pytest.approx(10.0, rel=0.2)

    def test_launches_are_hidden_and_parts_make_the_whole(self) -> None:
        """The whole run stands in the queue before it begins, and both parts cost alike."""
        timer, program = CudaEventTimer(Cuda()), self.program()
        for _ in range(20):
            sample = timer.sample(program, marked=True)
        assert sample.launches_hidden is True
        assert sum(sample.part_ms) == pytest.approx(sample.total_ms, rel=0.1)
        assert sample.part_ms[0] == pytest.approx(sample.part_ms[1], rel=0.5)
        assert sample.wall_ms > sample.total_ms * 0.9

    def test_a_replayed_graph_takes_the_devices_time(self) -> None:
        """A captured program costs the device what the plain one does."""
        cuda, program = Cuda(), self.program()
        timer = CudaEventTimer(cuda)
        captured = CapturedProgram(program, cuda)
        plain, replayed = ([timer.sample(each).total_ms for _ in range(30)] for each in (program, captured))
        assert sorted(replayed)[15] == pytest.approx(sorted(plain)[15], rel=0.25)
