"""What Linux says of the processor, its clocks, the memory and the control group; every path as proc(5), sysfs and cgroups(7) give it."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from dcnas_latency.readers import NotGivenError, Reader

_PROC = Path("/proc")
_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT_BYTES = 1 << 60
"""Version 1 of control groups writes a number near 2^63 where there is no limit."""


def card_readers() -> dict[str, Reader]:
    """Return the readers of the host's fields of a device card, torch's left out."""
    return {
        "cpu_model": cpu_model,
        "memory_gb": lambda: round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "affinity": lambda: in_list_format(allowed_cores()),
        "governor": lambda: ", ".join(sorted(set(_frequency_files("scaling_governor")))),
        "min_mhz": lambda: min(int(khz) for khz in _frequency_files("cpuinfo_min_freq")) // 1000,
        "max_mhz": lambda: max(int(khz) for khz in _frequency_files("cpuinfo_max_freq")) // 1000,
        "container_cpus": _container_cpus,
        "container_memory_gb": _container_memory_gb,
    }


def state_readers() -> dict[str, Reader]:
    """Return the readers of the host's fields of a device state."""
    return {
        "load_average": lambda: round(os.getloadavg()[0], 2),
        "cpu_pressure_pct": _cpu_pressure_pct,
        "cpu_mhz": _cpu_mhz,
        "memory_available_gb": _memory_available_gb,
    }


def allowed_cores() -> list[int]:
    """Return the cores that this process may use."""
    if not hasattr(os, "sched_getaffinity"):
        raise NotGivenError(f"{platform.system()} does not tell which cores a process may use")
    return sorted(os.sched_getaffinity(0))


def in_list_format(cores: Iterable[int]) -> str:
    """Return rising core numbers as the kernel lists them: `0-3,8`."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], core]
        else:
            runs.append([core])
    return ",".join("-".join(map(str, run)) for run in runs)


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        lines = (_PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"] if platform.processor() else []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    raise NotGivenError("/proc/cpuinfo gives no model name")


def isa_of_flags() -> str:
    """
    Return the widest vector instructions of an x86 processor in torch's words, for a machine without torch.

    Source: torch's dispatch asks for AVX-512 VL, BW and DQ, or AVX2, each with FMA (`DispatchStub.cpp`).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise NotGivenError("only torch tells it for this architecture, and torch is not installed")
    lines = (_PROC / "cpuinfo").read_text().splitlines()
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    if {"fma", "avx512vl", "avx512bw", "avx512dq"} <= flags:
        return "AVX512"
    return "AVX2" if {"fma", "avx2"} <= flags else "DEFAULT"


def allocator_settings() -> dict[str, str] | None:
    """Return the settings of glibc's malloc in the environment; `None` where there are none."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")} or None


def _frequency_files(name: str) -> list[str]:
    cores = [_CPUS / f"cpu{core}" / "cpufreq" for core in allowed_cores()]
    if not any(folder.exists() for folder in cores):
        raise NotGivenError("the kernel shows no cpufreq")
    return [(folder / name).read_text().strip() for folder in cores]


def _cpu_pressure_pct() -> float:
    try:
        some = (_PROC / "pressure" / "cpu").read_text().splitlines()[0]
    except FileNotFoundError:
        raise NotGivenError("the kernel gives no /proc/pressure/cpu") from None
    return float(some.split("avg10=")[1].split()[0])


def _cpu_mhz() -> int:
    allowed, clocks, core = set(allowed_cores()), [], -1
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        if line.startswith("processor"):
            core = int(line.split(":")[1])
        elif line.startswith("cpu MHz") and core in allowed:
            clocks.append(float(line.split(":")[1]))
    if not clocks:
        raise NotGivenError("/proc/cpuinfo gives no cpu MHz")
    return round(sum(clocks) / len(clocks))


def _memory_available_gb() -> float:
    for line in (_PROC / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return round(int(line.split()[1]) * 1024 / 1e9, 1)
    raise NotGivenError("/proc/meminfo gives no MemAvailable")


def _container_cpus() -> float | None:
    limits = []
    for folder in _own_groups("cpu"):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
    return round(min(limits), 2) if limits else None


def _container_memory_gb() -> float | None:
    limits = []
    for folder in _own_groups("memory"):
        words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes") or ["max"]
        if words[0] != "max" and int(words[0]) < _NO_LIMIT_BYTES:
            limits.append(int(words[0]))
    return round(min(limits) / 1e9, 1) if limits else None


def _own_groups(controller: str) -> list[Path]:
    """Return the control groups that this process is in, inner ones first; a limit of any of them binds it."""
    groups = []
    for line in (_PROC / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _CGROUPS
        elif controller in controllers.split(","):
            root = _CGROUPS / controller
        else:
            continue
        own = root / path.lstrip("/")
        groups += [folder for folder in (own, *own.parents) if folder == root or root in folder.parents]
    return groups


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []  # this version of control groups, or the root group, has no such file
