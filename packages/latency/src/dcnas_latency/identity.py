"""
Which machine this is, in a file that the pipeline depends on: a latency profile belongs to the machine that it was measured on.

DVC reruns profile_latency where this file differs, and takes a profile from its run cache where it is the same again: a new device
measures, an old one does not. No torch, so that asking costs a fraction of a second.
"""

import os
import platform
from pathlib import Path
from typing import Any

from dcnas_harness.errors import CorruptArtefactError, UnfitEnvironmentError
from dcnas_harness.files import read_json, write_json
from dcnas_latency import host
from dcnas_latency.nvml import NvmlDevice
from dcnas_latency.readers import NotGivenError

_MOST_GPUS = 64


def device_identity() -> dict[str, Any]:
    """Return what tells this machine from another: processor, cores, and the GPUs that NVML finds."""
    return {
        "version": 1,
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": _gpus(),
    }


def write_identity(path: Path) -> bool:
    """Write the identity to `path` where it is missing or of another machine; return whether it was written."""
    now = device_identity()
    try:
        if read_json(path) == now:
            return False
    except CorruptArtefactError:
        pass  # missing or damaged: written anew
    write_json(path, now)
    return True


def require_this_machine(path: Path) -> None:
    """
    Refuse to measure when the file that the pipeline depends on is of another machine.

    Raises:
        CorruptArtefactError: The file is missing or damaged.

        UnfitEnvironmentError: It is of another machine.
    """
    stored, now = read_json(path), device_identity()
    if stored != now:
        names = set(now) | (set(stored) if isinstance(stored, dict) else set())
        changed = sorted(name for name in names if not isinstance(stored, dict) or stored.get(name) != now.get(name))
        raise UnfitEnvironmentError(
            f"{path} is of another machine than this one: {', '.join(changed)} differ.",
            remedy="run: dcnas device (make repro and dcnas flow run do so), then the same command again",
        )


def _gpus() -> list[dict[str, str]]:
    found = []
    for index in range(_MOST_GPUS):
        try:
            device = NvmlDevice.by_index(index)
            found.append({"uuid": device.uuid(), "driver": str(device.card_readers()["driver"]())})
        except NotGivenError:  # no driver, or no further GPU
            break
    return found


def _cpu() -> str | None:
    try:
        return host.cpu_model()
    except NotGivenError:
        return None
