"""How a command ends: its exit codes, its signals, its parent's death, and the lock on what it writes."""

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_harness.process import exclusive_run

Start = Callable[..., subprocess.Popen[str]]
Python = Callable[..., subprocess.CompletedProcess[str]]

ERRORS = """
import sys
from dcnas_harness import errors
from dcnas_harness.process import {run}

def main():
    {body}

{run}(main)
"""

WAIT_FOR_SIGNAL = """
import time
from dcnas_harness.process import run_main

def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

run_main(main)
"""

HOLD = """
import sys, time
from pathlib import Path
from dcnas_harness.process import exclusive_run, run_main

def main():
    with exclusive_run(Path(sys.argv[1]), Path(sys.argv[2])):
        print("ready", flush=True)
        time.sleep(float(sys.argv[3]))

run_main(main)
"""

CHILD = """
import time
from dcnas_harness.process import die_with_parent
die_with_parent()
print("ready", flush=True)
time.sleep(60)
"""

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(child.pid, flush=True)
time.sleep(60)
"""

FIRST_PROCESS = """
import os, subprocess, sys
assert os.getpid() == 1
body = "from dcnas_harness.process import die_with_parent; die_with_parent(); print('lives')"
sys.exit(subprocess.run([sys.executable, "-c", body]).returncode)
"""


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    """Return whether a process ends within a time."""
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def wait_for(process: subprocess.Popen[str], word: str) -> str:
    """Return the next line of a process's output, which must hold `word`."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert word in line, process.communicate()[1]
    return line


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("print('done')", 0, ""),
        ("raise ValueError('x = 3')", 1, "ValueError: x = 3"),
        ("raise errors.DcnasError('odd')", 1, "error: odd"),
        (
            "raise errors.BadInputError('wrong', where='key', remedy='correct it')",
            2,
            "wrong\n  where:  key\n  remedy: correct it",
        ),
        ("raise errors.UnfitEnvironmentError('full')", 3, "error: full"),
        ("raise MemoryError", 3, "out of memory"),
        ("raise errors.CorruptArtefactError('damaged')", 4, "error: damaged"),
        ("raise errors.NumericalError('nan')", 5, "error: nan"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("sys.exit(7)", 7, ""),
    ],
)
@pytest.mark.parametrize("run", ["run_main", "run_stage"])
def test_each_class_of_error_has_its_exit_code(python: Python, run: str, body: str, code: int, message: str) -> None:
    """A command ends with the code of its error's class and says once on stderr what is wrong; only a bug shows a traceback."""
    done = python("-c", ERRORS.format(run=run, body=body))
    assert done.stdout == ("done\n" if "done" in body else "")
    assert done.returncode == code
    assert message in done.stderr
    assert ("Traceback" in done.stderr) == ("ValueError" in body)
    assert ("this is a bug" in done.stderr) == ("ValueError" in body)


def test_no_memory_left_in_torch_is_no_bug(python: Python) -> None:
    """Torch reports missing memory as a RuntimeError: it exits 3 with a remedy, as Python's own MemoryError does."""
    done = python("-c", ERRORS.format(run="run_stage", body="import torch; torch.empty(1 << 58, dtype=torch.uint8)"))
    assert "out of memory" in done.stderr
    assert done.returncode == 3


def test_a_stage_does_not_wait_for_the_interpreters_end(python: Python) -> None:
    """What was printed is out, and nothing that libraries do at the end is waited for."""
    body = "import atexit, time; atexit.register(time.sleep, 600); print('all', end='')"
    done = python("-c", ERRORS.format(run="run_stage", body=body))
    assert (done.returncode, done.stdout) == (0, "all")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_after_its_clean_up(start: Start, number: signal.Signals, code: int) -> None:
    """Ctrl-C exits 130 and SIGTERM 143, without a traceback, and what the command has open is closed first."""
    process = start("-c", WAIT_FOR_SIGNAL)
    wait_for(process, "ready")
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert out == "cleaned up\n"
    assert "Traceback" not in err


def test_a_second_run_of_the_same_output_is_refused_by_pid(tmp_path: Path, start: Start, python: Python) -> None:
    """While one process makes an output, a second exits 3 and names the first; another output is free."""
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    first = start("-c", HOLD, out, scratch, 60)
    wait_for(first, "ready")
    try:
        second = python("-c", HOLD, out, scratch, 0)
        assert second.returncode == 3
        assert f"{out} is being made by another process (pid {first.pid})" in second.stderr
        assert python("-c", HOLD, tmp_path / "other", scratch, 0).returncode == 0
    finally:
        first.kill()
        first.communicate()


