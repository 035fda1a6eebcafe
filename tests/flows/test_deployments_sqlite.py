"""Schedules on one machine: the server keeps its data in SQLite, and `dcnas flow serve` runs what falls due."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long]

REPRODUCE = "reproduce/reproduce"
FIRES_S = 240.0
"""A cron fires each full minute; the serving process starts before, and asks the server for its runs every ten seconds."""
RUNS_S = 120.0


def comes_true(condition: Callable[[], object], seconds: float = RUNS_S) -> bool:
    """Return whether `condition` comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def working_in(root: Path) -> list[int]:
    """Return the pids of processes whose current folder is the project's, and who are not this one."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "cwd").resolve() == root and int(folder.name) != os.getpid():
                pids.append(int(folder.name))
    return pids


class Serving:
    """`dcnas flow serve` in a process of its own."""

    def __init__(self, root: Path, **variables: str) -> None:
        self.root = root
        self.log = root / ".scratch/serve.log"
        self.log.parent.mkdir(exist_ok=True)
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        script = "import sys, pathlib, dcnas_flows.deployments as d; d.serve(pathlib.Path(sys.argv[1]))"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, str(root)],
                env={**os.environ, **variables, "PATH": tools},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@pytest.fixture(scope="module")
def server(
    new_server: Callable[..., AbstractContextManager[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server on SQLite."""
    with new_server(tmp_path_factory.mktemp("server") / "home") as running:
        yield running


@pytest.fixture(scope="module")
def serving(
    server: Any, scheduled_project: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """A process that serves a small project's deployments."""
    root = scheduled_project(tmp_path_factory.mktemp("scheduled") / "project")
    running = Serving(root, **server.settings)
    yield running
    running.process.kill()
    running.process.wait()


def test_a_cron_fires(server: Any, serving: Serving) -> None:
    """At the full minute the run starts by itself, in a process of its own: stages run, table, graph, files and lines are in the server."""
    run = server.first_by_schedule(REPRODUCE, FIRES_S)
    known = server.ended(run, RUNS_S)
    assert known["by schedule"]
    assert known["state"] == "Completed", known
    assert known["message"] == "brought up to date: 4 pipeline stages"
    assert known["tasks"] == {name: ("Completed", 1) for name in ("data", "left", "right", "table")}
    stages = {f"stage-{name}" for name in ("data", "left", "right", "table")}
    assert known["of tasks"] == stages
    assert set(known["artifacts"]) == {"pipeline-stages", "pipeline-graph", "results-table-1", *stages}
    assert "Running stage 'table':" in known["log"]
    assert (serving.root / "results/table_1.md").exists()
    assert not (serving.root / "waited.txt").exists()


@pytest.mark.usefixtures("serving")
def test_a_deployment_has_its_times_its_limit_and_a_form(server: Any) -> None:
    """The server knows time zone, limit and parameters, each with a description, so that its pages show a form."""
    deployment = server.deployment("collect-garbage/collect-garbage")
    (schedule,) = deployment["schedules"]
    assert schedule["schedule"]["cron"] == "0 5 * * 0"
    assert schedule["schedule"]["timezone"] == "UTC"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    form = deployment["parameter_openapi_schema"]["properties"]
    assert set(form) == {"keep", "scratch_days", "sharers", "dry_run"}
    assert all(field["description"] for field in form.values())
    assert deployment["enforce_parameter_schema"]


@pytest.mark.usefixtures("serving")
def test_the_audit_is_published(server: Any) -> None:
    """The audit of all tables ends as the verdicts say, and leaves its table and its findings, in the task that made them."""
    known = server.ended(server.ask_for("nightly-audit/nightly-audit"), RUNS_S)
    assert set(known["artifacts"]) == {"audit", "audit-findings"} == known["of tasks"]
    assert '"table": "table_1"' in known["artifacts"]["audit"]
    all_hold = "1 of 1 cells in 1 tables hold" in known["artifacts"]["audit-findings"]
    assert known["state"] == ("Completed" if all_hold else "Failed")


def test_garbage_is_told(server: Any, serving: Serving) -> None:
    """A dry run tells what would be freed, with its size, and frees nothing."""
    unused = serving.root / ".dvc/cache/files/md5/00/00000000000000000000000000000000"[:-2]
    unused.parent.mkdir(parents=True, exist_ok=True)
    unused.write_bytes(bytes(1000))
    known = server.ended(server.ask_for("collect-garbage/collect-garbage", dry_run=True), RUNS_S)
    assert known["state"] == "Completed", known
    assert known["message"].startswith("would free 0.0 MB: 1 objects of the cache")
    assert '"bytes": 1000' in known["artifacts"]["garbage"]
    assert unused.exists()


def test_the_end_of_the_server_process_ends_its_flow(server: Any, serving: Serving) -> None:
    """SIGTERM of the serving process ends the flow that runs, which its server then knows, and its pipeline stage, and the schedules."""
    run = server.ask_for(REPRODUCE, targets=["wait"])
    assert comes_true((serving.root / "waited.begun").exists), serving.log.read_text()
    serving.process.terminate()
    assert serving.process.wait(timeout=30) is not None
    assert server.ended(run, 30)["state"] == "Cancelled"
    assert comes_true(lambda: not working_in(serving.root))
    (schedule,) = server.deployment("nightly-audit/nightly-audit")["schedules"]
    assert not schedule["active"] or server.deployment("nightly-audit/nightly-audit")["paused"]


def test_serving_brings_its_server_and_takes_all_along(
    scheduled_project: Callable[[Path], Path], unused_port: Callable[[], int], tmp_path: Path
) -> None:
    """
    Where no server is configured or runs, one is started with its pages.

    When the serving process is killed with SIGKILL, that server, the flow that runs and its pipeline stage end too.
    """
    root, port = scheduled_project(tmp_path / "project"), unused_port()
    own = {"PREFECT_API_URL": "", "PREFECT_SERVER_API_PORT": str(port), "PREFECT_HOME": str(tmp_path / "home")}
    serving = Serving(root, **own)
    api = f"http://127.0.0.1:{port}/api/deployments"
    try:
        assert comes_true(lambda: _answer(f"{api}/name/{REPRODUCE}") is not None, 240), serving.log.read_text()
        assert f"its pages: http://127.0.0.1:{port}" in serving.log.read_text()
        assert _answer(f"http://127.0.0.1:{port}/") is not None
        deployment = httpx.get(f"{api}/name/{REPRODUCE}").json()["id"]
        httpx.post(f"{api}/{deployment}/pause_deployment").raise_for_status()
        asked = {"parameters": {"targets": ["wait"]}}
        httpx.post(f"{api}/{deployment}/create_flow_run", json=asked).raise_for_status()
        assert comes_true((root / "waited.begun").exists), serving.log.read_text()
    finally:
        serving.process.kill()
        serving.process.wait()
    assert comes_true(lambda: not working_in(root), 30)
    assert _answer(api) is None


def _answer(url: str) -> httpx.Response | None:
    """Return the answer of a server that gives one and calls it a success."""
    try:
        return httpx.get(url, follow_redirects=True, timeout=5).raise_for_status()
    except httpx.HTTPError:
        return None
