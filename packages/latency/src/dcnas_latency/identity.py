"""
Which machine this is, in a file that the pipeline depends on: a latency profile belongs to the machine that it was measured on.

DVC reruns profile_latency where this file differs, and takes a profile from its run cache where it is the same again: a new device
measures, an old one does not. Where the parameters name a profile from elsewhere, the file holds its SHA-256 too: DVC tracks no path that
stands in a parameter, and would not see that another profile was copied there. No torch, so that asking costs a fraction of a second.
"""

import os
import platform
from pathlib import Path
from typing import Any

from dcnas_harness.errors import CorruptArtefactError, UnfitEnvironmentError
from dcnas_harness.files import read_json, sha256_of, write_json
from dcnas_latency import host
from dcnas_latency.nvml import NvmlDevice
from dcnas_latency.readers import NotGivenError

_MOST_GPUS = 64
_PROFILE = "profile"


def device_identity() -> dict[str, Any]:
    """Return what tells this machine from another: processor, cores, and the GPUs that NVML finds."""
    return {
        "version": 1,
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": _gpus(),
    }


def write_identity(path: Path, *, profile: Path | None = None, root: Path = Path()) -> bool:
    """
    Write the identity to `path` where it is missing or says otherwise; return whether it was written.

    Args:
        profile: The profile that is taken instead of measuring, as the parameters name it; `None` where this machine is measured.

        root: Folder that `profile` is relative to.
    """
    now = device_identity() if profile is None else {**device_identity(), _PROFILE: _named(profile, root)}
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


def require_named_profile(path: Path, profile: Path) -> None:
    """
    Refuse a profile from elsewhere whose content the file that the pipeline depends on does not name: DVC would not see it change.

    Raises:
        CorruptArtefactError: The file is missing or damaged.

        UnfitEnvironmentError: It names another profile, another content, or none.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get(_PROFILE) != _named(profile, Path()):
        raise UnfitEnvironmentError(
            f"{path} does not hold the SHA-256 of {profile} as it is now, by which DVC sees that it changed.",
            remedy="run: dcnas device (make repro and dcnas flow run do so), then the same command again",
        )


def _named(profile: Path, root: Path) -> dict[str, str | None]:
    """Return name and content of a profile; one that is missing is for the pipeline stage to refuse."""
    file = root / profile
    return {"file": profile.as_posix(), "sha256": sha256_of(file) if file.is_file() else None}


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
