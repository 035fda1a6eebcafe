"""Small DVC projects whose pipeline stages take no time, for the flows to run; the project's own is only read."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from dcnas_schema.params import read_yaml

NewProject = Callable[[Path, str], Path]

WORK = """
import json, os, pathlib, random, signal, sys, time
from dcnas_harness.process import die_with_parent

die_with_parent()
kind, out = sys.argv[1], pathlib.Path(sys.argv[2])
reads = [pathlib.Path(name).read_text() for name in sys.argv[3:]]
if kind == "refuse":
    sys.exit(2)
if kind == "bug":
    raise TypeError("a bug")
if kind == "crash" or (kind == "crash_once" and not pathlib.Path("crashed").exists()):
    pathlib.Path("crashed").touch()
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind in ("sleep", "stubborn"):
    pathlib.Path("pid.tmp").write_text(str(os.getpid()))
    pathlib.Path("pid.tmp").rename("pid")
    time.sleep(600)
if kind == "talk":
    print("first", flush=True)
    end = time.monotonic() + 20
    while not pathlib.Path("heard").exists():
        if time.monotonic() > end:
            sys.exit("nobody heard the first line in time")
        time.sleep(0.02)
if kind == "wait":
    out.with_suffix(".begun").touch()
    end = time.monotonic() + 120
    while not pathlib.Path("go").exists():
        if time.monotonic() > end:
            sys.exit("nobody said go")
        time.sleep(0.05)
if kind == "meet":
    pathlib.Path(f"{out.name}.begun").touch()
    end = time.monotonic() + 20
    while len(list(pathlib.Path().glob("*.begun"))) < 2:
        if time.monotonic() > end:
            sys.exit("nobody came")
        time.sleep(0.02)
if kind == "edit" and pathlib.Path("edits").exists():
    file = pathlib.Path(pathlib.Path("edits").read_text())
    file.write_text("seed: 1" if file.suffix == ".yaml" else file.read_text() + "pass")
out.parent.mkdir(parents=True, exist_ok=True)
if kind == "table":
    cell = {"row": "Net", "column": "Model", "text": "Net", "reducer": "label", "pointer": "Net", "decimals": 0, "sources": []}
    cells = {"table": out.stem, "confidence": 0.95, "cells": [cell], "source_sha256": {}}
    out.with_suffix(".cells.json").write_text(json.dumps(cells))
    out.write_text("| Model |\\n|---|\\n| Net |\\n")
    sys.exit()
out.write_text("constant" if kind == "constant" else repr([random.Random(out.name).random(), reads]))
"""


@pytest.fixture(scope="session")
def new_project() -> NewProject:
    """The function that makes a Git and DVC project in a new folder from the text of its dvc.yaml; its stages run work.py."""

    def make(root: Path, pipeline: str) -> Path:
        root.mkdir(parents=True)
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        Repo.init(str(root)).close()
        (root / ".gitignore").write_text("/.scratch/\n")
        (root / "work.py").write_text(WORK)
        (root / "dvc.yaml").write_text(pipeline)
        return root

    return make


SCHEDULED = """
stages:
  data: {cmd: exec python work.py write data.txt, outs: [data.txt]}
  left: {cmd: exec python work.py write left.txt data.txt, deps: [data.txt], outs: [left.txt]}
  right: {cmd: exec python work.py write right.txt data.txt, deps: [data.txt], outs: [right.txt]}
  table:
    cmd: exec python work.py table results/table_1.md left.txt right.txt
    deps: [left.txt, right.txt]
    outs: [results/table_1.md, results/table_1.cells.json]
  wait: {cmd: exec python work.py wait waited.txt, outs: [waited.txt]}
