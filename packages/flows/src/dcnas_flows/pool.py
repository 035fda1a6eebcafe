"""
Orders through a Prefect work pool: the flow that a worker runs for one pipeline stage, and home's wait for it.

A worker shows that it lives by updating an artifact of its flow run, which ends as its report. Home takes a worker for lost when that
artifact stands still, by home's own monotonic clock; a worker that cannot show it stops its stage first, so that no two copies run.

Run:    python -m dcnas_flows.pool POOL [QUEUE...], done by `dcnas flow worker POOL`
Takes:  a clone of the project as the current folder, with a Prefect server in PREFECT_API_URL or Prefect's profile
Expect: one stage at a time of the queues of this machine's device, until SIGTERM
"""

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkQueueStatus
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from dcnas_flows.engine import Outcome
from dcnas_flows.machines import work_off
from dcnas_flows.orders import IDENTITY, LOST, OnLine, Order, Report, device_kind, device_queue
from dcnas_flows.processes import RUNNING
from dcnas_harness.errors import BadInputError, DcnasError, ExitCode, UnfitEnvironmentError

CLONE = "DCNAS_CLONE"
"""Environment variable of a worker: its clone of the project."""
_FENCE, _LOST = 4, 6
"""Beats without a word after which a worker stops its stage, and after which home takes it for lost."""
_UNSERVED_S = 120.0
"""How long an order waits in a queue that no worker asks for."""
_POLL_S = 2.0
_LATE_LINES_S = 20.0
"""How long home waits for the last lines of a run that has ended."""
_RUN_LOG = "prefect.flow_runs"
_STAGES = "stage"
_OPEN = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


@flow(name=_STAGES, persist_result=False)
def run_order(order: dict[str, Any]) -> State[None]:
    """Run one pipeline stage in this worker's clone for another machine; the order is `dcnas_flows.orders.Order` as JSON."""
    log = get_run_logger()
    received, clone = Order.model_validate(order), Path(os.environ.get(CLONE, ""))
    start, said = time.monotonic(), 0

    def say(line: str, *, level: int = logging.INFO, traceback: bool = False) -> None:
        nonlocal said
        if line.strip():
            said += 1
            log.log(level, line, exc_info=traceback)

    with _alive(received.beat_s) as leave:

        def report(ended: Report) -> None:
            leave(ended.model_copy(update={"lines": said}))

        try:
            if not (clone / "dvc.yaml").is_file():
                raise BadInputError(f"{CLONE} names no clone of the project: {clone}", remedy="dcnas flow worker POOL")
            outcome = work_off(clone, received, say)
            report(_of_outcome(outcome, time.monotonic() - start))
        except DcnasError as error:
            say(f"error: {error}", level=logging.ERROR)
            report(_report("failed", int(error.exit_code), seconds=time.monotonic() - start))
            return Failed(message=f"{received.stage} was refused here with exit code {int(error.exit_code)}")
        except (
            Exception
        ) as error:  # such as a DVC remote that cannot be reached: may pass, so home sends the stage once more
            say(f"{received.stage} could not be done here", level=logging.ERROR, traceback=True)
            report(_report("failed", int(ExitCode.BUG), seconds=time.monotonic() - start))
            return Failed(message=f"{received.stage} could not be done here: {error}")
    if not outcome.good:
        return Failed(message=f"{received.stage} failed with exit code {outcome.exit_code}")
    return Completed(message=f"{received.stage}: {outcome.result.value}")


def serve(clone: Path, pool: str, queues: list[str] | None = None) -> None:
    """
    Become a Prefect worker that runs stages in `clone` for other machines, one at a time.

    Args:
        queues: Names of work queues; those of this machine's device without them.
    """
    if queues is None:
        queues = own_queues(clone)
    print(f"worker of {clone}: pool {pool}, queues {', '.join(queues)}", flush=True)
    os.environ[CLONE] = str(clone.resolve())
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "3")
    chosen = [word for queue in queues for word in ("--work-queue", queue)]
    options = ["--pool", pool, "--type", "process", "--limit", "1", "--name", f"{socket.gethostname()}-{os.getpid()}"]
    os.execv(sys.executable, [sys.executable, "-m", "prefect", "worker", "start", *options, *chosen])


def own_queues(clone: Path) -> list[str]:
    """Return the queues that a machine serves: of the kind of device that it has, and of this one device where the clone says which."""
    device = device_queue(clone / IDENTITY)
    return [device_kind(Path("/nonexistent"), clone / IDENTITY), *([device] if device else [])]


