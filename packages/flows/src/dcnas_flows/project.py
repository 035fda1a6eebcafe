"""
DVC in this process: what is stale, asked once, and pipeline stages brought up to date side by side.

DVC's own work (comparing, hashing, caching, writing dvc.lock) is done in one thread at a time, under DVC's lock of the repository; only
the commands of stages run beside each other. So a process is spared that loads DVC and the graph anew for each stage, and the entries of
dvc.lock are those that `dvc repro` writes.
"""

import copy
import difflib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from dvc.dependency import param as dvc_param
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import run as dvc_run

from dcnas_flows.dvc_errors import LOCK, LOCK_COPY, dvc_errors_explained, explained
from dcnas_flows.engine import Capacity, Outcome, Plan, Result, Step, group_of
from dcnas_flows.lockfile import replaced, writing_entries_alone
from dcnas_flows.orders import IDENTITY, CommandFailedError, Elsewhere, OnLine
from dcnas_flows.processes import RUNNING
from dcnas_harness.errors import BadInputError, DcnasError, ExitCode, UnfitEnvironmentError
from dcnas_harness.files import atomic_write, read_json
from dcnas_harness.process import exclusive_run
from dcnas_schema.params import read_yaml

_PIPELINE = "dvc.yaml"
_PARAMS = "params.yaml"
_BUSY_S = 0.5
_LOGGERS = ("dvc", "dvc_objects", "dvc_data")


class ProjectBusyError(UnfitEnvironmentError):
    """Another flow is at work in the project."""


class Project:
    """A DVC project whose stages can be run; made by `opened`."""

    def __init__(
        self, root: Path, repo: Repo, made: Plan, stages: Mapping[str, Any], elsewhere: Elsewhere | None = None
    ) -> None:
        self.root, self.plan, self.elsewhere = root, made, elsewhere
        self._stages = stages
        self._turn = _Turn(repo.lock)

    def run(self, name: str, on_line: OnLine) -> Outcome:
        """
        Bring one pipeline stage up to date, whose upstream is: leave it, restore its outputs from DVC's run cache, or run its command.

        May be called in several threads at once, for stages of which none reads what another makes.

        Args:
            on_line: Takes each line that DVC and the stage print, as it comes.

        Raises:
            KeyboardInterrupt: The flow is being stopped.
        """
        start = time.monotonic()
        stage, command = self._stages[name], _Command(self.root, self._turn, on_line, self.elsewhere)
        _THREAD.command, _THREAD.on_line = command, on_line
        result, code, of_command = Result.FAILED, int(ExitCode.BUG), True
        try:
            changed = self._when_free(stage, on_line)
            result = Result.UNCHANGED if not changed else Result.RAN if command.ran else Result.RESTORED
            code = 0
        except CommandFailedError as failure:
            on_line(f"ERROR: failed to reproduce '{name}': {failure}")
            code, of_command = failure.exit_code, failure.of_command
        except (
            Exception
        ) as error:  # DVC lets through whatever its libraries raise: this stage has failed, the others go on
            reason = explained(error, self.root)
            on_line(f"ERROR: failed to reproduce '{name}': {reason}")
            code, of_command = reason.exit_code if isinstance(reason, DcnasError) else code, False
        finally:
            del _THREAD.command, _THREAD.on_line
        seconds = time.monotonic() - start
        return Outcome(name=name, result=result, exit_code=code, of_command=of_command, seconds=seconds, attempts=1)

    def _when_free(self, stage: Any, on_line: OnLine) -> bool:
        """Bring a stage up to date, and wait first while another dvc process makes or reads its files; return whether it had changed."""
        said = False
        while True:
            try:
                with self._turn:
                    changed = bool(stage.reproduce())
                    if changed:
                        stage.dump(update_pipeline=False)
                    return changed
            except LockError as busy:
                if not said:
                    on_line(f"waiting: {busy}")
                said = True
            RUNNING.require_going()
            time.sleep(_BUSY_S)

    def files(self, name: str) -> list[dict[str, str | int | None]]:
        """Return what one pipeline stage read and made, as dvc.lock has it: a row a file, with its MD5 and its size in bytes."""
        stage = self._stages[name]
        both = [("read", item) for item in stage.deps] + [("made", item) for item in stage.outs]
        return [
            {"": role, "file": str(item), "MD5": str(item.hash_info.value or ""), "bytes": item.meta and item.meta.size}
            for role, item in both
        ]