"""


@pytest.fixture(scope="session")
def scheduled_project(new_project: NewProject, project: Path) -> Callable[[Path], Path]:
    """
    The function that makes a project with five small pipeline stages and the repository's own deployments.

    Of these `reproduce` is due every minute, for the stage `table` and what it needs, and a worker runs them in the project's folder.
    """

    def make(root: Path) -> Path:
        new_project(root, SCHEDULED)
        (root / "params.yaml").write_text("seed: 0\n")
        (root / "presets").mkdir()
        settings = read_yaml(project / "prefect.yaml")
        for deployment in settings["deployments"]:
            deployment["work_pool"]["job_variables"] = {"working_dir": str(root)}
            if deployment["name"] == "reproduce":
                deployment["parameters"]["targets"] = ["table"]
                deployment["schedules"] = [{**deployment["schedules"][0], "cron": "* * * * *"}]
        with (root / "prefect.yaml").open("w") as file:
            YAML(typ="safe").dump(settings, file)
        return root

    return make


@pytest.fixture(scope="session")
def dvc_repro() -> Callable[[Path], None]:
    """The function that runs `dvc repro` in a project."""

    def repro(root: Path) -> None:
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = [sys.executable, "-m", "dvc", "repro"]
        subprocess.run(command, cwd=root, check=True, capture_output=True, env={**os.environ, "PATH": tools})

    return repro


class Flow:
    """A flow in a process of its own, as the `dcnas` command would run it."""

    SCRIPT = """
import sys
from pathlib import Path
from dcnas_flows.reproduce import reproduce
from dcnas_harness.process import run_main

def main():
    root, prefect, *targets = sys.argv[1:]
    code = reproduce(Path(root), targets, use_prefect=prefect == "prefect")
    print("imported prefect:", "prefect" in sys.modules)
    sys.exit(code)

run_main(main)
"""

    def __init__(
        self, root: Path, *targets: str, prefect: bool = False, folder: Path | None = None, **variables: str
    ) -> None:
        self.root = root
        self.log = root / ".scratch/flow.log"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.SCRIPT, str(root), "prefect" if prefect else "plain", *targets],
                cwd=folder or root.parent,
                env={**os.environ, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, seconds: float) -> tuple[int, str]:
        """Wait for the end and return the exit code and all output."""
        code = self.process.wait(timeout=seconds)
        return code, self.log.read_text()

    def stage_pid(self) -> int:
        """Wait until the sleeping stage has written its pid, and return it."""
        file = self.root / "pid"
        assert self.comes_true(file.exists, 60), self.log.read_text()
        return int(file.read_text())

    def leaves_no(self, pid: int) -> bool:
        """Return whether the process `pid` is dead within seconds; a zombie is."""
        return self.comes_true(lambda: _dead(pid), 5)

    @staticmethod
    def comes_true(condition: Callable[[], object], seconds: float) -> bool:
        """Return whether `condition` comes true in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.05)
        return False


def _dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


StartFlow = Callable[..., Flow]


