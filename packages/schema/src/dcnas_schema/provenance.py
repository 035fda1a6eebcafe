"""Where an artefact comes from: the record that every output of a pipeline stage carries."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


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
    uuid: str | None = None
    driver: str | None = None
    cuda: str | None = None
    cudnn: int | None = None
    power_cap_w: float | None = None
    mig: bool | None = None
    python: str
    torch: str
    system: str
    absent: dict[str, str] = {}


class DeviceState(Record):
    """The device at one moment: what changes between runs. Clocks in MHz, temperature in degrees Celsius."""

    load_average: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttle_reasons: int | None = None
    other_processes: int | None = None
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
    versions: dict[str, str]
