"""The device card: what made a number, read from the machine; a field that it does not give says why."""

import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING, Any

from dcnas_latency import host
from dcnas_latency.nvml import COUNTER_FIELD, NvmlDevice
from dcnas_latency.readers import NotGivenError, read_fields
from dcnas_schema.provenance import DeviceCard, DeviceState

if TYPE_CHECKING:
    import torch


def device_card(device: "torch.device | str") -> DeviceCard:
    """
    Return what stays the same of `device` between runs.

    Raises:
        UnfitEnvironmentError: The GPU does not answer any more.
    """
    import torch

    device = torch.device(device)
    if device.type == "cpu":
        return cpu_card(torch.get_num_threads())
    return _cuda_card(device)


def cpu_card(threads: int, *, ask_torch: bool = True) -> DeviceCard:
    """
    Return the card of this machine's processor for work on `threads` threads; torch need not be installed.

    Args:
        ask_torch: Ask torch, where it is installed, for its version and the vector instructions; else its package and the processor's
            flags are asked, without the seconds of an import.
    """
    values, absent = _common(threads, ask_torch=ask_torch)
    name = values.get("cpu_model") or platform.machine()
    return DeviceCard(kind="cpu", name=name, absent=absent, **values)


def device_state(device: "torch.device | str") -> DeviceState:
    """
    Return what changes of `device` between runs, as it is now.

    Raises:
        UnfitEnvironmentError: The GPU does not answer any more.
    """
    values, absent = read_fields(host.state_readers())
    if str(device).startswith("cpu"):
        return DeviceState(absent=absent, **values)
    cuda, cuda_absent = _cuda_state(device)
    return DeviceState(absent={**absent, **cuda_absent}, **values, **cuda)


def gpu_state(device: "torch.device | str") -> DeviceState:
    """Return NVML's share of `device_state` alone: cheap enough to be asked ten times a second beside a measurement."""
    values, absent = _cuda_state(device)
    return DeviceState(absent=absent, **values)


def fingerprint(card: DeviceCard) -> str:
    """Return 16 hex digits that tell one device from another: a latency table belongs to the device that it was measured on."""
    return card.fingerprint


def nvml_device(device: "torch.device | str") -> NvmlDevice:
    """Return NVML's view of the device that torch knows by this name; raises as `NvmlDevice.by_uuid` does."""
    return NvmlDevice.by_uuid(_torch_uuid(device))


def _common(threads: int, *, ask_torch: bool = True) -> tuple[dict[str, Any], dict[str, str]]:
    version, isa = _torch_facts() if ask_torch else (_installed_torch(), None)
    values, absent = read_fields({**host.card_readers(), "isa": (lambda: isa) if isa else host.isa_of_flags})
    constants = {
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "allocator": host.allocator_settings(),
        "python": platform.python_version(),
        "torch": version,
        "system": f"{platform.system()} {platform.machine()}",
    }
    return {**values, **constants}, absent


def _torch_facts() -> tuple[str, str | None]:
    try:
        import torch
    except ImportError:
        return "not installed", None
    return torch.__version__, torch.backends.cpu.get_cpu_capability()


def _installed_torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda_card(device: "torch.device") -> DeviceCard:
    import torch

    values, absent = _common(torch.get_num_threads())
    constants = {
        "name": torch.cuda.get_device_name(device),
        "uuid": f"GPU-{_torch_uuid(device)}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call] # torch gives this function no types
    }
    try:
        nvml, nvml_absent = read_fields(nvml_device(device).card_readers())
    except NotGivenError as error:
        nvml, nvml_absent = {}, {"nvml": str(error)}
    return DeviceCard(kind="cuda", absent={**absent, **nvml_absent}, **values, **constants, **nvml)


def _cuda_state(device: "torch.device | str") -> tuple[dict[str, Any], dict[str, str]]:
    try:
        found, absent = read_fields(nvml_device(device).state_readers())
    except NotGivenError as error:
        return {}, {"nvml": str(error)}
    counters = {field.removeprefix(COUNTER_FIELD): found.pop(field) for field in list(found) if COUNTER_FIELD in field}
    if "compute_processes" in found:
        found["other_processes"] = max(found["compute_processes"] - 1, 0)
    else:
        absent["other_processes"] = absent["compute_processes"]
    return {**found, "throttle_counters": counters or None}, absent


def _torch_uuid(device: "torch.device | str") -> str:
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)
