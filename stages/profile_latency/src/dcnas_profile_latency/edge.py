"""Profiling a device on its own: no repository, no params.yaml, only what the runtime needs; the file is copied home."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import require_writable
from dcnas_harness.process import exclusive_run
from dcnas_latency.canary import state_folder
from dcnas_latency.files import read_profile
from dcnas_profile_latency.job import Settings, device_name, profile_job, setting_of
from dcnas_profile_latency.summary import print_summary
from dcnas_schema.params import load_params

_PLAN: dict[str, Any] = {
    "source": "measure",
    "file": None,
    "ops": 8,
    "width_multiple": 8,
    "most_entries": 720,
    "generations": 6,
    "tolerance_pct": 1.0,
    "held_out_widths": 60,
    "warm_calls": 1,
    "cache": "warm",
    "tf32": True,
    "canary_band_pct": 15.0,
    "limits": {
        "builds_differ_pct": 5.0,
        "accepted_pct": 50.0,
        "used_all_pct": 5.0,
        "slow_pct": 5.0,
        "drift_pct": 5.0,
        "others_pct": 5.0,
        "clock_spread_pct": 3.0,
        "mape_pct": 5.0,
        "plan_pct": 5.0,
    },
    "confidence": 0.95,
    "seed": 0,
    "builds": 2,
}
"""How much is measured, where no parameter file says otherwise: that of presets/paper.yaml, as a test makes sure; a box has no presets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the command line asks for."""

    out: Path | None
    """`None`: named by device and setting, in the folder that the command is run in."""
    params: Path | None
    """A parameter file whose sections device and profile_latency are taken; then nothing else here counts."""
    device: Literal["auto", "cpu", "cuda"]
    threads: int
    runtime: str
    provider: str | None
    batch: int
    image_size: int
    classes: int
    precision: str
    memory_format: str
    rounds: int
    nets: int
    """Held-out nets of each kind."""
    allow_noisy: bool
    reference: tuple[str, ...] = ()
    """Nets of the literature that are timed too, for relative targets."""


def profile_this_device(request: Request) -> None:
    """
    Profile the device, write the file and print what it says of itself.

    Raises:
        BadInputError: An option is out of range, or the file is there already and is no profile of this device and setting.

        UnfitEnvironmentError: The runtime or device is missing, or the noise gate is closed.
    """
    settings = settings_of(request)
    out = request.out if request.out is not None else Path(default_name(settings))
    require_writable(out.parent)
    _require_same_kind(out, settings)
    scratch = out.parent / ".dcnas"
    with exclusive_run(out, scratch):
        print_summary(profile_job(settings, out, scratch, canary_folder=state_folder()), out)


def default_name(settings: Settings) -> str:
    """Return a file name that tells the profile of one device and setting from that of another."""
    setting = setting_of(settings)
    size = f"{setting.height}px"
    words = (device_name(settings), setting.runtime, setting.precision, f"batch{setting.batch}", size, setting.cache)
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-") + ".parquet"


def _require_same_kind(out: Path, settings: Settings) -> None:
    """Refuse to write over what is not a profile of this device in this setting: it may have cost somebody's afternoon."""
    if not out.exists():
        return
    remedy = "name another file with --out, or move this one away"
    try:
        _, found = read_profile(out)
    except CorruptArtefactError as error:
        raise BadInputError(
            f"{out} is there already, and is no latency profile of this version.", remedy=remedy
        ) from error
    name, setting = device_name(settings), setting_of(settings)
    if (found.device.name, found.setting) != (name, setting):
        raise BadInputError(
            f"{out} is there already, the profile of {found.device.name} with {found.setting.runtime} at batch {found.setting.batch}, "
            f"{found.setting.height} pixels; this one would be of {name}, or of another setting.",
            remedy=remedy,
        )


def show(path: Path) -> None:
    """Print what a profile says of itself."""
    print_summary(read_profile(path)[1], path)


def settings_of(request: Request) -> Settings:
    """
    Return the parameters that the command line asks for.

    Raises:
        BadInputError: An option is out of range.
    """
    if request.params is not None:
        params = load_params(request.params)
        return Settings(device=params.device, profile_latency=params.profile_latency)
    values = {
        "device": {"kind": request.device, "threads": request.threads},
        "profile_latency": {
            **_PLAN,
            "runtime": request.runtime,
            "provider": request.provider,
            "batch": request.batch,
            "image_size": request.image_size,
            "classes": request.classes,
            "precision": request.precision,
            "memory_format": request.memory_format,
            "rounds": request.rounds,
            "fit_nets": 10,
            "held_out_nets": request.nets,
            "allow_noisy": request.allow_noisy,
            "references": request.reference,
        },
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_problem(detail)}" for detail in error.errors(include_url=False))
        raise BadInputError(f"An option cannot be:\n{problems}", remedy="see: dcnas profile --help") from error


def _problem(detail: Any) -> str:
    """Return what is wrong with which option; where several do not go together, without all their values."""
    value = "" if isinstance(detail["input"], dict) else f" = {detail['input']!r}"
    return f"{'.'.join(map(str, detail['loc']))}{value}: {detail['msg'].removeprefix('Value error, ')}"
