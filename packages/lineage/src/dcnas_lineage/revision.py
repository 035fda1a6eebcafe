"""A project as it was at a revision: tracked files from git, the outputs of its dvc.lock from DVC's cache; and its tables made again."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_harness.files import read_json
from dcnas_lineage.graph import LiveStage, load_graph
from dcnas_lineage.hashing import Hasher
from dcnas_lineage.lock import Lock
from dcnas_lineage.store import Store
from dcnas_lineage.verdict import Link, Verdict

_CHEAP = ("tabulate", "tabulate_photos")
"""Deterministic, and done in seconds."""
_OVERLAID = ("dvc.lock", "dvc.yaml", "params.yaml")


@contextmanager
def checked_out(root: Path, revision: str, cache: Path, *, overlay: bool = False) -> Iterator[Path]:
    """
    Yield a folder with the project as it was at `revision`; it is gone afterwards. What the cache lacks is missing there.

    Args:
        cache: DVC's cache, which the outputs are linked from; nothing is written there.

        overlay: Take dvc.lock, dvc.yaml and params.yaml from the project as it is now.

    Raises:
        BadInputError: There is no such revision, or it has no dvc.lock.
    """
    with tempfile.TemporaryDirectory(prefix="dcnas-audit-") as temporary:
        clone = Path(temporary) / "clone"
        top = Path(_git(root, "rev-parse", "--show-toplevel", revision=revision))
        commit = _git(root, "rev-parse", "--verify", f"{revision}^{{commit}}", revision=revision)
        _git(top, "clone", "--quiet", "--shared", "--no-checkout", str(top), str(clone), revision=revision)
        _git(clone, "checkout", "--quiet", "--detach", commit, revision=revision)
        project = clone / root.resolve().relative_to(top.resolve())
        for name in _OVERLAID if overlay else ():
            with suppress(FileNotFoundError):
                (project / name).write_bytes((root / name).read_bytes())
        _place_outputs(project, Store(cache))
        yield project


def rerun_tables(root: Path, revision: str, cache: Path, *, overlay: bool) -> list[Link]:
    """
    Make the tables again in a fresh checkout, with its own code, and compare every output bit by bit with what the run record holds.

    Returns:
        One link a pipeline stage that makes tables.

    Raises:
        BadInputError: There is no such revision.
    """
    with checked_out(root, revision, cache, overlay=overlay) as project:
        graph = load_graph(project)
        return [_made_again(project, graph.stages[name]) for name in _CHEAP if name in graph.stages]


def _made_again(project: Path, live: LiveStage) -> Link:
    what = f"{live.name}, run again"
    if live.record is None:
        problem = "there is no run record to compare with"
        return Link(depth=0, what=what, detail="", problem=problem, verdict=Verdict.UNVERIFIABLE)
    for file in live.record.files_made():
        (project / file.path).unlink(missing_ok=True)
    done = subprocess.run(
        ["sh", "-c", live.stage.command],
        cwd=project,
        env=_environment(project),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        problem = f"it ended with {done.returncode}: {last}"
        return Link(depth=0, what=what, detail="", problem=problem, verdict=Verdict.UNVERIFIABLE)
    hasher = Hasher(project)
    other = [out.path for out in live.record.outs if hasher.path(out.path) != out]
    if other:
        problem = f"{', '.join(other)}: other bytes than recorded"
        return Link(depth=0, what=what, detail="", problem=problem, verdict=Verdict.BROKEN)
    return Link(depth=0, what=what, detail=f"{len(live.record.outs)} outputs, the same bits")


def _environment(project: Path) -> dict[str, str]:
    sources = [str(path) for kind in ("packages", "stages") for path in sorted(project.glob(f"{kind}/*/src"))]
    given = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    return given | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join([*sources, *filter(None, [given.get("PYTHONPATH")])]),
    }


def _place_outputs(project: Path, store: Store) -> None:
    for locked in Lock(project).stages.values():
        for path, md5 in locked.outs.items():
            if not md5.endswith(".dir"):
                _link(store.path(md5), project / path)
            elif store.path(md5).is_file():
                for entry in read_json(store.path(md5)):
                    _link(store.path(entry["md5"]), project / path / entry["relpath"])


def _link(kept: Path, target: Path) -> None:
    if kept.is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(kept.resolve())


def _git(folder: Path, *arguments: str, revision: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UnfitEnvironmentError(f"git cannot be run: {error}", remedy="install git") from error
    if done.returncode != 0:
        raise BadInputError(
            f"{revision!r} cannot be read from git: {done.stderr.strip()}", remedy="name a commit, a tag or a branch"
        )
    return done.stdout.splitlines()[0] if done.stdout else ""
