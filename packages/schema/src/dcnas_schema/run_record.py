"""
The record of one run of one pipeline stage: what it was, what it read, what it made, where and when.

Where records lie: `data/runs/NAME.json`, NAME being the stage's name in dvc.yaml, the item of a matrix as a file of its own:
`data/runs/generate_data.json`, `data/runs/retrain/unet_s-0.json` for `retrain@unet_s-0` (`record_path`). Each is a cached output of its
stage, so that DVC's run cache gives back, with the outputs, the record of the run that made them. It is written last: where there is none,
no run ended well.

Records hold times and hosts, so no stage depends on one: a stage never runs anew because the record of another did. The chain is tied
inside instead. `upstream` names the records of the runs whose outputs this one read, with the SHA-256 of the file and of its `claim`:
all that must be so for the outputs to be what they are (command, parameters, hashes of what was read and made, and the claims upstream),
without what may differ between two runs that give the same bytes (times, host, commit). Edit a record's claim and every one below
contradicts it.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, Literal

from dcnas_schema.provenance import DeviceState, Record

RUNS = "data/runs"
"""Folder of the records."""


def record_path(stage: str) -> str:
    """Return where the record of a pipeline stage lies, from the project's folder."""
    return f"{RUNS}/{stage.replace('@', '/')}.json"


def stage_of(path: str) -> str | None:
    """Return the pipeline stage whose record lies at `path`; `None` where that is no place of a record."""
    pure = PurePosixPath(path)
    if not pure.is_relative_to(RUNS) or pure.suffix != ".json":
        return None
    return pure.relative_to(RUNS).with_suffix("").as_posix().replace("/", "@")


class HashedFile(Record):
    """One file, as read."""

    path: str
    """From the project's folder, with slashes."""
    size: int
    """Bytes."""
    sha256: str
    md5: str


class HashedPath(Record):
    """A dependency or an output as dvc.yaml names it: a file, or a folder with all its files."""

    path: str
    md5: str
    """What dvc.lock holds for it: the file's MD5, or that of DVC's manifest of the folder, with `.dir`."""
    sha256: str
    """The file's, or that of one line a file: SHA-256, two spaces, its path inside the folder."""
    files: tuple[HashedFile, ...]
    """The file itself, or those of the folder, by their paths."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.md5.endswith(".dir")


class UpstreamRun(Record):
    """The record of a run whose outputs were read, as it lay there then."""

    stage: str
    run_id: str
    sha256: str
    """Of the record's file."""
    claim_sha256: str
    """Of what it claims, `RunRecord.claim_sha256`."""


class GpuCard(Record):
    """A GPU, as its driver names it."""

    name: str
    uuid: str
    driver: str


class Machine(Record):
    """Where the command ran: what stays the same between runs. A field that the machine does not give is `None`."""

    host: str
    user: str
    system: str
    cpu_model: str | None
    cores: int
    affinity: tuple[int, ...]
    """Cores that the process might use."""
    memory_gb: float | None
    governor: str | None
    threads_environment: dict[str, str]
    """OMP_NUM_THREADS and its kin, as they were set."""
    gpus: tuple[GpuCard, ...]


class Environment(Record):
    """The software that ran."""

    python: str
    requirements_lock_sha256: str | None
    """Of requirements.lock as it lay there; `None` where there was none."""
    versions: dict[str, str]
    """Package -> version, of those that results depend on."""


class GitState(Record):
    """The state of the code."""

    commit: str | None
    """`None` outside a git checkout, as are all others."""
    tree: str | None
    """Of the commit."""
    dirty: tuple[str, ...] | None
    """Tracked files that differed from the commit, dvc.lock left out, which DVC writes as it goes."""
    diff_sha256: str | None
    """Of `git diff HEAD` over them; `None` where none differed."""


class RunRecord(Record):
    """One run of one pipeline stage."""

    version: Literal[1] = 1
    run_id: str
    """32 hex digits, drawn for this run."""
    stage: str
    """Its name in dvc.yaml, with the item of a matrix: `retrain@unet_s-0`."""
    command: str
    """As dvc.yaml says it, all `${...}` filled in; the string that dvc.lock holds."""
    argv: tuple[str, ...]
    """Module and arguments, as run."""
    params: dict[str, Any]
    """Dotted key -> value in params.yaml, of the keys that dvc.yaml lists for the stage."""
    seed: int | None
    deps: tuple[HashedPath, ...]
    """In the order of dvc.yaml, as they were before the command started."""
    deps_after: dict[str, str]
    """Path -> SHA-256 when it had ended: the same, or there would be no record."""
    outs: tuple[HashedPath, ...]
    """Without this record itself."""
    upstream: tuple[UpstreamRun, ...]
    """Of every stage that made something among the dependencies, by name."""
    git: GitState
    environment: Environment
    machine: Machine
    before: DeviceState
    after: DeviceState
    started: str
    ended: str
    """By the clock of the machine, ISO 8601 with time zone."""
    seconds: float
    """Between the two, by a clock that is never set."""
    dvc_stage: str | None
    """DVC_STAGE, which dvc sets for its commands; `None` where the stage ran by hand."""
    prefect: dict[str, str]
    """PREFECT__FLOW_RUN_ID and PREFECT__TASK_RUN_ID, as far as they were set."""

    @property
    def claim(self) -> dict[str, Any]:
        """What must be so for the outputs to be what they are; the same for two runs that give the same bytes in the same way."""
        return {
            "version": self.version,
            "stage": self.stage,
            "command": self.command,
            "params": self.params,
            "seed": self.seed,
            "deps": {dep.path: [dep.sha256, dep.md5] for dep in self.deps},
            "outs": {out.path: [out.sha256, out.md5] for out in self.outs},
            "upstream": {run.stage: run.claim_sha256 for run in self.upstream},
        }

    @property
    def claim_sha256(self) -> str:
        """SHA-256, in hex, of the claim's canonical JSON."""
        canonical = json.dumps(self.claim, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def files_read(self) -> Iterator[HashedFile]:
        """Yield every file among the dependencies."""
        for dep in self.deps:
            yield from dep.files

    def files_made(self) -> Iterator[HashedFile]:
        """Yield every file among the outputs."""
        for out in self.outs:
            yield from out.files
