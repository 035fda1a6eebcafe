"""Schedules on several machines: the server keeps its data in PostgreSQL, and a worker takes what falls due from its work pool."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long]

REPRODUCE = "reproduce/reproduce"
FIRES_S = 240.0
RUNS_S = 120.0
NOBODY = "nobody"
"""Who runs PostgreSQL where the tests are root's, which it refuses."""


class Postgres:
    """A PostgreSQL server of Debian's packages on a free port, with an empty database; what it holds is worth nothing afterwards."""

    def __init__(self, port: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # nobody may enter pytest's own folders
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam(NOBODY)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user = ["runuser", "-u", NOBODY, "--"]
        data = str(self._folder / "data")
        options = ["-A", "trust", "-U", "prefect", "--no-sync", "--no-instructions", "--no-locale", "-E", "UTF8"]
        subprocess.run([*self._as_user, "initdb", *options, "-D", data], check=True, capture_output=True, cwd="/")
        settings = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "max_connections": "50",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*self._as_user, "postgres", "-D", data, *words], cwd="/", stdout=log, stderr=subprocess.STDOUT
            )
        self.url = f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + 60
        log = self._folder / "log"
        while "ready to accept connections" not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            assert self._process.poll() is None, log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it at once and remove its data."""
        with suppress(OSError, ValueError):
            os.kill(int((self._folder / "data/postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)


@pytest.fixture(scope="module")
def server(
    new_server: Callable[..., AbstractContextManager[Any]],
    unused_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A server on PostgreSQL."""
    absent = [name for name in ("initdb", "postgres") if shutil.which(name) is None]
    if absent:
        pytest.skip(f"PostgreSQL is not installed: no {' and no '.join(absent)} on PATH (Debian: postgresql)")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses to run as root, and there is no runuser")
    database = Postgres(unused_port())
    try:
        home = tmp_path_factory.mktemp("server") / "home"
        with new_server(home, PREFECT_SERVER_DATABASE_CONNECTION_URL=database.url) as running:
            yield running
    finally:
        database.stop()


@pytest.fixture(scope="module")
def worker(
    server: Any, scheduled_project: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A worker of the pool `cpu`, for a small project whose deployments have been made by Prefect's own command; yields its folder."""
    root = scheduled_project(tmp_path_factory.mktemp("scheduled") / "project")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **server.settings, "PATH": tools}
    for pool in ("cpu", "gpu"):
        server.post("work_pools/", name=pool, type="process")
    command = [sys.executable, "-m", "prefect", "--no-prompt"]
    deployed = subprocess.run(
        [*command, "deploy", "--all"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    with (root / ".scratch.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "worker", "start", "--pool", "cpu", "--name", "here"],
            cwd=root,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield root
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_cron_fires_and_a_worker_takes_the_run(server: Any, worker: Path) -> None:
    """At the full minute the run starts by itself on the worker; its state, tasks, artifacts and lines are in the database."""
    run = server.first_by_schedule(REPRODUCE, FIRES_S)
    known = server.ended(run, RUNS_S)
    assert known["by schedule"]
    assert known["state"] == "Completed", known
    assert known["tasks"] == {name: ("Completed", 1) for name in ("data", "left", "right", "table")}
    assert {"pipeline-stages", "pipeline-graph", "results-table-1", "stage-table"} <= set(known["artifacts"])
    assert "Running stage 'table':" in known["log"]
    assert (worker / "results/table_1.md").exists()
    assert server.run(run)["work_pool_name"] == "cpu"


def test_a_run_too_many_is_cancelled(server: Any, worker: Path) -> None:
    """While a run of a deployment goes on, a second one is cancelled and not queued; the first comes to its end."""
    first = server.ask_for(REPRODUCE, targets=["wait"])
    end = time.monotonic() + RUNS_S
    while not (worker / "waited.begun").exists():
        assert time.monotonic() < end, server.run(first)
        time.sleep(0.2)
    second = server.ended(server.ask_for(REPRODUCE, targets=["table"]), RUNS_S)
    assert second["state"] == "Cancelled", second
    assert second["tasks"] == {}
    (worker / "go").touch()
    assert server.ended(first, RUNS_S)["state"] == "Completed"