def capacity_of(root: Path, jobs: int | None) -> Capacity:
    """
    Return what stages of the project may take together on this machine.

    Args:
        jobs: Most cores that they take; all that this process may use, where it is `None`.
    """
    gpu = False
    with suppress(DcnasError, KeyError, TypeError, AttributeError):  # a project of another kind has no such files
        gpu = bool(read_json(root / IDENTITY)["gpus"]) and read_yaml(root / _PARAMS)["device"]["kind"] != "cpu"
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )  # Linux tells alone
    return Capacity(cores=jobs or usable, gpu=gpu)


@contextmanager
def held(root: Path) -> Iterator[None]:
    """
    Keep every other flow out of the project while the block runs.

    Raises:
        ProjectBusyError: One is at work there.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_run(root / LOCK, root / ".scratch"))
        except UnfitEnvironmentError as error:
            raise ProjectBusyError(str(error)) from error
        yield


@contextmanager
def opened(
    root: Path,
    targets: Sequence[str],
    elsewhere: Callable[[Repo, Plan, Mapping[str, Any]], Elsewhere] | None = None,
) -> Iterator[Project]:
    """
    Hold the project against a second flow while the block runs, plan, and yield the project, whose stale stages can then be run.

    When something is to run, dvc.lock is copied to .scratch/flows/ first.

    Args:
        root: The project's folder.

        targets: Names of pipeline stages, or of the groups that a matrix makes (`retrain`); none means all of dvc.yaml.

        elsewhere: Makes the other machines of a project, its plan and its stages by name; all runs here without it.

    Raises:
        BadInputError: A target is unknown, or DVC cannot read dvc.yaml, dvc.lock or params.yaml.

        UnfitEnvironmentError: Another dvc process is at work here, or another flow (ProjectBusyError).
    """
    root = root.resolve()
    with held(root), _planned(root, targets) as (repo, made, stages):
        if made.stale and (root / LOCK).is_file():
            with atomic_write(root / LOCK_COPY) as temporary:
                shutil.copyfile(root / LOCK, temporary)
        others = elsewhere(repo, made, stages) if elsewhere else None
        with running_stages(repo):
            yield Project(root, repo, made, stages, others)


@contextmanager
def running_stages(repo: Repo) -> Iterator[None]:
    """Have DVC, while the block runs, leave commands, its lines and dvc.lock to this module's ways, on which `Project.run` relies."""
    repo.lock._wait = True  # as `dvc --wait-for-lock`: what a stage made is not thrown away because of a `dvc status`
    with _commands_in_threads(), _lines_to_threads(), writing_entries_alone():
        yield


def single(name: str, stage: Any) -> Plan:
    """Return a plan of one stale stage, whatever it reads."""
    return Plan(steps=(Step(name=name, upstream=(), stale=True, meta=stage.meta or {}),))


def plan(root: Path, targets: Sequence[str]) -> Plan:
    """Return what `opened` plans, for a look; raises as it does, but for other flows."""
    with _planned(root.resolve(), targets) as (_, made, _stages):
        return made


@contextmanager
def _planned(root: Path, targets: Sequence[str]) -> Iterator[tuple[Repo, Plan, dict[str, Any]]]:
    """Ask DVC for the graph and for what changed, once; in the project's folder, which DVC takes paths and names to be relative to."""
    with chdir(root), ExitStack() as stack:
        stack.enter_context(_parameters_read_once())
        with dvc_errors_explained(root):
            repo = stack.enter_context(Repo(str(root)))
            with repo.lock:
                made, stages = _plan_of(repo, targets, root)
        yield repo, made, stages


def _plan_of(repo: Repo, targets: Sequence[str], root: Path) -> tuple[Plan, dict[str, Any]]:
    graph = get_active_graph(repo.index.graph)
    stages = plan_repro(graph, _wanted(repo.index.stages, targets, root))
    names = {stage: _name(stage) for stage in stages}
    steps: dict[str, Step] = {}
    for stage in stages:
        reads = set(graph.successors(stage))
        upstream = tuple(names[other] for other in stages if other in reads)
        stale = any(steps[name].stale for name in upstream) or bool(stage.changed())
        steps[names[stage]] = Step(name=names[stage], upstream=upstream, stale=stale, meta=stage.meta or {})
    return Plan(steps=tuple(steps.values())), {name: stage for stage, name in names.items()}


