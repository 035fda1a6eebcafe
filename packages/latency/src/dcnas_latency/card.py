"""The device card: what made a number, read from the machine; a field that it does not give says why."""

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dcnas_schema.provenance import DeviceCard, DeviceState

_Reader = Callable[[], Any]


def device_card(device: torch.device) -> DeviceCard:
    """Return what stays the same of `device` between runs."""
    cpu = _cpu_model()
    common: dict[str, Any] = {
        "cpu_model": cpu,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }
    reasons = {"cpu_model": "/proc/cpuinfo gives no model name", "memory_gb": "sysconf does not tell it"}
    silent = {field: reason for field, reason in reasons.items() if common[field] is None}
    if device.type == "cpu":
        return DeviceCard(kind="cpu", name=cpu or platform.machine(), absent=silent, **common)
    values, absent = _read(_nvml_card(device))
    return DeviceCard(
        kind="cuda",
        name=torch.cuda.get_device_name(device),
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch
        absent={**silent, **absent},
        **values,
        **common,
    )


def device_state(device: torch.device) -> DeviceState:
    """Return what changes of `device` between runs, as it is now."""
    load = round(os.getloadavg()[0], 2)
    if device.type == "cpu":
        return DeviceState(load_average=load)
    values, absent = _read(_nvml_state(device))
    return DeviceState(load_average=load, absent=absent, **values)


def _read(readers: dict[str, _Reader] | str) -> tuple[dict[str, Any], dict[str, str]]:
    if isinstance(readers, str):
        return {}, {"nvml": readers}
    import pynvml

    values, absent = {}, {}
    for field, reader in readers.items():
        try:
            values[field] = reader()
        except pynvml.NVMLError as error:
            absent[field] = str(error)
    return values, absent


def _nvml_card(device: torch.device) -> dict[str, _Reader] | str:
    handle = _nvml_handle(device)
    if isinstance(handle, str):
        return handle
    import pynvml

    return {
        "uuid": lambda: _text(pynvml.nvmlDeviceGetUUID(handle)),
        "driver": lambda: _text(pynvml.nvmlSystemGetDriverVersion()),
        "power_cap_w": lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "mig": lambda: bool(pynvml.nvmlDeviceGetMigMode(handle)[0]),
    }


def _nvml_state(device: torch.device) -> dict[str, _Reader] | str:
    handle = _nvml_handle(device)
    if isinstance(handle, str):
        return handle
    import pynvml

    reasons = (
        getattr(  # the older name is deprecated in CUDA 13 and missing from 14
            pynvml, "nvmlDeviceGetCurrentClocksEventReasons", None
        )
        or pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
    )
    return {
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda: int(reasons(handle)),
        "other_processes": lambda: max(len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1, 0),
    }


def _nvml_handle(device: torch.device) -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except ImportError:
        return "nvidia-ml-py is not installed"
    except pynvml.NVMLError as error:
        return f"NVML: {error}"


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
