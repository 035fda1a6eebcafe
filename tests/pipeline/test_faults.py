"""Kills, a second run beside the first, a read-only folder, a full disk: nothing is lost, nothing is half-written, no orphan stays."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
RETRAIN = "retrain@dcnet_reduced_integrated-0"
WEIGHTS = "data/retrain/dcnet_reduced_integrated/0/weights.safetensors"
STAGE = ["python", "-m", "dcnas_retrain", "--model", "dcnet_reduced_integrated", "--seed", "0"]
FOLDERS = ["--scenes", "data/generate_data/digits", "--out", "data/retrain/dcnet_reduced_integrated/0"]


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
        time.sleep(0.05)
    return False


def epochs_done(root: Path) -> int:
    """Return the number of epochs in the newest checkpoint of the runs that `new_epochs` asked for."""
    checkpoints = (root / ".scratch").glob("retrain/dcnet_reduced_integrated-0/*/epoch-*.json")
    return max((int(path.stem.split("-")[1]) for path in checkpoints), default=0)


def new_epochs(root: Path, epochs: int) -> None:
    """Ask for more epochs of training, which starts anew: the checkpoints of the finished run are of other parameters."""
    shutil.rmtree(root / ".scratch", ignore_errors=True)
    parameters = root / "params.yaml"
    parameters.write_text(parameters.read_text().replace("  epochs: 2 ", f"  epochs: {epochs} "))


def test_a_killed_dvc_leaves_no_orphan_trainer(finished: Path, start: Start) -> None:
    """SIGKILL of dvc takes the training process along within seconds."""
    new_epochs(finished, 5000)
    dvc = start(["dvc", "repro", RETRAIN], finished)
    assert wait_for(lambda: epochs_done(finished) > 0, 60)
    assert trainers(finished)
    os.kill(dvc.pid, signal.SIGKILL)
    assert wait_for(lambda: not trainers(finished), 10)


def test_ctrl_c_stops_with_one_message_and_keeps_what_was_complete(finished: Path, start: Start) -> None:
    """Ctrl-C on the process group ends dvc and the trainer with a message, and leaves checkpoints to go on from."""
    new_epochs(finished, 5000)
    dvc = start(["dvc", "repro", RETRAIN], finished)
    assert wait_for(lambda: epochs_done(finished) > 0, 60)
    os.killpg(dvc.pid, signal.SIGINT)
    output, _ = dvc.communicate(timeout=30)
    assert dvc.returncode != 0
    assert "interrupted: what was complete is kept" in output
    assert "Traceback" not in output
    assert wait_for(lambda: not trainers(finished), 10)
    assert epochs_done(finished) > 0


def test_a_second_run_of_the_same_stage_refuses(finished: Path, start: Start) -> None:
    """A trainer started by hand beside the one of dvc exits 3 and names the first one's pid."""
    new_epochs(finished, 5000)
    start(["dvc", "repro", RETRAIN], finished)
    assert wait_for(lambda: epochs_done(finished) > 0, 60)
    (first,) = trainers(finished)
    second = start([*STAGE, *FOLDERS], finished)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 3, output
    assert f"pid {first}" in output


def test_a_killed_training_goes_on_and_ends_with_the_same_bits(finished: Path, start: Start) -> None:
    """`dvc repro` killed twice in the middle of training and run again gives the weights of an undisturbed run."""
    new_epochs(finished, 60)
    reference = finished.parent / "reference"
    apart = ["--out", str(reference), "--scratch", str(finished.parent / "other")]
    output, _ = start([*STAGE, *FOLDERS[:2], *apart], finished).communicate(timeout=120)
    assert (reference / "weights.safetensors").is_file(), output
    for epoch in (3, 20):
        dvc = start(["dvc", "repro", RETRAIN], finished)
        assert wait_for(lambda epoch=epoch: epochs_done(finished) >= epoch, 60)
        assert epochs_done(finished) < 60
        os.kill(dvc.pid, signal.SIGKILL)
        dvc.wait()  # a zombie's pid still exists, and dvc would take it for a living owner of its locks
        assert wait_for(lambda: not trainers(finished), 10)
    last = start(["dvc", "repro", RETRAIN], finished)
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    sums = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (finished / WEIGHTS, reference / "weights.safetensors")
    ]
    assert sums[0] == sums[1]


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


def test_a_full_disk_is_named_and_leaves_nothing(finished: Path, command: Command, unmount: list[Path]) -> None:
    """Scenes that do not fit the disk exit 3 naming the file, and leave no part behind."""
    small = finished / "data/small"
    if not mounted("tmpfs", small, "size=64k"):
        pytest.skip("mounting a small file system needs root")
    unmount.append(small)
    parameters = finished / "params.yaml"
    parameters.write_text(parameters.read_text().replace("train: 32", "train: 2000"))
    done = command(["python", "-m", "dcnas_generate_data", "--out", str(small)], finished)
    assert done.returncode == 3, done.stderr
    assert "No space left on the disk while writing" in done.stderr
    assert "train.parquet" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(small.iterdir()) == []


def test_a_read_only_results_folder_is_refused_before_work(
    finished: Path, command: Command, unmount: list[Path]
) -> None:
    """Tables are not begun when their folder cannot be written: exit 2 with the folder's name."""
    if not mounted("bind", finished / "results", ""):
        pytest.skip("mounting read-only needs root")
    unmount.append(finished / "results")
    arguments = ["--records", "data/evaluate", "--reference", "data/reference/paper_tables.csv", "--out", "results"]
    done = command(["python", "-m", "dcnas_tabulate", *arguments], finished)
    assert done.returncode == 2, done.stderr
    assert "results" in done.stderr
    assert "read-only" in done.stderr
