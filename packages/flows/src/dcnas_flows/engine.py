"""
What is stale, and in which order it runs: DVC's word, asked once. Each stale pipeline stage then runs in a `dvc repro` of its own.

No Prefect here: `dcnas_flows.flow` and the plain door `dcnas_flows.reproduce` drive the same engine.
"""

import difflib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro

from dcnas_flows.processes import RUNNING
from dcnas_harness.errors import BadInputError, ExitCode, UnfitEnvironmentError
from dcnas_harness.files import atomic_write
from dcnas_harness.process import exclusive_run

RETRIES = 1
"""How often a crashed pipeline stage is tried again."""
_PIPELINE = "dvc.yaml"
_LOCK = "dvc.lock"
_LOCK_COPY = ".scratch/flows/dvc.lock"
_LASTING = {ExitCode.BAD_INPUT, ExitCode.UNFIT_ENVIRONMENT, ExitCode.CORRUPT_ARTEFACT, ExitCode.NUMERICAL_FAILURE}
"""Failures that the same files, parameters and machine give again a moment later: a full disk, too little memory, a closed noise gate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A pipeline stage in a plan."""

    name: str
    """As `dvc repro NAME` takes it in the project's folder."""
    upstream: tuple[str, ...]
    """Names of the pipeline stages whose outputs it reads directly."""
    stale: bool
    """DVC says that it changed, or it reads what a stale one makes."""
    meta: Mapping[str, Any]
    """Its `meta` in dvc.yaml, such as the resources it takes; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The pipeline stages that the targets need, in the order of `dvc repro`."""

    steps: tuple[Step, ...]

    @property
    def stale(self) -> tuple[Step, ...]:
        """The steps that have to run."""
        return tuple(step for step in self.steps if step.stale)


class Result(StrEnum):
    """What became of a stale pipeline stage."""

    RAN = "ran"
    RESTORED = "restored from the run cache"
    UNCHANGED = "unchanged after all"  # what ran upstream gave the same bytes as before
    FAILED = "failed"
    NOT_RUN = "not run: needs what failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a stale pipeline stage ended."""

    name: str
    result: Result
    exit_code: int = 0
    """Of the pipeline stage's command; of dvc, where the command did not fail; negative for the signal that killed it."""
    seconds: float = 0.0
    """Wall time of the last attempt, dvc's own share included."""
    attempts: int = 0

    @property
    def good(self) -> bool:
        """Whether its outputs are there and up to date."""
        return self.result not in (Result.FAILED, Result.NOT_RUN)


def plan(root: Path, targets: Sequence[str]) -> Plan:
    """
    Ask DVC for the graph and for what changed, in this process and once.

    Args:
        root: The project's folder.

        targets: Names of pipeline stages, or of the groups that a matrix makes (`retrain`); none means all of dvc.yaml.

    Raises:
        BadInputError: A target is unknown, or DVC cannot read dvc.yaml, dvc.lock or params.yaml.

        UnfitEnvironmentError: Another dvc process is at work.
    """
    with _dvc_errors_explained(root), Repo(str(root)) as repo, repo.lock:
        graph = get_active_graph(repo.index.graph)
        stages = plan_repro(graph, _wanted(repo.index.stages, targets, root))
        names = {stage: _name(stage) for stage in stages}
        steps: dict[str, Step] = {}
        for stage in stages:
            reads = set(graph.successors(stage))
            upstream = tuple(names[other] for other in stages if other in reads)
            stale = any(steps[name].stale for name in upstream) or bool(stage.changed())
            steps[names[stage]] = Step(name=names[stage], upstream=upstream, stale=stale, meta=stage.meta or {})
    return Plan(steps=tuple(steps.values()))


@contextmanager
def claimed(root: Path, targets: Sequence[str]) -> Iterator[Plan]:
    """
    Hold the project against a second flow while the block runs, and yield the plan.

    When something is to run, dvc.lock is copied to .scratch/flows/ first: dvc rewrites it in place, and a kill or a full disk at
    that moment empties it.

    Raises:
        BadInputError: As in `plan`.

        UnfitEnvironmentError: Another flow or dvc process is at work here.
    """
    with exclusive_run(root / _LOCK, root / ".scratch"):
        made = plan(root, targets)
        if made.stale and (root / _LOCK).is_file():
            with atomic_write(root / _LOCK_COPY) as temporary:
                shutil.copyfile(root / _LOCK, temporary)
        yield made


def execute(made: Plan, run: Callable[[Step], Outcome]) -> tuple[Outcome, ...]:
    """Run the stale steps one by one in order; what needs a failed one is left out, what does not still runs."""
    outcomes: dict[str, Outcome] = {}
    for step in made.stale:
        if all(outcomes[name].good for name in step.upstream if name in outcomes):
            outcomes[step.name] = run(step)
        else:
            outcomes[step.name] = Outcome(name=step.name, result=Result.NOT_RUN)
    return tuple(outcomes.values())