class PoolCarrier:
    """
    Brings orders to the workers of a Prefect work pool; see `dcnas_flows.away.Carrier`.

    Raises:
        BadInputError: There is no such pool.

        UnfitEnvironmentError: No server is configured that workers on other machines could reach.
    """

    def __init__(self, pool: str) -> None:
        self._pool, self._deployment = pool, self._deployed(pool)

    def __call__(self, order: Order, queue: str, key: str, on_line: OnLine) -> Report:
        """
        Wait for the end of an order; what is under way for the same key already is joined.

        Raises:
            UnfitEnvironmentError: No worker asks for the queue.

            KeyboardInterrupt: The flow is being stopped; the worker is told to stop, too.
        """
        with get_client(sync_client=True) as client:
            with suppress(ObjectAlreadyExists):
                client.create_work_queue(queue, work_pool_name=self._pool)
            run = self._submitted(client, order, queue, key)
            on_line(f"'{order.stage}' waits in queue {queue} of pool {self._pool} for a worker (flow run {run.name})")
            try:
                return _Watch(client, run, self._pool, queue, order, on_line).report()
            except BaseException:
                with suppress(Exception):  # the server may be what failed
                    client.set_flow_run_state(run.id, Cancelled(message="home gave the order up"), force=True)
                raise

    def _submitted(self, client: SyncPrefectClient, order: Order, queue: str, key: str) -> FlowRun:
        """Create the flow run of an order, or find the one that is open: the server keeps one run for a key."""
        attempt = 0
        while True:
            run = client.create_flow_run_from_deployment(
                self._deployment,
                name=order.stage,
                parameters={"order": order.model_dump(mode="json")},
                work_queue_name=queue,
                idempotency_key=f"{key}-{attempt}",
                tags=[order.stage.partition("@")[0]],
            )
            if run.state is None or run.state.type in _OPEN:
                return run
            attempt += 1

    def _deployed(self, pool: str) -> UUID:
        with get_client(sync_client=True) as client:
            try:
                return client.create_deployment(
                    flow_id=client.create_flow_from_name(_STAGES),
                    name=pool,
                    description="One pipeline stage for another machine; home orders it.",
                    entrypoint="dcnas_flows.pool.run_order",
                    work_pool_name=pool,
                    enforce_parameter_schema=False,
                )
            except ObjectNotFound as error:
                raise BadInputError(
                    f"Prefect's server knows no work pool {pool!r}.",
                    where=client.api_url,
                    remedy=f"on each other machine, in its clone: dcnas flow worker {pool}",
                ) from error


class _Watch:
    """Follows one flow run: its lines, its signs of life, its end."""

    def __init__(
        self, client: SyncPrefectClient, run: FlowRun, pool: str, queue: str, order: Order, on_line: OnLine
    ) -> None:
        self._client, self._run, self._pool, self._queue = client, run, pool, queue
        self._order, self._on_line = order, on_line
        self._seen, self._passed = set[UUID](), 0
        self._last_line: datetime | None = None
        self._beat: object = None
        self._heard = self._served = time.monotonic()

    def report(self) -> Report:
        """Wait for the end, and return the worker's report, or `LOST`."""
        while True:
            RUNNING.require_going()
            run = self._client.read_flow_run(self._run.id)
            self._pass_lines_on()
            state = run.state.type if run.state else StateType.SCHEDULED
            found = self._artifact()
            if state not in _OPEN:
                ended = self._ended(run, found)
                self._pass_last_lines_on(ended.lines)
                return ended
            if state in (StateType.SCHEDULED, StateType.PENDING) and found is None:
                self._require_served()
            elif self._silent(found):
                self._on_line(f"the worker of '{self._order.stage}' is lost: no sign of life for {self._limit_s:.0f} s")
                self._client.set_flow_run_state(self._run.id, Cancelled(message="the worker was lost"), force=True)
                return LOST
            time.sleep(_POLL_S)

    @property
    def _limit_s(self) -> float:
        return _LOST * self._order.beat_s

    def _ended(self, run: FlowRun, found: dict[str, Any] | None) -> Report:
        if found is not None and found["result"] != "running":
            return Report.model_validate({name: found[name] for name in Report.model_fields})
        state = run.state
        self._on_line(
            f"the worker of '{self._order.stage}' is lost: {state.name if state else ''} {state.message if state else ''}"
        )
        return LOST

    def _silent(self, found: dict[str, Any] | None) -> bool:
        beat = None if found is None else found["beats"]
        if beat != self._beat:
            self._beat, self._heard = beat, time.monotonic()
        starting = _UNSERVED_S if found is None else 0.0  # the worker's process loads Prefect and DVC first
        return time.monotonic() - self._heard > self._limit_s + starting

    def _require_served(self) -> None:
        self._heard = time.monotonic()
        queue = self._client.read_work_queue_by_name(self._queue, work_pool_name=self._pool)
        if queue.status is WorkQueueStatus.READY:
            self._served = time.monotonic()
        elif time.monotonic() - self._served > _UNSERVED_S:
            raise UnfitEnvironmentError(
                f"No worker has asked for queue {self._queue} of pool {self._pool} for {_UNSERVED_S:.0f} s.",
                remedy=f"on a machine with that device, in its clone: dcnas flow worker {self._pool}",
            )

    def _artifact(self) -> dict[str, Any] | None:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[self._run.id]))
        for artifact in self._client.read_artifacts(artifact_filter=of_run):
            rows = json.loads(artifact.data) if isinstance(artifact.data, str) else artifact.data
            if artifact.type == "table" and isinstance(rows, list) and rows:
                return dict(rows[0])
        return None

    def _pass_last_lines_on(self, said: int) -> None:
        """Pass on what is known, and wait for the rest of `said` lines: the server may write them down after the run's end."""
        until = time.monotonic() + _LATE_LINES_S
        self._pass_lines_on()
        while self._passed < said and time.monotonic() < until:
            time.sleep(_POLL_S / 4)
            self._pass_lines_on()

    def _pass_lines_on(self) -> None:
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self._run.id]))
        if self._last_line is not None:  # lines of one moment may arrive late
            of_run.timestamp = LogFilterTimestamp(after_=self._last_line - timedelta(seconds=10))
        offset = 0
        while lines := self._client.read_logs(of_run, limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC):
            for line in lines:
                if line.id not in self._seen and line.name == _RUN_LOG:
                    self._on_line(line.message)
                    self._passed += 1
                self._seen.add(line.id)
                self._last_line = line.timestamp
            if len(lines) < 200:
                break
            offset += len(lines)


