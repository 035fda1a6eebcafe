"""The same with Prefect: a run that its server knows, with tasks, logs, retries and artifacts."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

NewProject = Callable[[Path, str], Path]
StartFlow = Callable[..., Any]

TIME_TO_END_S = 10.0

PIPELINE = """
stages:
  first: {cmd: exec python work.py crash_once first.txt, outs: [first.txt]}
  second: {cmd: exec python work.py write second.txt first.txt, deps: [first.txt], outs: [second.txt]}
"""
REFUSED = PIPELINE + "  third: {cmd: exec python work.py refuse third.txt, outs: [third.txt]}\n"
SINGLE = "stages: {single: {cmd: exec python work.py write single.txt, outs: [single.txt]}}"
SLEEPING = "stages: {sleep: {cmd: exec python work.py sleep slept.txt, outs: [slept.txt]}}"


class Server:
    """A Prefect server on a free port with its own SQLite database."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.settings = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        home.mkdir(parents=True)
        self._log = home / "server.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--no-ui", "--port", str(port)],
                env={**os.environ, **self.settings, "PREFECT_API_URL": ""},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait for the health check."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.settings['PREFECT_API_URL']}/health").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        pytest.fail(self._log.read_text())

    def read(self) -> dict[str, Any]:
        """Return what the server knows of the last flow run: its state, its task runs, its artifacts, its log."""
        (run,) = self._ask("flow_runs", sort="START_TIME_DESC", limit=1)
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        tasks = self._ask("task_runs", **of_run)
        logs = self._ask("logs", logs={"flow_run_id": {"any_": [run["id"]]}})
        return {
            "state": run["state_name"],
            "tasks": {task["name"]: (task["state_name"], task["run_count"]) for task in tasks},
            "waits": {task["name"]: len(task["task_inputs"].get("wait_for", ())) for task in tasks},
            "artifacts": {artifact["key"]: artifact["data"] for artifact in self._ask("artifacts", **of_run)},
            "log": [line["message"] for line in logs],
        }

    def _ask(self, what: str, **query: Any) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.settings['PREFECT_API_URL']}/{what}/filter", json=query).raise_for_status()
        return list(answer.json())

    def kill(self) -> None:
        """Kill the server and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server for the tests of this file."""
    running = Server(tmp_path_factory.mktemp("prefect") / "home")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.kill()


def test_nothing_stale_does_not_start_prefect(tmp_path: Path, new_project: NewProject, start_flow: StartFlow) -> None:
    """A flow with nothing to do says so and ends well without even importing Prefect."""
    root = new_project(tmp_path / "project", SINGLE)
    assert start_flow(root).end(60)[0] == 0
    ended, output = start_flow(root, prefect=True).end(60)
    assert ended == 0, output
    assert "nothing is stale: all 1 pipeline stages are up to date" in output
    assert "imported prefect: False" in output


def test_an_absent_server_is_named(tmp_path: Path, new_project: NewProject, start_flow: StartFlow) -> None:
    """When the configured server does not answer, nothing runs: exit 3 with its address and what to do."""
    root = new_project(tmp_path / "project", PIPELINE)
    flow = start_flow(root, prefect=True, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_HOME=str(tmp_path / "home"))
    ended, output = flow.end(60)
    assert ended == 3, output
    assert "http://127.0.0.1:9/api" in output
    assert "--no-prefect" in output
    assert "Traceback" not in output
    assert not (root / "first.txt").exists()


@pytest.mark.slow
def test_a_flow_needs_no_server(tmp_path: Path, new_project: NewProject, start_flow: StartFlow) -> None:
    """Without a configured server a temporary one serves the flow, and none of its processes stays."""
    root = new_project(tmp_path / "project", SINGLE)
    ended, output = start_flow(root, prefect=True, PREFECT_HOME=str(tmp_path / "home"), PREFECT_API_URL="").end(180)
    assert ended == 0, output
    assert (root / "single.txt").exists()
    assert "Task run 'single' - Running stage 'single':" in output
    assert "database is locked" not in output
    port = int(re.search(r"temporary Prefect server at http://127.0.0.1:(\d+)/api", output).group(1))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_the_temporary_server_ends_with_its_parent() -> None:
    """When the pipe from its parent closes, however that came about, the temporary server ends, even while it starts."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = subprocess.Popen(
            [sys.executable, "-m", "dcnas_flows.server", str(listening.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
    server.communicate(timeout=30)
    assert server.returncode == 0


@pytest.mark.slow
def test_the_server_knows_the_run(
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Server
) -> None:
    """A flow run is COMPLETED with one task per stale stage, the retry visible, its log lines, and its artifacts."""
    root = new_project(tmp_path / "project", PIPELINE)
    (root / "results").mkdir()
    (root / "results/table_1.md").write_text("| PSNR |\n")
    ended, output = start_flow(root, prefect=True, **server.settings).end(60)
    assert ended == 0, output
    known = server.read()
    assert known["state"] == "Completed"
    assert known["tasks"] == {"first": ("Completed", 2), "second": ("Completed", 1)}
    assert known["waits"] == {"first": 0, "second": 1}
    assert "Running stage 'second':" in known["log"]
    assert set(known["artifacts"]) == {"pipeline-stages", "pipeline-graph", "results-table-1"}
    assert known["artifacts"]["results-table-1"] == "| PSNR |\n"
    assert "flowchart TD" in known["artifacts"]["pipeline-graph"]


@pytest.mark.slow
def test_a_failed_stage_fails_the_run(
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Server
) -> None:
    """A stage that refuses its input fails its task at the first attempt, the flow run, and the command with its own code."""
    root = new_project(tmp_path / "project", REFUSED)
    ended, output = start_flow(root, "third", prefect=True, **server.settings).end(60)
    assert ended == 2, output
    known = server.read()
    assert known["state"] == "Failed"
    assert known["tasks"] == {"third": ("Failed", 1)}


@pytest.mark.slow
def test_a_terminated_flow_is_reported_as_crashed(
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Server
) -> None:
    """SIGTERM ends a Prefect flow with 143 in time, kills its stage, and the server learns that the run crashed."""
    flow = start_flow(new_project(tmp_path / "project", SLEEPING), prefect=True, **server.settings)
    stage = flow.stage_pid()
    flow.process.terminate()
    ended, output = flow.end(TIME_TO_END_S)
    assert ended == 143, output
    assert flow.leaves_no(stage)
    known = server.read()
    assert known["state"] == "Crashed"
    assert known["tasks"] == {"sleep": ("Crashed", 1)}


@pytest.mark.slow
def test_a_lost_server_does_not_hold_the_end_up(
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Server
) -> None:
    """SIGTERM ends the flow in time, and its stage too, even when the server has died and nothing can be reported."""
    flow = start_flow(new_project(tmp_path / "project", SLEEPING), prefect=True, **server.settings)
    stage = flow.stage_pid()
    server.kill()
    flow.process.terminate()
    ended, output = flow.end(TIME_TO_END_S)
    assert ended == 143, output
    assert flow.leaves_no(stage)
