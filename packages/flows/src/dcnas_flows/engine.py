"""
What is to run, in which order, and how much at once: a plan of pipeline stages, and the scheduler that works it off.

Neither DVC nor Prefect here: `dcnas_flows.project` makes the plan and runs a stage, `dcnas_flows.flow` and the plain door
`dcnas_flows.reproduce` drive both.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from dcnas_harness.errors import ExitCode

RETRIES = 1
"""How often a crashed pipeline stage is tried again."""
_MOST_AWAY = 64
"""Most orders that one flow has out at once: a thread each."""
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
    """Of the pipeline stage's command; 1 or 3 where DVC failed; negative for the signal that killed it."""
    of_command: bool = True
    """Whether the exit code is the command's own."""
    seconds: float = 0.0
    """Wall time of the last attempt, DVC's own share included."""
    attempts: int = 0

    @property
    def good(self) -> bool:
        """Whether its outputs are there and up to date."""
        return self.result not in (Result.FAILED, Result.NOT_RUN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What pipeline stages that run at once may take together."""

    cores: int = 1
    """Most cores; a stage that says it takes more, or all, takes these."""
    gpu: bool = False
    """Whether a stage that takes the device takes a GPU, of which there is one."""
    away: frozenset[str] = frozenset()
    """Names of the stages that run on other machines, and take nothing of this one; how many at once, the workers there decide."""

    @property
    def threads(self) -> int:
        """How many stages may be under way at once."""
        return self.cores + min(len(self.away), _MOST_AWAY)

    def need(self, step: Step) -> tuple[int, int]:
        """Return the cores and GPUs that a step takes here: none away, all cores where it times, else what `meta` says, or one core."""
        if step.name in self.away:
            return 0, 0
        resources = step.meta.get("resources", {})
        cores = resources.get("cpu", 1)
        alone = cores == "all" or bool(step.meta.get("timing"))
        return self.cores if alone else min(int(cores), self.cores), int(self.gpu and "device" in resources)


def execute(made: Plan, run: Callable[[Step], Outcome], capacity: Capacity | None = None) -> tuple[Outcome, ...]:
    """
    Run the stale steps, in order and as many at once as the capacity allows, and return their outcomes in the plan's order.

    A step runs when all that it reads is there; what needs a failed one is left out, what does not still runs.

    Args:
        run: Runs one step to its end; called in threads, in the context of this call.

        capacity: One step at a time without it.

    Raises:
        BaseException: What `run` raised, when all that ran beside it has ended.
    """
    capacity = capacity or Capacity()
    outcomes: dict[str, Outcome] = {}
    waiting = {step.name: step for step in made.stale}
    running: dict[Future[Outcome], Step] = {}
    with ThreadPoolExecutor(capacity.threads, thread_name_prefix="stage") as pool:
        while waiting or running:
            for step in list(waiting.values()):
                blocked = {*waiting, *(other.name for other in running.values())}
                if not blocked.isdisjoint(step.upstream):
                    continue
                if not all(outcomes[name].good for name in step.upstream if name in outcomes):
                    outcomes[step.name] = Outcome(name=step.name, result=Result.NOT_RUN)
                elif not _fits(step, running.values(), capacity):
                    continue
                else:
                    running[pool.submit(copy_context().run, run, step)] = step
                del waiting[step.name]
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step = running.pop(future)
                outcomes[step.name] = future.result()
    return tuple(outcomes[step.name] for step in made.stale)


def retrying(run: Callable[[], Outcome], on_line: Callable[[str], None]) -> Outcome:
    """Run a pipeline stage, and once more when it crashed in a way that may pass."""
    outcome = run()
    while worth_retrying(outcome) and outcome.attempts <= RETRIES:
        on_line(f"{outcome.name} crashed (exit {outcome.exit_code}); running it once more")
        outcome = replace(run(), attempts=outcome.attempts + 1)
    return outcome


def worth_retrying(outcome: Outcome) -> bool:
    """Return whether the failure may pass by itself: a kill or DVC's own, none that the stage explained and no bug of its code."""
    bug = outcome.of_command and outcome.exit_code == ExitCode.BUG
    return outcome.result is Result.FAILED and outcome.exit_code not in _LASTING and not bug


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


def _fits(step: Step, beside: Iterable[Step], capacity: Capacity) -> bool:
    taken = [capacity.need(other) for other in beside]
    cores, gpus = capacity.need(step)
    if step.name in capacity.away:
        return sum(other.name in capacity.away for other in beside) < _MOST_AWAY
    return cores + sum(c for c, _ in taken) <= capacity.cores and gpus + sum(g for _, g in taken) <= 1