def run_stage(root: Path, name: str, on_line: Callable[[str], None]) -> Outcome:
    """
    Run one pipeline stage by `dvc repro --single-item`: its upstream is up to date already, and asking again would cost as much.

    Args:
        root: The project's folder.

        name: As in `Step.name`.

        on_line: Takes each line that dvc and the stage print, as it comes.

    Raises:
        KeyboardInterrupt: The flow is being stopped.
    """
    start = time.monotonic()
    dvc = [sys.executable, "-P", "-m", "dcnas_flows.quick_dvc", "--wait-for-lock", "repro", "--single-item", name]
    said = _DvcLines()
    with RUNNING.command(dvc, folder=root, environment=_environment()) as process:
        for line in process.stdout or ():
            text = line.rstrip("\n")
            said.read(text)
            on_line(text)
    seconds = time.monotonic() - start
    if process.returncode == 0:
        return Outcome(name=name, result=said.result, seconds=seconds, attempts=1)
    code = process.returncode if said.exit_code is None else said.exit_code
    return Outcome(name=name, result=Result.FAILED, exit_code=code, seconds=seconds, attempts=1)


def run_with_retry(root: Path, name: str, on_line: Callable[[str], None]) -> Outcome:
    """Run one pipeline stage as `run_stage` does, and once more when it crashed in a way that may pass."""
    outcome = run_stage(root, name, on_line)
    while worth_retrying(outcome) and outcome.attempts <= RETRIES:
        on_line(f"{name} crashed (exit {outcome.exit_code}); running it once more")
        outcome = replace(run_stage(root, name, on_line), attempts=outcome.attempts + 1)
    return outcome


def worth_retrying(outcome: Outcome) -> bool:
    """Return whether the failure may pass by itself: a crash or a kill, none that the stage explained."""
    return outcome.result is Result.FAILED and outcome.exit_code not in _LASTING


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return 0 when all are good, the first failed stage's own code where it is one of the project's (2 to 5), otherwise 1."""
    for outcome in outcomes:
        if outcome.result is Result.FAILED:
            known = ExitCode.BAD_INPUT <= outcome.exit_code <= ExitCode.NUMERICAL_FAILURE
            return outcome.exit_code if known else ExitCode.BUG
    return ExitCode.OK


def group_of(name: str) -> str:
    """Return the name of the matrix that makes the pipeline stage `name`, or `name` where none does."""
    return name.partition("@")[0]


class _DvcLines:
    """Reads from dvc's own lines what it did with a pipeline stage, and how the stage's command ended."""

    _FATES = (
        (re.compile(r"Running stage '.*':"), Result.RAN),
        (re.compile(r"Stage '.*' is cached - skipping run, checking out outputs"), Result.RESTORED),
        (re.compile(r"(Stage )?'.*' didn't change, skipping"), Result.UNCHANGED),
    )
    _FAILED = re.compile(r"ERROR: failed to reproduce '.*exited with (-?\d+)")

    def __init__(self) -> None:
        self._fate: Result | None = None
        self.exit_code: int | None = None
        """Of the stage's command; `None` where dvc names none."""

    @property
    def result(self) -> Result:
        """What dvc did; it says so before the stage can print anything."""
        return self._fate or Result.RAN

    def read(self, line: str) -> None:
        """Take one line of output."""
        if self._fate is None:
            self._fate = next((fate for pattern, fate in self._FATES if pattern.fullmatch(line)), None)
        if match := self._FAILED.fullmatch(line):
            self.exit_code = int(match.group(1))


def _environment() -> dict[str, str]:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, "PATH": tools, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}


def _name(stage: Any) -> str:
    """Return the stage's address in the project's folder; DVC's own `addressing` depends on the current one."""
    own = getattr(stage, "name", None)
    if own is None:
        return str(stage.path_in_repo)
    return str(own) if stage.path_in_repo == _PIPELINE else f"{stage.path_in_repo}:{own}"


def _wanted(stages: Iterable[Any], targets: Sequence[str], root: Path) -> list[Any]:
    known = {stage.name: stage for stage in stages if stage.path_in_repo == _PIPELINE}
    if not known:
        raise BadInputError(f"{root / _PIPELINE} has no pipeline stages.", remedy="cd into the clone")
    if not targets:
        return list(known.values())
    return list(dict.fromkeys(known[name] for target in targets for name in _matching(target, list(known))))


def _matching(target: str, names: list[str]) -> list[str]:
    found = [name for name in names if target in (name, group_of(name))]
    if not found:
        choices = dict.fromkeys([*(group_of(name) for name in names), *names])
        near = difflib.get_close_matches(target, choices, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise BadInputError(
            f"There is no pipeline stage {target!r} in {_PIPELINE}.",
            remedy=f"{hint}all are shown by: dvc stage list --name-only",
        )
    return found


@contextmanager
def _dvc_errors_explained(root: Path) -> Iterator[None]:
    try:
        yield
    except LockError as error:
        raise UnfitEnvironmentError(
            f"Another dvc process is at work in {root}: {error}", remedy="wait for it to end, then run the same again"
        ) from error
    except DvcException as error:
        message = ": ".join(_causes(error))
        remedy = "correct it, then ask: dvc status"
        if _LOCK in message and (root / _LOCK_COPY).is_file():
            remedy = f"take back the copy made before the last flow: cp {_LOCK_COPY} {_LOCK}"
        raise BadInputError(f"DVC cannot read the pipeline: {message}", where=root, remedy=remedy) from error


def _causes(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__
