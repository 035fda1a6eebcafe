"""The simple synchronised timer: wall time per call, and CUDA event time beside it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Raw samples in ms, in the order taken."""

    wall_ms: list[float]
    """Wall time of each call, the device synchronised before and after."""
    device_ms: list[float] | None
    """Time between CUDA events around each call; `None` on a CPU."""


def time_calls(call: Callable[[], object], device: torch.device, *, warmup: int, repeats: int) -> Timing:
    """
    Call `warmup` times untimed, then time each of `repeats` calls.

    The device is synchronised around every timed call: unlike the unsynchronised timing in this field's public scripts, a sample is
    one call's latency, not the time to queue it.
    """
    for _ in range(warmup):
        call()
    if device.type != "cuda":
        return Timing(wall_ms=[_wall_ms(call) for _ in range(repeats)], device_ms=None)
    wall, gpu = [], []
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call] # torch
    for _ in range(repeats):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        wall.append((time.perf_counter() - began) * 1000)
        gpu.append(start.elapsed_time(end))
    return Timing(wall_ms=wall, device_ms=gpu)


def _wall_ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000
