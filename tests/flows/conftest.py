"""Small DVC projects whose pipeline stages take no time, for the flows to run; the project's own is only read."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

NewProject = Callable[[Path, str], Path]

WORK = """
import os, pathlib, random, signal, sys, time
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
        flows.append(Flow(*arguments, **options))  # type: ignore[arg-type]
        return flows[-1]

    yield start
    for flow in flows:
        flow.process.kill()
        flow.process.wait()