@pytest.fixture
def start_flow() -> Iterator[StartFlow]:
    """The function that starts a flow; what still runs at the end of the test is killed."""
    flows: list[Flow] = []

    def start(*arguments: object, **options: object) -> Flow:
        flows.append(Flow(*arguments, **options))  # type: ignore[arg-type] # handed on as they came
        return flows[-1]

    yield start
    for flow in flows:
        flow.process.kill()
        flow.process.wait()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A Prefect server on a free port with its own home, and with a SQLite database there unless `variables` name another."""

    def __init__(self, home: Path, **variables: str) -> None:
        port = free_port()
        self.settings = {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            **variables,
        }
        home.mkdir(parents=True, exist_ok=True)
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
        end = time.monotonic() + 240
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.settings['PREFECT_API_URL']}/health").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        pytest.fail(self._log.read_text())

    def read(self, run: str | None = None) -> dict[str, Any]:
        """Return what the server knows of a flow run, the last one where none is named: state, task runs, artifacts, log."""
        return self._known(self.run(run) if run else self.ask("flow_runs", sort="START_TIME_DESC", limit=1)[0])

    def run(self, run: str) -> dict[str, Any]:
        """Return the flow run with this id."""
        return self.get(f"flow_runs/{run}")

    def ended(self, run: str, seconds: float) -> dict[str, Any]:
        """Wait until a flow run has ended and return what the server knows of it."""
        end = time.monotonic() + seconds
        while self.run(run)["state_type"] not in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED"):
            assert time.monotonic() < end, self.run(run)
            time.sleep(0.5)
        return self.read(run)

    def deployment(self, name: str) -> dict[str, Any]:
        """Return a deployment, named FLOW/DEPLOYMENT."""
        return self.get(f"deployments/name/{name}")

    def ask_for(self, name: str, **parameters: object) -> str:
        """Have a deployment run now, with these parameters instead of its own, and return the id of the flow run."""
        run: str = self.post(f"deployments/{self.deployment(name)['id']}/create_flow_run", parameters=parameters)["id"]
        return run

    def first_by_schedule(self, name: str, seconds: float) -> str:
        """Wait until the schedule of a deployment has started a run, let it start no further one, and return the run's id."""
        end = time.monotonic() + seconds
        while True:
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.5)
            with suppress(httpx.HTTPStatusError):  # the deployment may not be there yet
                deployment = self.deployment(name)
                of_it = {"deployments": {"id": {"any_": [deployment["id"]]}}}
                runs = self.ask("flow_runs", sort="START_TIME_DESC", **of_it)
                began = [run for run in runs if run["state_type"] not in ("SCHEDULED", "PENDING", "CANCELLED")]
                if by_schedule := [run["id"] for run in began if run["auto_scheduled"]]:
                    self.post(f"deployments/{deployment['id']}/pause_deployment")
                    return str(by_schedule[-1])

    def _known(self, run: dict[str, Any]) -> dict[str, Any]:
        of_run = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        tasks = self.ask("task_runs", **of_run)
        logs = self.ask("logs", logs={"flow_run_id": {"any_": [run["id"]]}}, sort="TIMESTAMP_ASC")
        artifacts = self.ask("artifacts", **of_run)
        return {
            "id": run["id"],
            "message": (run["state"] or {}).get("message"),
            "by schedule": run["auto_scheduled"],
            "state": run["state_name"],
            "tasks": {task["name"]: (task["state_name"], task["run_count"]) for task in tasks},
            "waits": {task["name"]: len(task["task_inputs"].get("wait_for", ())) for task in tasks},
            "artifacts": {artifact["key"]: artifact["data"] for artifact in artifacts},
            "of tasks": {artifact["key"] for artifact in artifacts if artifact["task_run_id"]},
            "log": [line["message"] for line in logs],
        }

    def ask(self, what: str, **query: Any) -> list[dict[str, Any]]:
        """Return the objects of a kind that a filter lets through."""
        return list(self.post(f"{what}/filter", **query))

    def get(self, what: str) -> Any:
        """Return what stands at a path of the API."""
        return self._ask_until_heard("GET", what).json()

    def post(self, what: str, **body: Any) -> Any:
        """Send a request to a path of the API and return its answer."""
        answer = self._ask_until_heard("POST", what, json=body)
        return answer.json() if answer.content else None

    def _ask_until_heard(self, method: str, what: str, **options: Any) -> httpx.Response:
        """Ask again, for half a minute, a server whose database is busy: it answers 503 and has done nothing, as Prefect's clients know."""
        until = time.monotonic() + 30
        while True:
            answer = httpx.request(method, f"{self.settings['PREFECT_API_URL']}/{what}", timeout=30, **options)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > until:
                return answer.raise_for_status()
            time.sleep(1)

    def kill(self) -> None:
        """Kill the server and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="session")
def new_server() -> Callable[..., AbstractContextManager[Server]]:
    """The function that runs a Prefect server in a new home while a block runs."""

    @contextmanager
    def make(home: Path, **variables: str) -> Iterator[Server]:
        running = Server(home, **variables)
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.kill()

    return make


@pytest.fixture(scope="session")
def unused_port() -> Callable[[], int]:
    """The function that finds a port of this machine that nobody listens on."""
    return free_port
