"""
Which runs of flows are alive on this machine: each holds a kernel lock for as long as its process lives.

A flow that was killed, or that lost its server, cannot tell Prefect of its end: its run stays RUNNING for ever. The next flow in the
same clone finds that nobody holds its lock, and tells.
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_FOLDER = ".scratch/flows/runs"


def mark_alive(root: Path, run: UUID) -> None:
    """Hold the lock of a flow run until this process ends."""
    path = root / _FOLDER / str(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    unseen = path.with_name(f".{run}.{os.getpid()}.tmp")  # nobody may find it before it is locked
    descriptor = os.open(unseen, os.O_RDWR | os.O_CREAT, 0o644)  # never closed: the kernel does at the end
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    unseen.rename(path)


def tell_of_the_dead(root: Path) -> list[UUID]:
    """
    Have Prefect's server mark as crashed every run of this clone whose process is gone without a word, and its tasks; return those runs.

    Runs that another server knows are left for the day when it is asked.
    """
    from prefect.client.orchestration import get_client

    gone = list(_gone(root))
    if not gone:
        return []
    with get_client(sync_client=True) as client:
        return [UUID(path.name) for path, pid in gone if _told(client, path, pid)]


def _gone(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the notes of runs whose lock nobody holds, and the pids in them."""
    for path in sorted((root / _FOLDER).glob("[0-9a-f]*")):
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield path, file.read().strip()


def _told(client: "SyncPrefectClient", path: Path, pid: str) -> bool:
    """Tell the server where it does not know of the run's end, and drop the note; return whether it had to be told."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.objects import State
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    run = UUID(path.name)
    try:
        state = client.read_flow_run(run).state
    except ObjectNotFound:
        return False
    silent = state is None or not (state.is_final() or state.is_scheduled())
    if silent:
        crashed: State[Any] = Crashed(
            message=f"Its process (pid {pid}) ended without a word. What was complete is kept; the next run goes on from there."
        )
        for task in client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run]))):
            if task.state is None or not task.state.is_final():
                client.set_task_run_state(task.id, crashed, force=True)
        client.set_flow_run_state(run, crashed, force=True)
    path.unlink(missing_ok=True)
    return silent
