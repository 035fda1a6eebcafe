"""
What home sends to another machine with a pipeline stage, and what it hears back; what both must agree on before anything runs.

Neither DVC nor Prefect here. Home is the clone whose dvc.lock is written; a worker is one on another machine that runs stages for it.
"""

import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from dcnas_harness.errors import BadInputError, DcnasError, UnfitEnvironmentError
from dcnas_harness.files import read_json, sha256_of
from dcnas_schema.params import read_yaml
from dcnas_schema.provenance import Record

IDENTITY = "data/device.json"
"""The file that says which machine this is (`dcnas device`); ignored by git, and never sent: each machine has its own."""
ENVIRONMENT_LOCK = "requirements.lock"
_LOCK = "dvc.lock"
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)

OnLine = Callable[[str], None]
Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """How a flow uses other machines."""

    pool: str
    """Name of the Prefect work pool that their workers serve."""
    allow_dirty: bool = False
    """Also where tracked files differ from the commit, which is all that a worker sees."""
    device_elsewhere: bool = False
    """data/device.json describes another machine than home: what reads it goes there."""
    beat_s: float = 10.0
    """Seconds between a worker's signs of life; it stops its stage after 4 that it could not give, and home takes it for lost after 6."""


class CommandFailedError(Exception):
    """
    The command of a stage ended with a code other than 0, or its inputs changed meanwhile.

    Args:
        of_command: Whether the exit code is the command's own; that of a lost worker is not.
    """

    def __init__(self, message: str, exit_code: int, *, of_command: bool = True) -> None:
        super().__init__(message)
        self.exit_code, self.of_command = exit_code, of_command


class Elsewhere(Protocol):
    """Other machines: what they have made need not run here, and some stages are to run there."""

    names: frozenset[str]
    """Of the pipeline stages that run there."""

    def describe(self) -> str:
        """Return one line that says which these are."""

    def restored(self, stage: Any, on_line: OnLine) -> bool:
        """Take over what another machine has made of a stage, whose dependencies are saved; return whether there was something."""

    def run(self, stage: Any, given_away: Callable[[], AbstractContextManager[None]], on_line: OnLine) -> None:
        """
        Have the stage run there and take its outputs over; DVC's turn is given away meanwhile.

        Raises:
            CommandFailedError: It failed there.
        """


class Order(Record):
    """One pipeline stage for a worker."""

    stage: str
    """As `dvc repro NAME` takes it."""
    commit: str
    """The whole hash of home's commit; the worker runs that tree's code and parameters."""
    remote: str
    """Name of the DVC remote that both share; each machine says in its own configuration where that is."""
    upstream: dict[str, Any]
    """The entries of home's dvc.lock of the stages whose outputs it reads: which bytes to pull."""
    expected: dict[str, Any]
    """`cmd`, `deps` and `params` as home's dvc.lock would hold them: the worker must find the same, hash by hash."""
    kind: Kind
    """What kind of device home's parameters name, or home has where they say `auto`."""
    environment: dict[str, str]
    """What `environment_of` says of home."""
    beat_s: float
    """Seconds between two signs of life from the worker."""


class Report(Record):
    """How an order ended."""

    result: str
    """`ran`, `restored` (the worker had it already) or `failed`."""
    exit_code: int
    """0, or the failed command's or the refusal's own."""
    of_command: bool
    """Whether that is the command's own: what its code raised once it would raise again."""
    machine: str
    """Name of the worker's machine; empty where nobody has taken the order."""
    seconds: float
    """Wall time at the worker, with pulling and pushing."""
    lines: int = 0
    """What the worker has said, in lines: they may be known to the server only after the end."""


LOST = Report(result="failed", exit_code=1, of_command=False, machine="", seconds=0.0)
"""The worker was lost, which may pass: the stage is sent once more."""


def home_commit(root: Path, *, allow_dirty: bool) -> tuple[str, tuple[str, ...]]:
    """
    Return the commit that workers are to check out, and the tracked files that differ from it (dvc.lock apart).

    Raises:
        BadInputError: There is no commit, or files differ from it and `allow_dirty` is not set.
    """
    commit = git(root, "rev-parse", "HEAD")
    if commit is None:
        raise BadInputError(
            f"{root} has no git commit, and a worker checks out a commit.", remedy="commit the project first"
        )
    listed = git(root, "status", "--porcelain", "--untracked-files=no", "--no-renames", "-z") or ""
    names = tuple(entry[3:] for entry in listed.split("\0") if entry and entry[3:] != _LOCK)
    if names and not allow_dirty:
        raise BadInputError(
            f"{_some(names)} differ from commit {commit[:12]}, which is what a worker would run.",
            where=root,
            remedy="commit and push them, or --allow-dirty: a stage that reads one of them is then refused by the worker",
        )
    return commit, names


