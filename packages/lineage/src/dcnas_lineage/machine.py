"""
Which machine a command ran on, and how busy it was: read from /proc, /sys and, where a GPU is asked for, from nvidia-smi.

Cheap enough for every pipeline stage (milliseconds), and without torch. Latencies carry a closer look of their own.
"""

import getpass
import os
import platform
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from dcnas_harness.files import sha256_of
from dcnas_schema.provenance import DeviceState
from dcnas_schema.run_record import Environment, GpuCard, Machine

T = TypeVar("T")
PACKAGES = ("torch", "torchvision", "numpy", "pyarrow", "safetensors", "pytorch-msssim", "scikit-learn", "timm")
"""Those that results depend on."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES")
_GPU_CARD = ("name", "uuid", "driver_version")
_GPU_STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_throttle_reasons.active")
_SMI_S = 20


def read_machine(*, gpu: bool) -> Machine:
    """
    Return the machine.

    Args:
        gpu: Whether to ask for GPUs, which takes a process of its own.
    """
    cards = _nvidia_smi(_GPU_CARD) if gpu else []
    return Machine(
        host=socket.gethostname(),
        user=_known(getpass.getuser) or str(os.getuid()),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu_model=_known(_cpu_model),
        cores=os.cpu_count() or 1,
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        memory_gb=_known(lambda: round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)),
        governor=_known(lambda: Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()),
        threads_environment={name: os.environ[name] for name in _THREADS if name in os.environ},
        gpus=tuple(GpuCard(name=name, uuid=uuid, driver=driver) for name, uuid, driver in cards),
    )


def read_state(*, gpu: bool) -> DeviceState:
    """Return how busy the machine is now; of several GPUs the first is asked."""
    states = _nvidia_smi(_GPU_STATE) if gpu else []
    sm, memory, temperature, power, reasons = states[0] if states else [""] * len(_GPU_STATE)
    return DeviceState(
        load_average=_known(lambda: round(os.getloadavg()[0], 2)),
        cpu_pressure_pct=_known(_cpu_pressure_pct),
        memory_available_gb=_known(_memory_available_gb),
        sm_clock_mhz=_number(sm, int),
        memory_clock_mhz=_number(memory, int),
        temperature_c=_number(temperature, int),
        power_w=_number(power, float),
        throttle_reasons=_number(reasons, lambda text: int(text, 16)),
        absent={} if states or not gpu else {"gpu": "nvidia-smi did not answer"},
    )


def read_environment(root: Path) -> Environment:
    """Return the software: Python, the digest of the project's lock of packages, and the versions that are installed."""
    lock = root / "requirements.lock"
    return Environment(
        python=platform.python_version(),
        requirements_lock_sha256=sha256_of(lock) if lock.is_file() else None,
        versions={package: found for package in PACKAGES if (found := _version(package))},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _known(read: Callable[[], T]) -> T | None:
    with suppress(OSError, ValueError, KeyError, IndexError, StopIteration, ImportError):
        return read()
    return None


def _number(text: str, read: Callable[[str], T]) -> T | None:
    return _known(lambda: read(text))


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


def _cpu_pressure_pct() -> float:
    some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    return float(some.split("avg10=")[1].split()[0])


def _memory_available_gb() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
    return round(int(kib) * 1024 / 1e9, 2)


def _nvidia_smi(fields: tuple[str, ...]) -> list[list[str]]:
    if not Path("/proc/driver/nvidia").exists():
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SMI_S)
        rows = [[word.strip() for word in line.split(", ")] for line in done.stdout.splitlines()]
        return [row for row in rows if len(row) == len(fields)] if done.returncode == 0 else []
    return []