def test_a_killed_run_frees_its_output(tmp_path: Path, start: Start, python: Python) -> None:
    """The kernel gives the lock back when its holder is killed: no stale lock is left to remove by hand."""
    first = start("-c", HOLD, tmp_path / "out", tmp_path / "scratch", 60)
    wait_for(first, "ready")
    first.kill()
    first.communicate()
    assert python("-c", HOLD, tmp_path / "out", tmp_path / "scratch", 0).returncode == 0


def test_one_output_has_one_lock_however_its_path_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative and an absolute path, and one through a link, to the same folder shut each other out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for other in (tmp_path / "out", Path("./link"), Path("out/../out")):
        with (
            exclusive_run(Path("out"), tmp_path / "scratch"),
            pytest.raises(UnfitEnvironmentError, match="another process"),
            exclusive_run(other, tmp_path / "scratch"),
        ):
            pass


def test_outputs_with_like_names_do_not_shut_each_other_out(tmp_path: Path) -> None:
    """`a/b` and `a-b` are two outputs."""
    with exclusive_run(tmp_path / "a/b", tmp_path / "scratch"), exclusive_run(tmp_path / "a-b", tmp_path / "scratch"):
        pass


def test_an_output_deep_in_a_tree_can_be_locked(tmp_path: Path) -> None:
    """A path longer than a file name may be is no reason to fail."""
    with exclusive_run(tmp_path / "/".join(["folder"] * 60), tmp_path / "scratch"):
        pass


def test_a_read_only_scratch_folder_is_bad_input(tmp_path: Path, read_only_disk: Path) -> None:
    """A scratch folder that cannot be written is named (exit 2), not reported as a bug."""
    with (
        pytest.raises(BadInputError, match="read-only disk"),
        exclusive_run(tmp_path / "out", read_only_disk / "scratch"),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("under_dvc", [True, False])
def test_a_child_of_dvc_dies_with_it(start: Start, under_dvc: bool) -> None:
    """With DVC_STAGE set the child of a killed parent ends within five seconds; started by hand it lives on."""
    parent = start("-c", PARENT, CHILD, **({"DVC_STAGE": "retrain"} if under_dvc else {}))
    child = int(wait_for(parent, ""))
    wait_for(parent, "ready")
    parent.kill()
    try:
        assert gone_within(child, 5 if under_dvc else 0.5) == under_dvc
    finally:
        subprocess.run(["kill", "-9", str(child)], check=False, capture_output=True)
        parent.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="process namespaces are Linux's")
def test_a_container_whose_first_process_is_dvc_runs(start: Start) -> None:
    """A parent that is process 1, as dvc is where a container runs nothing else, is alive: its child must not end itself."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    try:
        if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode != 0:
            pytest.skip("a process namespace cannot be made here")
    except FileNotFoundError:
        pytest.skip("there is no unshare command")
    body = "import os, sys; os.execvp('unshare', ['unshare', '--pid', '--fork', '--mount-proc', sys.executable, *sys.argv[1:]])"
    process = start("-c", body, "-c", FIRST_PROCESS, DVC_STAGE="retrain")
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == ("lives\n", 0), err


SPINS = """
import os
from dcnas_harness.process import let_idle_threads_spin_briefly
let_idle_threads_spin_briefly()
print({name: os.environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of libgomp")
@pytest.mark.parametrize(
    ("inherited", "policy", "spins"),
    [
        ({}, None, "1000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", None),
        ({"GOMP_SPINCOUNT": "7"}, None, "7"),
    ],
    ids=["nothing", "a policy", "a count"],
)
def test_idle_threads_of_a_training_spin_briefly(
    inherited: dict[str, str], policy: str | None, spins: str | None
) -> None:
    """A bounded spin is asked for, unless the user has said how threads wait."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    told = subprocess.check_output([sys.executable, "-c", SPINS], text=True, env={**kept, **inherited})
    assert ast.literal_eval(told) == {"OMP_WAIT_POLICY": policy, "GOMP_SPINCOUNT": spins}
