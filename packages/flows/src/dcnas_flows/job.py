"""What every flow does around its work: find the project, tell of dead runs, hold its own run's lock, end in time on a signal."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled

from dcnas_flows.alive import mark_alive, tell_of_the_dead
from dcnas_flows.engine import Outcome
from dcnas_flows.processes import supervised
from dcnas_flows.project import ProjectBusyError
from dcnas_harness.errors import BadInputError
from dcnas_latency.identity import write_identity
from dcnas_schema.params import load_params

T = TypeVar("T")
_LOOK_S = 1.0
_IDENTITY = "data/device.json"


@dataclass(slots=True)
class Asked:
    """A flow that this process asks for itself, and how far it came even where its server is lost before its end."""

    root: Path
    outcomes: tuple[Outcome, ...] | None = None


ASKED: ContextVar[Asked | None] = ContextVar("asked", default=None)
"""Set by who calls a flow; `None` in a flow run that a schedule, a worker or the UI starts."""


def in_project(work: Callable[[Path], State[T]]) -> State[T] | State[Any]:
    """
    Do a flow's work in its project and return the state that the flow ends with.

    Where another flow is at work there and nobody waits for this one (a schedule started it), it ends as Skipped, which is no failure.

    Raises:
        ProjectBusyError: Another flow is at work there.

        BaseException: What the work raises, and what Prefect raises on SIGTERM.
    """
    asked = ASKED.get()
    root = asked.root if asked else project_here()
    for run in tell_of_the_dead(root):
        get_run_logger().warning("flow run %s had died without a word; it is marked as crashed", run)
    mark_alive(root, flow_run.id)
    if asked is None:
        Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        if threading.current_thread() is threading.main_thread():
            return supervised(partial(copy_context().run, work, root), own_sigterm=False)
        return work(root)  # who called the flow waits for signals
    except ProjectBusyError as error:
        if deployment.id is None:
            raise
        get_run_logger().warning("skipped: %s", error)
        return Cancelled(name="Skipped", message=str(error))


def _end_with_parent(parent: int) -> None:
    """
    Have this process end as on SIGTERM when the one that started it, which serves schedules, is gone.

    The kernel's own signal at a parent's death comes when the thread ends that started this process, and of that Prefect tells nothing.
    """
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)


def project_here() -> Path:
    """
    Return the folder that holds dvc.yaml: the current one, the nearest above it, or that of the clone which this code is installed from.

    Raises:
        BadInputError: There is none.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise BadInputError(f"{here} is not inside a project: no dvc.yaml here or above.", remedy="cd into the clone")


def know_this_machine(root: Path) -> None:
    """
    Check params.yaml and write data/device.json, which says what machine this is, where the pipeline reads that file.

    Raises:
        BadInputError: params.yaml is wrong.
    """
    if _IDENTITY in (root / "dvc.yaml").read_text(encoding="utf-8"):
        named = load_params(root / "params.yaml").profile_latency.named_file
        write_identity(root / _IDENTITY, profile=named, root=root)
