"""
The DVC remote between two clones: outputs by content, and run-cache entries of one stage at a time.

DVC's own `push --run-cache` and `pull` copy every entry of the run cache, and take targets whose graph must be whole; here single outputs
and single entries travel. To be called by who holds DVC's lock of the repository.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dvc import prompt as dvc_prompt
from dvc.config import RemoteConfigError
from dvc.fs import generic
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, _can_hash, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile

from dcnas_flows.lockfile import replaced
from dcnas_harness.errors import BadInputError, UnfitEnvironmentError

_ENTRY = re.compile(r"[0-9a-f]{64}")
"""Name of an entry of the run cache; others are temporary files."""


def remote_name(repo: Repo) -> str:
    """
    Return the name of the project's default DVC remote.

    Raises:
        BadInputError: None is configured, or not as DVC understands it.
    """
    try:
        return str(repo.cloud.get_remote().name)
    except RemoteConfigError as error:
        raise BadInputError(
            f"No DVC remote is configured in {repo.root_dir}, and machines exchange outputs through one: {error}",
            remedy="dvc remote add -d NAME URL (a folder that both see, s3://..., ssh://...), then commit and push .dvc/config",
        ) from error


def travels(stage: Any) -> bool:
    """Return whether DVC keeps the runs of a stage in its run cache, by which home takes over what a worker made."""
    local = all(out.use_cache and out.protocol == "local" and not out.persist for out in stage.outs)
    return bool(stage.cmd and stage.deps and stage.outs and local and not stage.always_changed and not stage.frozen)


def inputs_of(stage: Any) -> dict[str, Any]:
    """Return command, dependencies with hashes and parameters of a stage whose dependencies are saved, as plain JSON."""
    entry = to_single_stage_lockfile(stage)
    entry.pop("outs", None)
    return _plain(entry)


def entry_of(stage: Any) -> dict[str, Any]:
    """Return what dvc.lock holds of a stage, as plain JSON."""
    return _plain(to_single_stage_lockfile(stage))


def outputs_for(reader: Any, upstream: Iterable[Any]) -> list[Any]:
    """Return those outputs of `upstream` that `reader` depends on: the file, a folder that holds it, or what the folder holds."""
    wanted = [Path(dep.fs_path) for dep in reader.deps if getattr(dep, "fs_path", None)]
    outs = [out for stage in upstream for out in stage.outs]
    return [out for out in outs if any(_overlap(Path(out.fs_path), path) for path in wanted)]


def push_outputs(repo: Repo, outs: Iterable[Any]) -> None:
    """
    Copy outputs from the cache to the remote where it lacks them.

    Raises:
        UnfitEnvironmentError: Some did not arrive.
    """
    objects = _objects(outs, push=True)
    failed = repo.cloud.push(objects).failed if objects else ()
    if failed:
        raise UnfitEnvironmentError(
            f"{len(failed)} of {len(objects)} objects could not be pushed to the DVC remote.",
            remedy="see whether: dvc push",
        )


def pull_outputs(repo: Repo, outs: Iterable[Any]) -> None:
    """
    Bring outputs, known by their hashes, from the remote into the cache and into their places.

    Raises:
        UnfitEnvironmentError: The remote lacks some.
    """
    outs = list(outs)
    objects = _objects(outs, push=False)
    if objects:
        repo.cloud.pull(objects)
    missing = [str(out) for out in outs if out.changed_cache()]
    if missing:
        raise UnfitEnvironmentError(
            f"The DVC remote lacks {', '.join(missing[:3])}, which home has made.",
            remedy="look whether both machines' remote is the same place: dvc remote list",
        )
    for out in outs:
        out.checkout(force=True)


def push_run(repo: Repo, stage: Any) -> None:
    """Copy the run-cache entries of a stage's present inputs to the remote. After its outputs: an entry promises them."""
    if not _can_hash(stage):
        return
    ours, theirs = _places(repo)
    _copy(ours, theirs, _get_stage_hash(stage), again=True)


def restored(repo: Repo, stage: Any) -> bool:
    """Restore the outputs of a stage, whose dependencies are saved, from what machines have pushed; return whether that was possible."""
    if not _can_hash(stage):
        return False
    ours, theirs = _places(repo)
    _copy(theirs, ours, _get_stage_hash(stage), again=False)
    with replaced(dvc_prompt, "confirm", lambda *_: False):  # nobody is there to be asked whether a lost folder matters
        try:
            repo.stage_cache.restore(stage, pull=True)
        except RunCacheNotFoundError:
            return False
    return True


def _places(repo: Repo) -> tuple[Any, Any]:
    return repo.cache.legacy, repo.cloud.get_remote_odb(None, "push --run-cache", hash_name="md5-dos2unix")


def _copy(source: Any, target: Any, key: str, *, again: bool) -> None:
    folder = source.fs.join(source.path, "runs", key[:2], key)
    if not source.fs.exists(folder):
        return
    for path in source.fs.find(folder):
        name = source.fs.name(path)
        to = target.fs.join(target.path, "runs", key[:2], key, name)
        if _ENTRY.fullmatch(name) and (again or not target.fs.exists(to)):
            target.fs.makedirs(target.fs.parent(to))
            generic.copy(source.fs, path, target.fs, to)


def _objects(outs: Iterable[Any], *, push: bool) -> set[Any]:
    return {item for out in outs for items in out.get_used_objs(push=push, force=True).values() for item in items}


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _plain(entry: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json.dumps(entry))
    return value
