"""A question to a process of its own: its answer, its failures, and that it never outlives who asked."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dcnas_harness.asking import respondent
from dcnas_harness.errors import CorruptArtefactError, DcnasError, UnfitEnvironmentError

MODULE = """
import os, sys
from pathlib import Path
from dcnas_harness.asking import respond
from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.process import let_idle_threads_spin, run_main

def prepare():
    Path(os.environ["SEEN"]).write_text(str(os.getpid()))
    return answer

def answer(question):
    if question == "fail":
        raise RuntimeError("no")
    if question == "silent":
        sys.exit(0)
    if question == "damaged":
        raise CorruptArtefactError("these weights are damaged", remedy="make them again")
    if question == "killed":
        os.kill(os.getpid(), 9)
    print("a word by the way")
    return f"{question} {os.environ.get('OMP_WAIT_POLICY')} {os.environ['GOMP_SPINCOUNT']}"

def main():
    let_idle_threads_spin()
    respond(prepare)

run_main(main)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the process that answers leaves its pid; its module can be imported from here."""
    (tmp_path / "oracle.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return tmp_path / "seen"


def pid_in(file: Path) -> int:
    """Wait for the pid in a file."""
    end = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end, "the process did not start"
        time.sleep(0.02)
    return int(file.read_text())


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_answer_comes_from_a_process_with_its_own_wait_policy(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts before it is asked, its idle threads spin whatever is inherited, and the last line is the answer."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with respondent("oracle") as ask:
        assert pid_in(seen) != os.getpid()
        assert ask("what?") == "what? None 300000"


@pytest.mark.parametrize(("question", "error"), [("silent", UnfitEnvironmentError), ("damaged", CorruptArtefactError)])
def test_a_process_that_gives_no_answer_is_named(seen: Path, question: str, error: type[DcnasError]) -> None:
    """An error of the project keeps its class, and so its exit code; a silent end is the environment's fault. The module is named."""
    with respondent("oracle") as ask, pytest.raises(error, match=r"\(oracle\) ended with \d+"):
        ask(question)
    assert seen.exists()


@pytest.mark.parametrize(("question", "code"), [("fail", 1), ("killed", 137)])
def test_a_crash_stays_a_crash(seen: Path, question: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A bug ends the asker with 1 and a signal with 128 and its number, so that a flow knows what is worth another try."""
    with respondent("oracle") as ask, pytest.raises(SystemExit) as caught:
        ask(question)
    assert caught.value.code == code
    assert "(oracle) ended with" in capfd.readouterr().err
    assert seen.exists()


def test_it_ends_with_the_block_when_it_was_not_asked(seen: Path) -> None:
    """An error before the question leaves no process behind."""
    with suppress(ZeroDivisionError), respondent("oracle"):
        pid = pid_in(seen)
        raise ZeroDivisionError
    assert not alive(pid)


def test_it_dies_with_who_asks(seen: Path) -> None:
    """A killed asker takes it along."""
    script = "import time\nfrom dcnas_harness.asking import respondent\nwith respondent('oracle'):\n    time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script]) as asker:
        pid = pid_in(seen)
        asker.kill()
    end = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < end, "it lives on"
        time.sleep(0.02)
