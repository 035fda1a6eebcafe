"""How a net runs on a device: device, threads, precision and memory format, chosen once and recorded."""

import ctypes
import gc
import os
import platform
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_schema.params import DeviceParams

_WIDE = 32
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """Device, precision and memory format of a net: part of the fingerprint of its weights."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]

    @property
    def torch_format(self) -> torch.memory_format:
        """The memory format as torch names it."""
        return torch.channels_last if self.memory_format == "channels_last" else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


_LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Torch then asks Linux for pages of 2 MB for large tensors: a step over cold maps waits less for addresses (`benchmarks/training.py`)."""


def choose_device(params: DeviceParams, *, number: int = 0) -> torch.device:
    """
    Return the device and fix the number of CPU threads.

    Args:
        number: Of the GPU, where one is used: each of several processes has its own.

    Raises:
        UnfitEnvironmentError: `cuda` is asked for and none is there, or there are fewer GPUs than processes.
    """
    torch.set_num_threads(params.threads)
    if params.kind == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        if number >= torch.cuda.device_count():
            raise UnfitEnvironmentError(
                f"process {number} of this machine, counted from 0, has no GPU of its own: torch finds {torch.cuda.device_count()}.",
                remedy=f"start at most {torch.cuda.device_count()} processes here: torchrun --nproc-per-node",
            )
        return torch.device("cuda", number)
    if params.kind == "cuda":
        raise UnfitEnvironmentError(
            "device.kind is cuda, but torch finds no CUDA device.",
            where="params.yaml",
            remedy="set device.kind: auto or cpu",
        )
    return torch.device("cpu")


def choose_execution(
    model: nn.Module,
    device: torch.device,
    *,
    precision: Literal["auto", "fp32", "bf16"],
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto",
) -> Execution:
    """
    Resolve `auto` from the device's abilities and the net's widths, never from a timing, so that the same machine decides alike.

    Measured on CPUs by benchmarks/execution.py: bf16 wins where the hardware multiplies it; channels_last wins, but narrow nets in bf16 run
    faster contiguous, because batch norm's passes over few channels are slow then. Assumed: channels_last wins on CUDA.
    """
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(device) else "fp32"
    if memory_format == "auto":
        slow_norm = device.type == "cpu" and precision == "bf16" and _median_width(model) < _WIDE
        memory_format = "contiguous" if slow_norm else "channels_last"
    return Execution(device=device, precision=precision, memory_format=memory_format)


def multiplies_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 matrices in hardware: compute capability 8.0 and up, or a CPU with AMX tiles."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_amx_tile_supported())


def _median_width(model: nn.Module) -> int:
    widths = sorted(module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    return widths[len(widths) // 2]


def keep_freed_memory() -> None:
    """
    Ask glibc to keep freed memory in the process instead of returning every large tensor to the kernel; no result changes.

    Else a step faults in tens of thousands of fresh pages. Where the C library is another one this does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def set_loaded_modules_aside() -> None:
    """
    Take what is alive now, the imported modules, out of the garbage collector's sight.

    A full collection of their 200,000 objects or so takes 0.16 s, and a search makes enough new ones for one every few steps.
    """
    gc.collect()
    gc.freeze()


def prepare_training(device: torch.device) -> None:
    """Make this process, which trains on `device`, repeat itself bit for bit, and keep and lay out its memory for speed."""
    make_deterministic(device)
    keep_freed_memory()
    set_loaded_modules_aside()
    os.environ.setdefault(_LARGE_PAGES, "1")


def make_deterministic(device: torch.device) -> None:
    """Make CUDA use kernels whose result does not depend on timing; a CPU's do not anyway for a fixed number of threads."""
    if device.type == "cuda":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # before cuBLAS starts: else torch refuses its products
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # a module property unknown to the stub
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
