"""Watching a device while others time on it: what NVML saw between two looks, and who else was there before us."""

import os
import threading
import time
import warnings
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from dcnas_latency.card import device_state, gpu_state
from dcnas_latency.nvml import NvmlDevice
from dcnas_latency.readers import NotGivenError, read_fields
from dcnas_latency.seen import Seen, summarise, unknown_bits
from dcnas_schema.provenance import DeviceState

if TYPE_CHECKING:
    import torch

_CUDA_HERTZ = 10.0
_JOIN_S = 5.0


class Watch:
    """
    A context that looks at the device while its block runs: on CUDA ten times a second from a thread, on a CPU at both ends only.

    Args:
        device: The device, or its text.

        hertz: Looks a second on CUDA; reading NVML leaves the stream alone, but holds Python's lock for some 0.1 ms.

    Raises:
        UnfitEnvironmentError: The GPU does not answer any more; raised at the end of the block.
    """

    def __init__(self, device: "torch.device | str", *, hertz: float = _CUDA_HERTZ) -> None:
        self._device = device
        self._polls = not str(device).startswith("cpu")
        self._period = 1 / hertz
        self._stop = threading.Event()
        self._looking = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._states: list[tuple[float, DeviceState]] = []

    @property
    def states(self) -> list[tuple[float, DeviceState]]:
        """Seconds since the start and the device then, all so far: who judges takes them all, a file may hold fewer."""
        return list(self._states)

    def seen(self) -> Seen:
        """Return what all states so far hold together."""
        return summarise([state for _, state in self.states])

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._look(full=True)
        if self._polls:
            self._thread = threading.Thread(target=self._poll, name="dcnas-watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        if error is None:
            self._look(full=True)
            self._raise_failure()
            self._warn_of(self.seen().bits)

    def _poll(self) -> None:
        while not self._stop.wait(self._period):
            try:
                self._look(full=False)
            except Exception as error:  # whatever it is, it belongs to the thread that measures, which raises it
                self._failure = error
                return

    def _look(self, *, full: bool) -> None:
        with self._looking:  # counters must stand in the order in which they were read
            state = gpu_state(self._device) if self._polls and not full else device_state(self._device)
            self._states.append((round(time.monotonic() - self._began, 3), state))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _warn_of(self, bits: int) -> None:
        new = unknown_bits(bits)
        if new:
            warnings.warn(f"NVML gives clocks event reasons of unknown meaning: {new:#x}; recorded", stacklevel=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class BeforeContext:
    """Who was on a GPU before this process opened its own context there; `None` where NVML does not tell, with the reason."""

    processes: frozenset[int] | None
    """Ids as NVML gives them: inside a container those of the host, so that none of them is ever compared with our own."""
    used_memory_gb: float | None
    """The driver's own share included. It also tells of those whom the container's list hides."""
    absent: dict[str, str]


def foreign_processes_before_context(index: int = 0) -> BeforeContext:
    """
    Return who is on the GPU that CUDA will count as `index`, without opening a context; call it before anything touches CUDA.

    Numbers in CUDA_VISIBLE_DEVICES are taken in NVML's order, which is CUDA's where all GPUs are alike or CUDA_DEVICE_ORDER is
    PCI_BUS_ID; a UUID there is exact.

    Raises:
        UnfitEnvironmentError: The GPU does not answer any more.
    """
    try:
        device = _visible_device(index)
    except NotGivenError as error:
        return BeforeContext(processes=None, used_memory_gb=None, absent={"nvml": str(error)})
    values, absent = read_fields({"processes": device.processes, "used_memory_gb": device.used_memory_gb})
    return BeforeContext(processes=values.get("processes"), used_memory_gb=values.get("used_memory_gb"), absent=absent)


def _visible_device(index: int) -> NvmlDevice:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return NvmlDevice.by_index(index)
    names = [name.strip() for name in visible.split(",")]
    if index >= len(names) or not names[index]:
        raise NotGivenError(f"CUDA_VISIBLE_DEVICES={visible} shows no device {index}")
    name = names[index]
    return NvmlDevice.by_index(int(name)) if name.isdecimal() else NvmlDevice.by_name(name)
