"""
What may go: objects of DVC's cache that nothing kept needs, and work that no pipeline stage has taken up for long.

What the workspace, any tag of Git and any experiment of DVC need stays, whatever is asked.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc_data.hashfile import gc as dvc_gc

from dcnas_flows.dvc_errors import dvc_errors_explained
from dcnas_flows.project import held
from dcnas_harness.errors import BadInputError

_SCRATCH = ".scratch"
_KEPT_SCRATCH = ("locks", "flows")
"""Kernel locks, which a running process may hold, and the flows' own notes."""
_DAY_S = 86_400.0


class Keep(StrEnum):
    """Whose outputs stay in the cache, beside those of the workspace and of experiments."""

    TAGS = "tags"
    BRANCHES = "branches and tags"
    COMMITS = "all commits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Freed:
    """What was removed, or would be."""

    dry_run: bool
    objects: tuple[tuple[str, int], ...]
    """Path and size in bytes of each object of the cache."""
    scratch: tuple[tuple[str, int], ...]
    """Path, relative to the project, and size in bytes of each folder of interrupted work."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for _, size in (*self.objects, *self.scratch))

    def __str__(self) -> str:
        verb = "would free" if self.dry_run else "freed"
        return (
            f"{verb} {self.size / 1e6:.1f} MB: {len(self.objects)} objects of the cache, "
            f"{len(self.scratch)} folders of interrupted work"
        )


def collect(root: Path, *, keep: Keep, scratch_days: float, sharers: Sequence[Path], dry_run: bool) -> Freed:
    """
    Remove from DVC's cache what nothing kept needs, and from .scratch/ what has not been touched for long; say what it was.

    Args:
        root: The project's folder.

        keep: Whose outputs stay beside those of the workspace and of experiments.

        scratch_days: Age in days of a work folder's newest file from which it goes.

        sharers: Folders of other clones that use the same cache; what their workspaces, and the same of their commits, need stays too.

        dry_run: Only say what would go.

    Raises:
        ProjectBusyError: A flow is at work there.

        UnfitEnvironmentError: A dvc process is.

        BadInputError: The cache lies outside the project, so that others may use it, and `sharers` names none; or DVC cannot read
            what a kept commit needs.
    """
    root = root.resolve()
    with held(root), chdir(root), dvc_errors_explained(root), Repo(str(root)) as repo:
        _require_own_cache(Path(repo.cache.local.path), root, sharers)
        objects = tuple(_unused(repo, keep, sharers))
        scratch = tuple(_stale_scratch(root, time.time() - scratch_days * _DAY_S))
        if not dry_run:
            repo.gc(**_kept(keep, sharers))
            for name, _ in scratch:
                shutil.rmtree(root / name)
    return Freed(dry_run=dry_run, objects=objects, scratch=scratch)


def _kept(keep: Keep, sharers: Sequence[Path]) -> dict[str, Any]:
    return {
        "workspace": True,
        "all_tags": True,
        "all_experiments": True,
        "all_branches": keep is Keep.BRANCHES,
        "all_commits": keep is Keep.COMMITS,
        "repos": [str(folder) for folder in sharers],
    }


def _unused(repo: Repo, keep: Keep, sharers: Sequence[Path]) -> Iterator[tuple[str, int]]:
    """Yield path and size of what DVC would remove; it tells the paths in a dry run alone, through its log."""
    with _caught(dvc_gc.logger) as records, _caught(logging.getLogger("dvc"), logging.WARNING):  # it says "Removed"
        repo.gc(**_kept(keep, sharers), dry=True)
    for record in records:
        if record.args:
            path = Path(str(record.args[0] if isinstance(record.args, tuple) else record.args))
            if path.is_file():
                yield str(path), path.stat().st_size


class _Catcher(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _caught(logger: logging.Logger, level: int = logging.INFO) -> Iterator[list[logging.LogRecord]]:
    """Yield what a logger says while the block runs, from a level on; nobody else hears it."""
    catcher, before = _Catcher(), (logger.level, logger.propagate, list(logger.handlers))
    logger.handlers[:] = [catcher]
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield catcher.records
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logger.handlers[:] = before[2]


def _require_own_cache(cache: Path, root: Path, sharers: Sequence[Path]) -> None:
    if not sharers and not cache.resolve().is_relative_to(root):
        raise BadInputError(
            f"The cache {cache} lies outside {root}: other clones may need what this one does not.",
            remedy="name the folders of all clones that use it as `sharers`",
        )


def _stale_scratch(root: Path, limit: float) -> Iterator[tuple[str, int]]:
    """Yield the work folders whose newest file is older than `limit`: the topmost ones that hold files themselves."""
    for folder, names, files in os.walk(root / _SCRATCH):
        here = Path(folder)
        if here == root / _SCRATCH:
            names[:] = [name for name in names if name not in _KEPT_SCRATCH]
        elif files:
            names.clear()  # what lies deeper belongs to it
            stats = [path.lstat() for path in here.rglob("*") if not path.is_dir()]
            if max(stat.st_mtime for stat in stats) < limit:
                yield str(here.relative_to(root)), sum(stat.st_size for stat in stats)
