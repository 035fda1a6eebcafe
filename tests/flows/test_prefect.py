"""The same with Prefect: a run that its server knows, with tasks, logs, retries and artifacts."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long
NewProject = Callable[[Path, str], Path]
StartFlow = Callable[..., Any]
NewServer = Callable[..., AbstractContextManager[Any]]

TIME_TO_END_S = 10.0

PIPELINE = """
stages:
  first: {cmd: exec python work.py crash_once first.txt, outs: [first.txt]}
  second: {cmd: exec python work.py write second.txt first.txt, deps: [first.txt], outs: [second.txt]}
"""
REFUSED = PIPELINE + "  third: {cmd: exec python work.py refuse third.txt, outs: [third.txt]}\n"
SINGLE = "stages: {single: {cmd: exec python work.py write single.txt, outs: [single.txt]}}"
WAITING = PIPELINE.replace("crash_once", "wait")
SLEEPING = "stages: {sleep: {cmd: exec python work.py sleep slept.txt, outs: [slept.txt]}}"


@pytest.fixture(scope="module")
def server(new_server: NewServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Prefect server for the tests of this file."""
    with new_server(tmp_path_factory.mktemp("prefect") / "home") as running:
        yield running


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
def test_the_server_knows_the_run(tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Any) -> None:
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
    of_stages = {"stage-first", "stage-second"}
    assert set(known["artifacts"]) == {"pipeline-stages", "pipeline-graph", "results-table-1", *of_stages}
    assert known["of tasks"] == of_stages
    assert '"file": "second.txt"' in known["artifacts"]["stage-second"]
    assert known["artifacts"]["results-table-1"] == "| PSNR |\n"
    assert "flowchart TD" in known["artifacts"]["pipeline-graph"]


@pytest.mark.slow
def test_a_failed_stage_fails_the_run(
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Any
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
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Any
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
def test_a_killed_flow_is_told_of_by_the_next(
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Any
) -> None:
    """A flow killed with SIGKILL stays RUNNING in the server until the next one starts, which marks it crashed and goes on."""
    root = new_project(tmp_path / "project", SLEEPING)
    flow = start_flow(root, prefect=True, **server.settings)
    stage = flow.stage_pid()
    flow.process.kill()
    flow.process.wait()
    assert flow.leaves_no(stage)
    killed = server.read()
    assert killed["state"] == "Running"
    work = root / "work.py"
    work.write_text(work.read_text().replace("time.sleep(600)", ""))
    ended, output = start_flow(root, prefect=True, **server.settings).end(60)
    assert ended == 0, output
    assert f"flow run {killed['id']} had died without a word" in output
    known = server.read(killed["id"])
    assert known["state"] == "Crashed"
    assert f"pid {flow.process.pid}" in known["message"]
    assert known["tasks"] == {"sleep": ("Crashed", 1)}
    assert not list((root / ".scratch/flows/runs").glob(f"*{killed['id']}*"))


@pytest.mark.slow
def test_a_lost_server_holds_nothing_up(
    tmp_path: Path, new_project: NewProject, start_flow: StartFlow, server: Any
) -> None:
    """
    When the server dies during two flows, SIGTERM still ends the one in time, with its stage.

    The other runs all its stages to their end and says that its server was lost.
    """
    terminated = start_flow(new_project(tmp_path / "one", SLEEPING), prefect=True, **server.settings)
    root = new_project(tmp_path / "other", WAITING)
    going_on = start_flow(root, prefect=True, PREFECT_CLIENT_MAX_RETRIES="1", **server.settings)
    stage = terminated.stage_pid()
    assert going_on.comes_true((root / "first.begun").exists, 60), going_on.log.read_text()
    server.kill()
    terminated.process.terminate()
    ended, output = terminated.end(TIME_TO_END_S)
    assert ended == 143, output
    assert terminated.leaves_no(stage)
    (root / "go").touch()
    ended, output = going_on.end(120)
    assert ended == 0, output
    assert (root / "second.txt").exists()
    assert "Prefect's server was lost during the flow" in output
    assert "bug of dcnas" not in output
