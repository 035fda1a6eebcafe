"""Read dvc.lock without DVC: which pipeline stage made a file, with which hash, and what it read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_lineage.hashing import Hasher
from dcnas_lineage.pipeline import Pipeline, load_pipeline, upwards
from dcnas_schema.params import read_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """A file as dvc.lock knows it."""

    path: str
    """The path in dvc.lock: the file itself, or the folder that holds it."""
    md5: str
    """MD5 of the file; that of the folder's manifest, with `.dir`, where `path` is a folder."""
    stage: str
    """The live pipeline stage that has it as an output or as a dependency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedStage:
    """What dvc.lock holds of one live pipeline stage."""

    command: str
    params: dict[str, Any]
    """Dotted key -> value, of params.yaml."""
    deps: dict[str, str]
    outs: dict[str, str]
    """Path -> MD5, with `.dir` for a folder."""


class Lock:
    """
    The entries of dvc.lock that belong to pipeline stages of dvc.yaml; entries of removed ones stay in the file and are left out.

    Raises:
        BadInputError: dvc.lock, dvc.yaml or params.yaml is missing or not YAML.

        CorruptArtefactError: dvc.lock is cut short or not what DVC writes.
    """

    def __init__(self, root: Path) -> None:
        for name in ("dvc.lock", "dvc.yaml", "params.yaml"):
            if not (root / name).is_file():
                raise BadInputError(f"{root / name} does not exist.", remedy="run: dvc repro")
        self.pipeline: Pipeline = load_pipeline(root)
        try:
            self._stages: dict[str, Any] = read_yaml(root / "dvc.lock")["stages"]
            self._entries = {kind: self._files(kind) for kind in ("outs", "deps")}
            self.stages = {name: _locked(entry) for name, entry in self._stages.items() if name in self.pipeline.stages}
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptArtefactError(
                f"{root / 'dvc.lock'} is cut short or not what DVC writes: {error!r}.",
                remedy="run: git checkout dvc.lock, or cp .scratch/flows/dvc.lock dvc.lock, then dvc status",
            ) from error

    @cached_property
    def outputs(self) -> dict[str, LockedFile]:
        """Output path -> entry."""
        return {file.path: file for file in self._entries["outs"]}

    @cached_property
    def dependencies(self) -> dict[tuple[str, str], LockedFile]:
        """(Pipeline stage, dependency path) -> entry."""
        return {(file.stage, file.path): file for file in self._entries["deps"]}

    def producer_of(self, path: str) -> LockedFile | None:
        """Return the output entry that is `path` or a folder above it."""
        return next((self.outputs[p] for p in upwards(path) if p in self.outputs), None)

    def dependency_of(self, stage: str, path: str) -> LockedFile | None:
        """Return the dependency entry of `stage` that is `path` or a folder above it."""
        return next((self.dependencies[stage, p] for p in upwards(path) if (stage, p) in self.dependencies), None)

    def _files(self, kind: str) -> list[LockedFile]:
        return [
            LockedFile(path=entry["path"], md5=entry["md5"], stage=stage)
            for stage, locked in self._stages.items()
            if stage in self.pipeline.stages
            for entry in locked.get(kind, ())
        ]


def md5_as_locked(path: Path) -> str:
    """Return the MD5 of a file, or of a folder's manifest with `.dir`, as DVC writes it; every byte is read."""
    hashed = Hasher(path.parent).path(path.name)
    if hashed is None:
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc pull, or dvc repro")
    return hashed.md5


def _locked(entry: dict[str, Any]) -> LockedStage:
    deps, outs = ({file["path"]: file["md5"] for file in entry.get(kind, ())} for kind in ("deps", "outs"))
    params = entry.get("params", {}).get("params.yaml", {})
    return LockedStage(command=str(entry.get("cmd", "")), params=dict(params), deps=deps, outs=outs)
