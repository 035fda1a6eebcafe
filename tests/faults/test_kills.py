"""A killed dvc, stage or helper, a full cache, a clock set back: nothing is lost, nothing runs on, nothing is made twice."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from dcnas_app.verifying import verify_outputs
from dcnas_harness.files import md5_of, write_text

Dvc = Callable[..., "subprocess.Popen[str]"]
OUTPUTS = ("data/table.parquet", "data/record.json", "data/second.json", "data/third.bin")


@pytest.fixture
def repro(start_dvc: Dvc) -> Iterator[Dvc]:
    """A function that starts `dvc repro`; whatever is left of its process group is killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def run(root: Path, **variables: str) -> "subprocess.Popen[str]":
        started.append(start_dvc(root, "repro", **variables))
        return started[-1]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Return exit code and output of a command that must end in time."""
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def wait_for(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Return whether `condition` comes true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def step(root: Path) -> int:
    """Return how far the second stage is."""
    state = root / ".scratch/state.json"
    return int(json.loads(state.read_text())["step"]) if state.exists() else 0


def alive(root: Path) -> dict[str, int]:
    """Return script -> pid of the living processes of the project's stages."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            here = (folder / "cwd").readlink() == root
            zombie = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
            names = [word for word in ("second.py", "helper") if word in words]
            if here and not zombie and names:
                found[names[0]] = int(folder.name)
    return found


def let_go_on(root: Path, to: int) -> None:
    """Let the second stage run beyond a step."""
    write_text(root / "go", str(to))


def runs(root: Path) -> list[str]:
    """Return a line for each time that a stage has begun."""
    return (root / "runs.tmp").read_text().splitlines()


def assert_as_undisturbed(root: Path, made_once: Path) -> None:
    """Assert that all outputs and dvc.lock are those of the undisturbed run, byte for byte, and no part of a file is left."""
    for name in (*OUTPUTS, "dvc.lock"):
        assert (root / name).read_bytes() == (made_once / name).read_bytes(), name
    assert list((root / "data").rglob("*.tmp")) == []
    assert verify_outputs(root).damages == []


KILLS = [
    ("dvc", signal.SIGKILL),
    ("dvc", signal.SIGTERM),
    ("second.py", signal.SIGKILL),
    ("second.py", signal.SIGTERM),
    ("helper", signal.SIGKILL),
]


@pytest.mark.slow
@pytest.mark.long
def test_whatever_is_killed_the_rest_ends_and_the_next_run_goes_on(unmade: Path, made_once: Path, repro: Dvc) -> None:
    """
    SIGKILL and SIGTERM of dvc, of a stage's command and of its helper, one after the other, each followed by `dvc repro`.

    Each time all of the tree ends within ten seconds; the first stage is never made again, and the second goes on from the step that it
    had reached. The end is that of an undisturbed run. A `dvc repro` beside another ends without starting anything.
    """
    reached = 0
    begun = ["first"]
    for who, number in KILLS:
        goal = reached + 5
        let_go_on(unmade, reached)
        process = repro(unmade)
        begun.append(f"second from {reached}")
        assert wait_for(lambda goal=goal: step(unmade) == goal and set(alive(unmade)) == {"second.py", "helper"})
        reached, tree = goal, alive(unmade)
        if who == "second.py" and number == signal.SIGKILL:
            code, output = end(repro(unmade))  # a second dvc beside the first
            assert code != 0
            assert "lock" in output or "busy" in output
            assert alive(unmade) == tree
        os.kill(process.pid if who == "dvc" else tree[who], number)
        if who == "helper":
            let_go_on(unmade, reached := 40)  # it is missed when it is asked
        code, output = end(process)
        assert code != 0
        assert wait_for(lambda: not alive(unmade), 10), (who, number)
        assert who == "dvc" or "failed to reproduce 'second'" in output
        assert runs(unmade) == begun
    assert step(unmade) == 40
    code, output = end(repro(unmade))
    assert code == 0, output
    assert runs(unmade) == [*begun, "second from 40", "third"]
    assert_as_undisturbed(unmade, made_once)


def test_a_disk_that_fills_up_during_the_commit_loses_nothing(
    unmade: Path, made_once: Path, repro: Dvc, small_disk: Path
) -> None:
    """
    The cache's disk has no room for the last output: dvc fails and says why, dvc.lock keeps the stages before, no object is a part.

    With room made, the next `dvc repro` runs what was not committed alone, and ends as undisturbed.
    """
    (unmade / ".dvc/config.local").write_text(f"[cache]\n    dir = {small_disk}\n    type = copy\n")
    code, output = end(repro(unmade))
    assert code != 0
    assert "No space left on device" in output
    lock = (unmade / "dvc.lock").read_text()
    assert "data/second.json" in lock
    assert "data/third.bin" not in lock
    objects = [
        path for path in (small_disk / "files/md5").rglob("*") if path.is_file() and path.suffix not in (".dir", ".tmp")
    ]
    assert [path for path in objects if md5_of(path) != path.parent.name + path.name] == []
    assert len(objects) == 5
    assert verify_outputs(unmade).damages == []
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    code, output = end(repro(unmade))
    assert code == 0, output
    assert runs(unmade)[:3] == ["first", "second from 0", "third"]
    assert set(runs(unmade)[3:]) <= {"third"}
    assert_as_undisturbed(unmade, made_once)


CLOCK = """
import time

_time, _time_ns, _asked = time.time, time.time_ns, [0]

def _back():
    _asked[0] += 1
    return 86_400 * _asked[0]  # a day back at every look

time.time = lambda: _time() - _back()
time.time_ns = lambda: _time_ns() - _back() * 10**9
"""


def test_a_clock_that_is_set_back_changes_nothing(unmade: Path, made_once: Path, repro: Dvc, tmp_path: Path) -> None:
    """With a clock that jumps back at every look at it, in dvc and all stages, the outputs are the same, and nothing is stale after."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(CLOCK)
    paths = os.pathsep.join([str(tmp_path / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])])
    code, output = end(repro(unmade, PYTHONPATH=paths))
    assert code == 0, output
    assert_as_undisturbed(unmade, made_once)
    with Repo(str(unmade)) as repo:
        assert repo.status() == {}


def test_times_of_files_make_nothing_stale(made: Path) -> None:
    """Outputs and code of 2031 and of 1990 are up to date where their content is."""
    for number, path in enumerate(sorted(path for path in made.rglob("*") if ".dvc" not in path.parts)):
        moment = 1_925_000_000 if number % 2 else 631_152_000
        os.utime(path, (moment, moment))
    with Repo(str(made)) as repo:
        assert repo.status() == {}
