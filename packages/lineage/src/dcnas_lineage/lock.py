"""Read dvc.lock without DVC: which pipeline stage made a file, with which hash, and what it read."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import md5_of
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
        self._live = _live_stages(read_yaml(root / "dvc.yaml"), read_yaml(root / "params.yaml"))
        try:
            self._stages: dict[str, Any] = read_yaml(root / "dvc.lock")["stages"]
            self._entries = {kind: self._files(kind) for kind in ("outs", "deps")}
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
        return next((self.outputs[p] for p in _upwards(path) if p in self.outputs), None)

    def dependency_of(self, stage: str, path: str) -> LockedFile | None:
        """Return the dependency entry of `stage` that is `path` or a folder above it."""
        return next((self.dependencies[stage, p] for p in _upwards(path) if (stage, p) in self.dependencies), None)

    def _files(self, kind: str) -> list[LockedFile]:
        return [
            LockedFile(path=entry["path"], md5=entry["md5"], stage=stage)
            for stage, locked in self._stages.items()
            if stage in self._live
            for entry in locked.get(kind, ())
        ]


def md5_as_locked(path: Path) -> str:
    """Return the MD5 of a file, or of a folder's manifest with `.dir`, as DVC writes it; every byte is read."""
    if path.is_file():
        return md5_of(path)
    manifest = [
        {"md5": md5_of(file), "relpath": file.relative_to(path).as_posix()}
        for file in sorted(path.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".tmp"
    ]
    manifest.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(manifest, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _upwards(path: str) -> list[str]:
    return [path, *(parent.as_posix() for parent in Path(path).parents if parent.as_posix() != ".")]


def _live_stages(pipeline: Any, params: Any) -> set[str]:
    live = set()
    for name, stage in pipeline["stages"].items():
        if "matrix" not in stage:
            live.add(name)
            continue
        items = [""]
        for values in stage["matrix"].values():
            items = [f"{item}-{value}" for item in items for value in _listed(values, params)]
        live |= {f"{name}@{item.removeprefix('-')}" for item in items}
    return live


def _listed(values: Any, params: Any) -> list[Any]:
    if isinstance(values, str):  # "${runs.models}"
        for key in values.strip("${}").split("."):
            params = params[key]
        return list(params)
    return list(values)
