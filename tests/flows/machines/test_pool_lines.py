"""What a worker says reaches home whole, however late the server writes it down."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import StateType

from dcnas_flows import pool
from dcnas_flows.orders import Report

REPORT = Report(result="ran", exit_code=0, of_command=True, machine="box", seconds=1.0, lines=3)


class LateServer:
    """A server that knows a run's end before its last lines, of which it gives one more each time it is asked."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = [
            SimpleNamespace(id=uuid4(), name="prefect.flow_runs", message=line, timestamp=datetime.now(UTC))
            for line in lines
        ]
        self.asked = 0

    def read_flow_run(self, _run: object) -> Any:
        """Return the run, ended."""
        return SimpleNamespace(state=SimpleNamespace(type=StateType.COMPLETED, name="Completed", message=""))

    def read_artifacts(self, **_filter: object) -> Any:
        """Return the worker's last report."""
        return [SimpleNamespace(type="table", data=pool._row(REPORT, -1))]

    def read_logs(self, *_filter: object, **_order: object) -> Any:
        """Return the lines that are known so far."""
        self.asked += 1
        return self._lines[: self.asked - 1]


@pytest.mark.parametrize(("known", "heard"), [(3, 3), (5, 3), (2, 2)], ids=["all", "more than said", "one is lost"])
def test_the_last_lines_are_waited_for(known: int, heard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Home passes each line on once, in order, until it has as many as were said; it waits for a lost one only for a while."""
    monkeypatch.setattr(pool, "_POLL_S", 0.04)
    monkeypatch.setattr(pool, "_LATE_LINES_S", 1.0)
    lines = [f"line {number}" for number in range(known)]
    passed: list[str] = []
    order: Any = SimpleNamespace(stage="train@a", beat_s=1.0)
    run: Any = SimpleNamespace(id=uuid4())
    server: Any = LateServer(lines)
    report = pool._Watch(server, run, "boxes", "cpu", order, passed.append).report()
    assert report == REPORT
    assert passed == lines[:heard]
