"""Where an artefact comes from: the record that every output of a pipeline stage carries."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DEVICE_FIELDS = ("kind", "name", "cpu_model", "uuid", "cores", "driver", "mig", "isa")
"""Fields of a card that make a device another one. Threads belong to the setting, load to the moment."""


class Record(BaseModel):
    """A typed JSON record: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DeviceCard(Record):
    """
    The device that made a number: what stays the same between runs.

    A field that the machine does not give is `None`, with the reason in `absent`; nothing is invented.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    cpu_model: str | None = None
    cores: int
    threads: int
    memory_gb: float | None = None
    affinity: str | None = None
    """Cores that the process may use, in the kernel's list format: `0-3,8`."""
    governor: str | None = None
    min_mhz: int | None = None
    max_mhz: int | None = None
    """Least and greatest clock of those cores."""
    isa: str | None = None
    """The widest vector instructions used, in torch's words: `AVX2`."""
    allocator: dict[str, str] | None = None
    """Settings of glibc's malloc in the environment (MALLOC_*); `None` where there are none."""
    container_cpus: float | None = None
    container_memory_gb: float | None = None
    """What a control group grants; `None` where it sets no limit."""
    uuid: str | None = None
    driver: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    power_cap_w: float | None = None
    mig: bool | None = None
    persistence: bool | None = None
    max_sm_clock_mhz: int | None = None
    compute_capability: str | None = None
    python: str
    torch: str
    onnxruntime: str | None = None
    """Version, where it runs the nets."""
    system: str
    absent: dict[str, str] = {}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell one device from another."""
        own = json.dumps({field: getattr(self, field) for field in DEVICE_FIELDS}, sort_keys=True)
        return hashlib.sha256(own.encode()).hexdigest()[:16]


class DeviceState(Record):
    """
    The device at one moment: what changes between runs. Clocks in MHz, temperature in degrees Celsius.

    A field that the machine does not give is `None`, with the reason in `absent`; nothing is invented.
    """

    load_average: float | None = None
    cpu_pressure_pct: float | None = None
    """Share of the last 10 s in which some task waited for a processor (`/proc/pressure/cpu`, some avg10)."""
    cpu_mhz: int | None = None
    """Mean over the cores that the process may use."""
    memory_available_gb: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    temperature_margin_c: int | None = None
    """Degrees left until the device slows itself."""
    power_w: float | None = None
    throttle_reasons: int | None = None
    """NVML's clocks event reasons, the raw bits."""
    throttle_counters: dict[str, int] | None = None
    """Time in ns that the device was ever slowed, by reason; only a rise means anything."""
    compute_processes: int | None = None
    """Processes with a context on the device, ours included."""
    other_processes: int | None = None
    """Those beside ours, taken to be one."""
    absent: dict[str, str] = {}


class Provenance(Record):
    """Commit, parameters, seed, inputs, device and versions behind one artefact."""

    stage: str
    item: str
    commit: str | None
    """Git commit of the code; `None` outside a git checkout."""
    dirty: tuple[str, ...] | None
    """Tracked files that differed from the commit (dvc.lock, which DVC writes as it goes, left out)."""
    params_sha256: str
    """Digest of the parameters that the stage read."""
    seed: int | None
    inputs: dict[str, str]
    """Path -> SHA-256 of every input file, as read."""
    device: DeviceCard
    processes: int = Field(default=1, exclude_if=lambda processes: processes == 1)
    """Processes that did it together, each on a device of its own; `device` is the first one's. Written where there were several."""
    versions: dict[str, str]
