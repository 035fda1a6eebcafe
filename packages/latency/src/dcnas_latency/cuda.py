"""One CUDA device by the few calls that timing needs, so that tests can put a machine of their own in its place."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dcnas_harness.errors import UnfitEnvironmentError

_CALIBRATION_CYCLES = 2_000_000
"""One to two ms at the clocks of today's GPUs: long beside what an event resolves."""
_FLUSHED_WHERE_UNKNOWN = 256 * 1024**2
_WARM_CALLS = 3
"""Before a capture: libraries choose their kernels and allocate outside of the graph, as torch's notes on CUDA graphs ask."""


@contextmanager
def convolutions_in_tf32(allowed: bool) -> Iterator[None]:
    """
    Let torch compute fp32 convolutions in TF32 on a GPU, or not, while the block runs; matrix products stay in fp32.

    Said outright, because torch's default (convolutions in TF32, matrices not) is easily changed by a library or an environment variable.
    """
    import torch

    convolutions, matrices = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, matrices.allow_tf32
    convolutions.allow_tf32, matrices.allow_tf32 = allowed, False
    try:
        yield
    finally:
        convolutions.allow_tf32, matrices.allow_tf32 = before


class Cuda:
    """
    A CUDA device, its current stream.

    Raises:
        UnfitEnvironmentError: There is no such device.
    """

    def __init__(self, index: int = 0) -> None:
        import torch

        if index >= torch.cuda.device_count():
            raise UnfitEnvironmentError(
                f"CUDA device {index} is asked for, but this machine shows {torch.cuda.device_count()}.",
                remedy="check nvidia-smi and CUDA_VISIBLE_DEVICES, or choose the CPU",
            )
        self._torch = torch
        self._device = torch.device("cuda", index)
        self._cycles_per_ms: float | None = None
        self._flushed: Any = None

    def event(self) -> Any:
        """Return an event that can be timed: `query` says whether the device has reached it, `elapsed_time(end)` gives ms."""
        return self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # torch types no constructor of an event

    def record(self, event: Any) -> None:
        """Put `event` behind what is queued."""
        event.record(self._torch.cuda.current_stream(self._device))

    def synchronize(self) -> None:
        """Wait for all that is queued."""
        self._torch.cuda.synchronize(self._device)

    def sleep(self, ms: float) -> None:
        """Let the device idle in its queue for about `ms`; returns at once."""
        if self._cycles_per_ms is None:
            self._cycles_per_ms = self._calibrate()
        self._spin(round(ms * self._cycles_per_ms))

    def flush(self) -> None:
        """Queue writing a buffer of twice the size of the L2 cache, so that what comes next finds nothing of its own there."""
        if self._flushed is None:
            properties = self._torch.cuda.get_device_properties(self._device)
            size = 2 * getattr(properties, "L2_cache_size", 0) or _FLUSHED_WHERE_UNKNOWN
            self._flushed = self._torch.empty(size, dtype=self._torch.uint8, device=self._device)
        self._flushed.zero_()

    def capture(self, run: Callable[[], object]) -> Callable[[], None]:
        """Return what replays one call of `run` as a CUDA graph, on the inputs that it has now; returns before the device is done."""
        torch, graph = self._torch, self._torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_CALLS):
                    run()
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(graph):
                output = run()
        return _Replay(graph, output).replay

    def _calibrate(self) -> float:
        start, end = self.event(), self.event()
        self._spin(_CALIBRATION_CYCLES)  # the first launch loads the kernel
        self.record(start)
        self._spin(_CALIBRATION_CYCLES)
        self.record(end)
        self.synchronize()
        return _CALIBRATION_CYCLES / max(float(start.elapsed_time(end)), 1e-3)

    def _spin(self, cycles: int) -> None:
        with self._torch.cuda.device(self._device):
            self._torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call] # torch's own, for its tests, untyped


class _Replay:
    """A captured graph with the output that it writes, which must live as long."""

    def __init__(self, graph: Any, output: object) -> None:
        self._graph, self._output = graph, output

    def replay(self) -> None:
        self._graph.replay()
