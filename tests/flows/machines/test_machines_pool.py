"""The same through a Prefect server: stages wait in a work pool, workers in two clones take them, one machine is lost on the way."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

Net = Any

HOME = """
import sys
from pathlib import Path
from dcnas_flows.orders import Sharing
from dcnas_flows.reproduce import reproduce
from dcnas_harness.process import run_main

run_main(lambda: sys.exit(reproduce(Path(sys.argv[1]), [], use_prefect=True, sharing=Sharing(pool="boxes", beat_s=2.0))))
"""


class Prefect:
    """A Prefect server on SQLite, and processes that use it."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._root, self.url = root, f"http://127.0.0.1:{port}/api"
        self._started: list[subprocess.Popen[bytes]] = []
        self.start(
            root, "server", "-m", "prefect", "server", "start", "--no-ui", "--port", str(port), PREFECT_API_URL=""
        )
        assert comes_true(self._healthy, 300), self.log("server")

    def start(self, folder: Path, name: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start Python in a folder; its output goes to `log(name)`."""
        settings = {
            "PREFECT_HOME": str(self._root),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
        }
        with (self._root / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env={**os.environ, **settings, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (self._root / f"{name}.log").read_text()

    def known(self, what: str, **query: Any) -> list[dict[str, Any]]:
        """Ask the server."""
        return list(httpx.post(f"{self.url}/{what}/filter", json=query).raise_for_status().json())

    def _healthy(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health").status_code == 200
        return False

    def end(self) -> None:
        """Kill all that was started."""
        for process in reversed(self._started):
            lose(process)


def lose(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all below it at once, as when its machine loses power."""
    with suppress(psutil.NoSuchProcess):
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
    process.wait()


def comes_true(condition: Callable[[], object], seconds: float) -> bool:
    """Return whether `condition` comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture
def prefect(tmp_path: Path) -> Iterator[Prefect]:
    """A server; all that was started beside it is gone after the test."""
    running = Prefect(tmp_path / "prefect")
    try:
        yield running
    finally:
        running.end()


@pytest.mark.slow
@pytest.mark.long
def test_workers_take_stages_from_the_pool(net: Net, prefect: Prefect) -> None:
    """
    Home sends both trainings to the pool, and both are lost on the way: one with its whole machine, one with the Prefect worker alone,
    whose stage does not run on as an orphan. Home says so and sends each once more. All is done, the server knows each run, home executed
    only what is its own, and the next flow has nothing to do.
    """
    holds = [net.root / f"side.hold-{name}" for name in "ab"]
    pids = [net.root / f"side.pid-{name}" for name in "ab"]
    for hold in holds:
        hold.touch()
    first = prefect.start(net.machine("one"), "one", "-m", "dcnas_flows.pool", "boxes")
    assert comes_true(lambda: prefect.known("work_pools"), 240), prefect.log("one")
    home = net.machine("home")
    flow = prefect.start(home, "home", "-c", HOME, str(home))
    held = stage_of(pids, prefect, "home", "one")
    lose(first)
    assert not alive(held)
    second = prefect.start(net.machine("other"), "other", "-m", "dcnas_flows.pool", "boxes")
    held.rename(held.with_suffix(".lost"))
    held = stage_of(pids, prefect, "home", "other")
    second.kill()
    assert comes_true(lambda: not alive(held), 60), prefect.log("other")
    for hold in holds:
        hold.unlink()
    prefect.start(net.machine("third"), "third", "-m", "dcnas_flows.pool", "boxes")
    assert flow.wait(timeout=600) == 0, prefect.log("home") + prefect.log("third")
    said = prefect.log("home")
    assert "queue cpu: train@a, train@b" in said
    assert said.count("is lost: no sign of life for 12 s") >= 1, said
    assert "> echo train@b" in said, "lines of a worker reach home"
    ran = net.ran()
    assert [machine for _, machine in ran] == ["home", "one", "other", "third", "third", "home"]
    assert {stage for stage, machine in ran if machine == "home"} == {"draw", "join"}
    assert {stage for stage, machine in ran if machine == "third"} == {"train@a", "train@b"}
    stages = [run["state_type"] for run in prefect.known("flow_runs") if run["name"].startswith("train")]
    assert stages.count("COMPLETED") == 2
    assert len(stages) == 4
    again = prefect.start(home, "again", "-c", HOME, str(home))
    assert again.wait(timeout=240) == 0
    assert "nothing is stale" in prefect.log("again")
    assert net.ran() == ran


def stage_of(pids: list[Path], prefect: Prefect, *logs: str) -> Path:
    """Wait for a held stage, and return the file that holds its pid."""

    def written() -> list[Path]:
        return [file for file in pids if file.is_file() and file.read_text().strip()]

    assert comes_true(written, 400), "".join(prefect.log(name) for name in logs)
    return written()[0]


def alive(pid: Path) -> bool:
    """Return whether the process whose pid a file holds is there; a zombie is not."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(int(pid.read_text())).status() != psutil.STATUS_ZOMBIE)
    return False