class _Turn:
    """DVC's code runs in the thread that has the turn, under DVC's lock of the repository."""

    def __init__(self, lock: Any) -> None:
        self._mutex, self._lock = threading.Lock(), lock
        self._lost = threading.local()

    def __enter__(self) -> None:
        self._mutex.acquire()
        try:
            self._lock.lock()
        except BaseException:
            self._mutex.release()
            raise

    def __exit__(self, *_: object) -> None:
        if getattr(self._lost, "turn", False):
            self._lost.turn = False
            return
        try:
            self._lock.unlock()
        finally:
            self._mutex.release()

    @contextmanager
    def given_away(self) -> Iterator[None]:
        """Let others have the turn while the block runs."""
        self.__exit__()
        try:
            yield
        finally:
            try:
                self.__enter__()
            except BaseException:
                self._lost.turn = True  # the block around this one has nothing to give back
                raise


class _Command:
    """Runs the command of one stage in place of DVC's own runner: in a process group of its own, its lines handed on."""

    def __init__(self, root: Path, turn: _Turn, on_line: OnLine, elsewhere: Elsewhere | None) -> None:
        self._root, self._turn, self._on_line, self._elsewhere = root, turn, on_line, elsewhere
        self.ran = False

    def __call__(self, stage: Any) -> None:
        if self._elsewhere is not None and self._elsewhere.restored(stage, self._on_line):
            return
        self.ran = True
        if self._elsewhere is not None and _name(stage) in self._elsewhere.names:
            self._elsewhere.run(stage, self._turn.given_away, self._on_line)
        else:
            self._run_here(stage)
        if changed := [str(dep) for dep in stage.deps if dep.workspace_status()]:
            raise CommandFailedError(
                f"{', '.join(changed)} changed while it ran, so nobody knows which its outputs are of; run the same command again",
                ExitCode.UNFIT_ENVIRONMENT,
            )

    def _run_here(self, stage: Any) -> None:
        self._on_line(f"Running stage '{stage.addressing}':")
        prepared = dvc_run.prepare_kwargs(stage)
        for command in dvc_run._enforce_cmd_list(stage.cmd):
            self._on_line(f"> {command}")
            words = dvc_run._make_cmd(dvc_run.get_executable(), command)
            with self._turn.given_away():
                code = self._run(words, Path(prepared["cwd"]), prepared["env"])
            if code != 0:
                raise CommandFailedError(f"its command exited with {code}", code)

    def _run(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
        with RUNNING.command(words, folder=folder, environment=_environment(environment)) as process:
            for line in process.stdout or ():
                self._on_line(line.rstrip("\n"))
        return int(process.returncode)


class _Thread(threading.local):
    command: _Command
    on_line: OnLine


_THREAD = _Thread()
"""What the stage that the present thread runs hands its command and its lines to."""


@contextmanager
def _commands_in_threads() -> Iterator[None]:
    """Have DVC leave commands to `_Command`, which gives the turn away; DVC's own runner would release a lock that others rely on."""

    def run(stage: Any, *_: object, **__: object) -> None:
        _THREAD.command(stage)

    with replaced(dvc_run, "cmd_run", run), replaced(dvc_run, "unlocked_repo", lambda work: work):
        yield


@contextmanager
def _parameters_read_once() -> Iterator[None]:
    """Have DVC parse a parameter file once as long as it stays as it is; it would for each stage, half of a run that runs nothing."""
    load, seen = dvc_param.load_path, dict[tuple[object, ...], Any]()

    def load_path(path: str, fs: Any, **options: Any) -> Any:
        state = Path(path).stat()
        key = (path, state.st_ino, state.st_mtime_ns, state.st_size)
        if key not in seen:
            seen[key] = load(path, fs, **options)
        return copy.deepcopy(seen[key])

    with replaced(dvc_param, "load_path", load_path):
        yield


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        on_line = getattr(_THREAD, "on_line", None)
        if on_line is not None and (text := record.getMessage()):
            on_line(text if record.levelno < logging.WARNING else f"{record.levelname}: {text}")


@contextmanager
def _lines_to_threads() -> Iterator[None]:
    """Have what DVC logs go to the stage that the thread runs, and not to the terminal."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [list(logger.handlers) for logger in loggers]
    handler = _Handler(logging.INFO)
    for logger in loggers:
        logger.handlers[:] = [handler]
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH', os.defpath)}"
    return {**given, "PATH": tools, "PYTHONUNBUFFERED": "1"}


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
