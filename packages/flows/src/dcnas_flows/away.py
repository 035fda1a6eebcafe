"""
Home's side of many machines: which pipeline stages leave, what goes with them, and how what comes back is taken over.

A stage leaves home when its `meta` in dvc.yaml says that it takes the device, and DVC can keep its run. What reads data/device.json is
done by the device that this file describes: at home where home is that device, otherwise at the worker that is. What times without reading
the file stays at home, because nothing would say which device its figures are of. All else is quicker done than sent.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dvc.repo import Repo

from dcnas_flows.engine import Plan
from dcnas_flows.exchange import (
    entry_of,
    inputs_of,
    outputs_for,
    push_outputs,
    push_run,
    remote_name,
    restored,
    travels,
)
from dcnas_flows.orders import (
    IDENTITY,
    CommandFailedError,
    OnLine,
    Order,
    Report,
    Sharing,
    device_kind,
    device_queue,
    environment_of,
    home_commit,
)
from dcnas_harness.errors import CorruptArtefactError

Carrier = Callable[[Order, str, str, OnLine], Report]
"""Brings an order to a worker: (order, work queue, key, on_line) -> report. Two orders of one key are one piece of work."""


class Away:
    """
    The other machines of one flow; see `dcnas_flows.orders.Elsewhere`.

    Args:
        repo: Home's repository, opened.

        made: What is to run.

        stages: DVC's stages by name.

        carrier: Brings an order to a worker and waits for its end.

        sharing: What else is to be known.

    Raises:
        BadInputError: No DVC remote is configured, or tracked files differ from the commit and they are not allowed to.
    """

    def __init__(
        self,
        repo: Repo,
        made: Plan,
        stages: Mapping[str, Any],
        *,
        carrier: Carrier,
        sharing: Sharing,
    ) -> None:
        self._repo, self._stages, self._carrier, self._beat_s = repo, stages, carrier, sharing.beat_s
        self._root = Path(repo.root_dir)
        self._remote = remote_name(repo)
        self._commit, self.dirty = home_commit(self._root, allow_dirty=sharing.allow_dirty)
        self._upstream = {step.name: step.upstream for step in made.steps}
        self._kind = device_kind(self._root)
        self._device_elsewhere = sharing.device_elsewhere
        device = device_queue(self._root / IDENTITY) if sharing.device_elsewhere else None
        placed = {step.name: self._place(stages[step.name], device) for step in made.stale}
        self._queues = {name: queue for name, queue in placed.items() if queue is not None}
        self.names = frozenset(self._queues)
        self._environment = environment_of(self._root)

    def describe(self) -> str:
        """Return one line that says what leaves home, to which queues, and of which commit."""
        queues = {
            queue: [name for name in self.names if self._queues[name] == queue] for queue in self._queues.values()
        }
        places = "; ".join(f"queue {queue}: {', '.join(sorted(names))}" for queue, names in sorted(queues.items()))
        differ = f"; workers do not see the changes in {', '.join(self.dirty)}" if self.dirty else ""
        return f"stages for other machines, of commit {self._commit[:12]}: {places or 'none'}{differ}"

    def restored(self, stage: Any, on_line: OnLine) -> bool:
        """
        Take over what any machine has made of a stage from the DVC remote; return whether there was something.

        Never what belongs to this machine's device: another of the same make has the same data/device.json.
        """
        if not self._device_elsewhere and (_reads_identity(stage) or (stage.meta or {}).get("timing")):
            return False
        found = restored(self._repo, stage)
        if found:
            on_line(f"'{stage.addressing}' was made before: taken from the DVC remote")
        return found

    def run(self, stage: Any, given_away: Callable[[], AbstractContextManager[None]], on_line: OnLine) -> None:
        """
        Push what the stage reads, have a worker run it, and take its outputs over.

        Raises:
            CommandFailedError: It failed there, with its exit code; or the worker was lost (exit code 1, which is tried once more).

            CorruptArtefactError: The worker says that it is done, and the remote does not hold the outputs.
        """
        name = stage.name
        upstream = [self._stages[other] for other in self._upstream[name]]
        push_outputs(self._repo, outputs_for(stage, upstream))
        for other in upstream:
            push_run(self._repo, other)
        order = Order(
            stage=name,
            commit=self._commit,
            remote=self._remote,
            upstream={other.name: entry_of(other) for other in upstream},
            expected=inputs_of(stage),
            kind=self._kind,
            environment=self._environment,
            beat_s=self._beat_s,
        )
        with given_away():
            report = self._carrier(order, self._queues[name], key_of(order), on_line)
        if report.result == "failed":
            raise CommandFailedError(_reason(report), report.exit_code, of_command=report.of_command)
        if not restored(self._repo, stage):
            raise CorruptArtefactError(
                f"{report.machine} has run '{name}', but its outputs are not in the DVC remote {self._remote!r}.",
                remedy="look whether both machines' remote is the same place: dvc remote list",
            )
        on_line(f"'{name}' came from {report.machine}: {report.result} there in {report.seconds:.1f} s")

    def _place(self, stage: Any, device: str | None) -> str | None:
        """Return the work queue of a stage; `None` where it stays at home."""
        if not travels(stage):
            return None
        if _reads_identity(stage):
            return device
        meta = stage.meta or {}
        return self._kind if "device" in meta.get("resources", {}) and not meta.get("timing") else None


def _reads_identity(stage: Any) -> bool:
    return any(dep.def_path == IDENTITY for dep in stage.deps)


def key_of(order: Order) -> str:
    """Return a name for the work itself: the same for every home that orders this stage of these inputs, whatever the commit."""
    content = json.dumps([order.stage, order.expected], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _reason(report: Report) -> str:
    if not report.machine:
        return f"no worker has run it to its end (exit code {report.exit_code})"
    return f"its command or a check of the worker {report.machine} exited with {report.exit_code}"