def git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command prints, without the last line end; `None` where it fails."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=600)
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def environment_of(root: Path) -> dict[str, str]:
    """
    Return what tells one environment from another: Python, SHA-256 of the environment lock, installed versions of what it pins.

    Local labels of versions (`+cu130`) are left out: a build for another processor is the same release.
    """
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    lock = root / ENVIRONMENT_LOCK
    if lock.is_file():
        found[ENVIRONMENT_LOCK] = sha256_of(lock)
        for name in _PINNED.findall(lock.read_text(encoding="utf-8")):
            with suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name).partition("+")[0]
    return found


def require_same_environment(clone: Path, home: Mapping[str, str]) -> None:
    """
    Refuse to run home's stage in another environment than home's.

    Packages that only one side has are not compared: a machine without a GPU lacks the CUDA packages.

    Raises:
        UnfitEnvironmentError: Python, the environment lock or a version differs.
    """
    here = environment_of(clone)
    both = [name for name in home if name in here] + [
        name for name in (ENVIRONMENT_LOCK,) if (name in home) != (name in here)
    ]
    other = [
        f"{name} {_short(here.get(name))} here, {_short(home.get(name))} at home"
        for name in both
        if here.get(name) != home.get(name)
    ]
    if other:
        raise UnfitEnvironmentError(
            f"The environment of this worker is not home's: {'; '.join(other[:3])}{' and more' if other[3:] else ''}.",
            where=clone,
            remedy="check out home's commit in the worker's clone, then: make setup",
        )


def device_kind(root: Path, identity: Path | None = None) -> Kind:
    """
    Return the kind of device that the parameters in `root` name; where they say `auto` or nothing, the kind that a machine has.

    Args:
        identity: The machine's own file; `root`'s without it.
    """
    named = None
    with suppress(DcnasError, KeyError, TypeError):  # a project of another kind has no such parameter
        named = read_yaml(root / "params.yaml")["device"]["kind"]
    if named in ("cpu", "cuda"):
        return "cpu" if named == "cpu" else "cuda"
    return "cuda" if _gpus(identity or root / IDENTITY) else "cpu"


def require_kind(tree: Path, clone: Path, kind: Kind) -> None:
    """
    Refuse a stage whose device this machine does not have, or would choose otherwise than home.

    Raises:
        UnfitEnvironmentError: No GPU here though one is asked for, or `auto` means another kind here.
    """
    own = clone / IDENTITY
    if kind == "cuda" and not _gpus(own):
        raise UnfitEnvironmentError(
            f"The stage needs a GPU, and {own} names none.",
            remedy="on a machine with one: dcnas device, then start its worker",
        )
    here = device_kind(tree, own)
    if here != kind:
        raise UnfitEnvironmentError(
            f"params.yaml says device.kind: auto, which is {here} on this machine and {kind} at home.",
            remedy=f"name it in params.yaml (device: {{kind: {kind}}}), commit, push, and run again",
        )


def device_queue(identity: Path) -> str | None:
    """Return the name of the work queue of the one device that `identity` describes; `None` where there is no such file."""
    return f"device-{sha256_of(identity)[:12]}" if identity.is_file() else None


def require_same_inputs(expected: Mapping[str, Any], found: Mapping[str, Any], stage: str) -> None:
    """
    Refuse to run a stage whose command, parameters or inputs are not what home has: home could not take the result as its own.

    Args:
        expected: `cmd`, `deps` and `params` of home, as dvc.lock holds them.

        found: The same of the worker.

    Raises:
        UnfitEnvironmentError: They differ; the first that does is named.
    """
    if expected.get("cmd") != found.get("cmd"):
        _refuse_inputs(stage, "its command")
    theirs, ours = _by_path(expected), _by_path(found)
    for path in sorted(theirs.keys() | ours.keys()):
        if theirs.get(path) == ours.get(path):
            continue
        if path == IDENTITY:
            raise UnfitEnvironmentError(
                f"{stage} reads {path}, and this machine is not the device that home's file describes: a latency belongs to one device.",
                remedy="run it on that device: its worker serves the queue device-... that `dcnas flow worker` prints",
            )
        _refuse_inputs(stage, path)
    if expected.get("params") != found.get("params"):
        _refuse_inputs(stage, "a parameter that it reads")


def _refuse_inputs(stage: str, what: str) -> None:
    raise UnfitEnvironmentError(
        f"{stage}: {what} is not the same in the commit as at home.",
        remedy="commit the change, push it, and run the same again (or run this stage at home: without --remote-pool)",
    )


def _by_path(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {dep["path"]: dep.get(dep.get("hash", "md5")) for dep in entry.get("deps", ())}


def _gpus(identity: Path) -> bool:
    with suppress(DcnasError, KeyError, TypeError):
        return bool(read_json(identity)["gpus"])
    return False


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def _short(value: str | None) -> str:
    return "absent" if value is None else value[:12]
