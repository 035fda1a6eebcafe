"""
The live graph of a project: the pipeline stages of dvc.yaml, what dvc.lock holds of them, and the records of their runs.

Stages come from dvc.yaml alone: what dvc.lock or data/runs keep of removed ones is not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_lineage.lock import Lock, LockedStage
from dcnas_lineage.pipeline import Pipeline, PipelineStage
from dcnas_schema.json_files import read_json_record
from dcnas_schema.run_record import RunRecord, record_path


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveStage:
    """One pipeline stage with what is known of its last run."""

    stage: PipelineStage
    upstream: tuple[str, ...]
    """Names of the stages that make what it reads."""
    locked: LockedStage | None
    """Its entry in dvc.lock; `None` where it has none, because it never ran or somebody took it out."""
    record: RunRecord | None
    record_sha256: str | None
    """Of the record's file; both `None` where there is no record that can be read."""
    problem: str | None
    """Why the record cannot be read, where there is one."""

    @property
    def name(self) -> str:
        """The stage's name in dvc.yaml."""
        return self.stage.name


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveGraph:
    """All pipeline stages of a project, upstream ones first."""

    root: Path
    pipeline: Pipeline
    lock: Lock
    stages: Mapping[str, LiveStage]

    def below(self, name: str) -> tuple[str, ...]:
        """Return the stages that read, directly, what `name` makes."""
        return tuple(other.name for other in self.stages.values() if name in other.upstream)


def load_graph(root: Path) -> LiveGraph:
    """
    Return the live graph of the project at `root`: 1 s for a hundred stages; no file but the records is hashed.

    Raises:
        BadInputError: dvc.yaml, params.yaml or dvc.lock is missing or not YAML.

        CorruptArtefactError: dvc.lock is cut short.
    """
    lock = Lock(root)
    pipeline = lock.pipeline
    stages: dict[str, LiveStage] = {}
    for name in _in_order(pipeline):
        record, problem = _record(root / record_path(name))
        stages[name] = LiveStage(
            stage=pipeline.stages[name],
            upstream=pipeline.upstream(name),
            locked=lock.stages.get(name),
            record=record,
            record_sha256=sha256_of(root / record_path(name)) if record is not None else None,
            problem=problem,
        )
    return LiveGraph(root=root, pipeline=pipeline, lock=lock, stages=stages)


def _record(path: Path) -> tuple[RunRecord | None, str | None]:
    if not path.is_file():
        return None, None
    try:
        return read_json_record(path, RunRecord), None
    except CorruptArtefactError as error:
        return None, str(error).splitlines()[0]


def _in_order(pipeline: Pipeline) -> list[str]:
    """Return the stages' names, each after those upstream of it."""
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for above in pipeline.upstream(name):
                visit(above)
            ordered[name] = None

    for name in pipeline.stages:
        visit(name)
    return list(ordered)
