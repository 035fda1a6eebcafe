"""Kills, a second run beside the first, a read-only folder, a full disk: nothing is lost, nothing is half-written, no orphan stays."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dcnas_generate_data.__main__ import main as generate_data
from dcnas_harness.files import sha256_of
from dcnas_retrain.__main__ import main as retrain
from dcnas_tabulate.__main__ import main as tabulate

Command = Callable[..., subprocess.CompletedProcess[str]]
Changed = Callable[[Path], AbstractContextManager[Path]]
RETRAIN = "retrain@dcnet_reduced_integrated-0"
WEIGHTS = "data/retrain/dcnet_reduced_integrated/0/weights.safetensors"
ITEM = ["--model", "dcnet_reduced_integrated", "--seed", "0"]
SCENES = "--scenes=data/generate_data/digits"
OUT = "--out=data/retrain/dcnet_reduced_integrated/0"
EPOCHS = 12
"""So many that a kill after the first ones falls into the training."""

Start = Callable[[list[str], Path], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts a command in a process group of its own; every group is killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def run(command: list[str], root: Path) -> subprocess.Popen[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def trainers(root: Path) -> list[int]:
    """Return the pids of living dcnas_retrain processes that work in `root`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            here = (folder / "cwd").readlink() == root
            zombie = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            continue
        if b"dcnas_retrain" in command and here and not zombie:
            found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Return whether `condition` comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def epochs_done(root: Path) -> int:
    """Return the number of epochs in the newest checkpoint of the runs that `new_epochs` asked for."""
    checkpoints = (root / ".scratch").glob("retrain/dcnet_reduced_integrated-0/*/epoch-*.json")
    return max((int(path.stem.split("-")[1]) for path in checkpoints), default=0)


def new_epochs(root: Path, epochs: int) -> None:
    """Ask for more epochs: training starts anew, the checkpoints of the finished run being of other parameters."""
    shutil.rmtree(root / ".scratch", ignore_errors=True)
    parameters = root / "params.yaml"
    parameters.write_text(re.sub(r"(?m)^  epochs: \d+ ", f"  epochs: {epochs} ", parameters.read_text()))


@pytest.fixture(scope="module")
def trained(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project whose training the tests start anew, each with its own number of epochs."""
    root = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(smoke, root, symlinks=True)
    return root


def test_a_killed_dvc_takes_the_trainer_along_and_the_next_goes_on(
    trained: Path, tmp_path: Path, start: Start, in_process: Command
) -> None:
    """
    SIGKILL of dvc in mid-training leaves no orphan, and the next `dvc repro` takes up the checkpoints, to the undisturbed run's bits.

    Before the kill, a second trainer beside the one of dvc exits 3 and names the first one's pid.
    """
    new_epochs(trained, EPOCHS)
    reference = in_process(retrain, *ITEM, SCENES, "--out", tmp_path / "out", "--scratch", tmp_path, cwd=trained)
    assert reference.returncode == 0, reference.stderr
    dvc = start(["dvc", "repro", RETRAIN], trained)
    assert wait_for(lambda: epochs_done(trained) > 0, 60)
    (first,) = trainers(trained)
    os.kill(first, signal.SIGSTOP)  # not done yet when the second one has been asked
    second = in_process(retrain, *ITEM, SCENES, OUT, cwd=trained)
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()  # a zombie's pid still exists, and dvc would take it for a living owner of its locks
    assert wait_for(lambda: not trainers(trained), 10)
    assert 0 < epochs_done(trained) < EPOCHS
    (checkpoints,) = (trained / ".scratch/retrain/dcnet_reduced_integrated-0").iterdir()
    assert second.returncode == 3, second.stderr
    assert f"pid {first}" in second.stderr
    last = start(["dvc", "repro", RETRAIN], trained)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    assert checkpoints.is_dir()  # a run that does not take them up removes them
    assert sha256_of(trained / WEIGHTS) == sha256_of(tmp_path / "out/weights.safetensors")


def test_ctrl_c_stops_with_one_message_and_keeps_what_was_complete(trained: Path, start: Start) -> None:
    """Ctrl-C on the process group ends dvc and the trainer with a message, and leaves checkpoints to go on from."""
    new_epochs(trained, 5000)
    dvc = start(["dvc", "repro", RETRAIN], trained)
    assert wait_for(lambda: epochs_done(trained) > 0, 60)
    os.killpg(dvc.pid, signal.SIGINT)
    output, _ = dvc.communicate(timeout=30)
    assert dvc.returncode != 0
    assert "interrupted: what was complete is kept" in output
    assert "Traceback" not in output
    assert wait_for(lambda: not trainers(trained), 10)
    assert epochs_done(trained) > 0


def mounted(kind: str, target: Path, options: str) -> bool:
    """Mount a file system and return whether this user may."""
    target.mkdir(parents=True, exist_ok=True)
    source = str(target) if kind == "bind" else "tmpfs"
    flags = ["--bind", source] if kind == "bind" else ["-t", "tmpfs", "-o", options, source]
    if subprocess.run(["mount", *flags, str(target)], capture_output=True, check=False).returncode != 0:
        return False
    if kind == "bind":
        subprocess.run(["mount", "-o", "remount,ro,bind", str(target)], check=True)
    return True


@pytest.fixture
def unmount() -> Iterator[list[Path]]:
    """Folders to unmount when the test ends."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def test_a_full_disk_is_named_and_leaves_nothing(
    finished_once: Path, changed: Changed, in_process: Command, unmount: list[Path]
) -> None:
    """Scenes that do not fit the disk exit 3 naming the file, and leave no part behind."""
    small = finished_once / "data/small"
    if not mounted("tmpfs", small, "size=64k"):
        pytest.skip("mounting a small file system needs root")
    unmount.append(small)
    with changed(finished_once / "params.yaml") as parameters:
        parameters.write_text(parameters.read_text().replace("train: 32", "train: 2000"))
        done = in_process(generate_data, "--out", small, cwd=finished_once)
    assert done.returncode == 3, done.stderr
    assert "No space left on the disk while writing" in done.stderr
    assert "train.parquet" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(small.iterdir()) == []


def test_a_read_only_results_folder_is_refused_before_work(
    finished_once: Path, in_process: Command, unmount: list[Path]
) -> None:
    """Tables are not begun when their folder cannot be written: exit 2 with the folder's name."""
    if not mounted("bind", finished_once / "results", ""):
        pytest.skip("mounting read-only needs root")
    unmount.append(finished_once / "results")
    arguments = ["--records", "data/evaluate", "--reference", "data/reference/paper_tables.csv", "--out", "results"]
    done = in_process(tabulate, *arguments, cwd=finished_once)
    assert done.returncode == 2, done.stderr
    assert "results" in done.stderr
    assert "read-only" in done.stderr