@contextmanager
def _alive(beat_s: float) -> Iterator[Callable[[Report], None]]:
    """
    Show, while the block runs, that this worker lives, and yield the function that takes the report to be left at the end.

    All commands are stopped when home has given the order up, when the server has not answered for some beats, and when the Prefect worker
    that started this process is gone.
    """
    identity, parent, ended = UUID(str(flow_run.get_id())), os.getppid(), Event()
    report = _report("running", 0, seconds=0.0)
    with get_client(sync_client=True) as client:
        created = client.create_artifact(ArtifactCreate(type="table", flow_run_id=identity, data=_row(report, 0)))
        assert created.id is not None

        def left(final: Report) -> None:
            nonlocal report
            report = final

        def beat() -> None:
            heard, beats, due = time.monotonic(), 0, time.monotonic()
            while not ended.wait(min(1.0, beat_s)):
                if os.getppid() != parent or time.monotonic() - heard > _FENCE * beat_s:
                    break
                if time.monotonic() < due:
                    continue
                due = time.monotonic() + beat_s
                try:
                    state = client.read_flow_run(identity).state
                    beats += 1
                    client.update_artifact(created.id, ArtifactUpdate(data=_row(report, beats)))
                    heard = time.monotonic()
                except Exception:  # whatever the connection raises: the next beat may get through
                    continue
                if state is not None and state.type not in (StateType.RUNNING, StateType.PENDING):
                    break
            if not ended.is_set():
                RUNNING.stop()

        thread = Thread(target=beat, name="alive", daemon=True)
        thread.start()
        try:
            yield left
        finally:
            ended.set()
            thread.join()
            with suppress(Exception):  # the server may be gone: home then takes this worker for lost
                client.update_artifact(created.id, ArtifactUpdate(data=_row(report, -1)))


def _of_outcome(outcome: Outcome, seconds: float) -> Report:
    result = "failed" if not outcome.good else "ran" if outcome.result.name == "RAN" else "restored"
    return _report(result, outcome.exit_code, of_command=outcome.of_command, seconds=seconds)


def _report(result: str, exit_code: int, *, seconds: float, of_command: bool = False) -> Report:
    machine, seconds = socket.gethostname(), round(seconds, 1)
    return Report(result=result, exit_code=exit_code, of_command=of_command, machine=machine, seconds=seconds)


def _row(report: Report, beats: int) -> str:
    return json.dumps([{**report.model_dump(), "beats": beats}])


if __name__ == "__main__":
    serve(Path.cwd(), sys.argv[1], sys.argv[2:] or None)
