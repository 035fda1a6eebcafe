"""The device lock: those who time are alone, those who compute share, and no death leaves it held."""

import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dcnas_harness.errors import ExitCode, UnfitEnvironmentError
from dcnas_latency import lock
from dcnas_latency.lock import device_lock, lock_path
from dcnas_schema.provenance import DeviceCard

PATIENCE_S = 20.0
GPU = {"kind": "cuda", "name": "Test GPU", "uuid": "GPU-1"}
HOLDER = """
import sys, time
from dcnas_latency.lock import device_lock
from dcnas_schema.provenance import DeviceCard
card = DeviceCard.model_validate_json(sys.argv[1])
with device_lock(card, exclusive=sys.argv[2] == "exclusive"):
    print("held", flush=True)
    sys.stdin.read()
"""
Holder = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock folder of this test's own."""
    monkeypatch.setenv("DCNAS_LOCK_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(card: DeviceCard) -> Iterator[Holder]:
    """A function that starts a process which asks for the lock, says `held`, and holds it until its input ends."""
    started = []

    def start(kind: str, device: DeviceCard = card) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, device.model_dump_json(), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints, which must come soon."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
    assert ready, f"nothing was printed within {PATIENCE_S:g} s"
    return process.stdout.readline().strip()


def test_the_lock_holds_the_holders_pid(card: DeviceCard) -> None:
    """While the block runs the file names this process, and any user may take the lock next."""
    before = os.umask(0o077)
    try:
        with device_lock(card, exclusive=True):
            assert lock_path(card).read_text() == f"{os.getpid()}\n"
            assert stat.S_IMODE(lock_path(card).stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_those_who_compute_share_and_are_all_named(card: DeviceCard, holder: Holder) -> None:
    """Two processes hold the shared lock at once, and the file names both."""
    first = holder("shared")
    assert line_of(first) == "held"
    second = holder("shared")  # one after the other: two who sign at once may lose an id
    assert line_of(second) == "held"
    with device_lock(card, exclusive=False):
        pids = {int(pid) for pid in lock_path(card).read_text().split()}
    assert pids == {first.pid, second.pid, os.getpid()}


@pytest.mark.parametrize(
    ("held", "asked"), [("exclusive", "exclusive"), ("exclusive", "shared"), ("shared", "exclusive")]
)
def test_who_times_is_alone(holder: Holder, card: DeviceCard, held: str, asked: str) -> None:
    """The second process waits, says once for whom, and goes on when the first is done."""
    with device_lock(card, exclusive=held == "exclusive"):
        second = holder(asked)
        assert line_of(second) == f"waiting for {card.name}: in use by another process (pid {os.getpid()})"
        time.sleep(3 * lock._POLL_S)
        assert second.poll() is None
    assert line_of(second) == "held"


def test_a_killed_holder_frees_the_lock(holder: Holder) -> None:
    """SIGKILL leaves nothing held: the kernel frees the lock, and a dead process is not named."""
    first = holder("exclusive")
    assert line_of(first) == "held"
    second = holder("exclusive")
    assert "waiting" in line_of(second)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert line_of(second) == "held"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(holder: Holder, card: DeviceCard, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM are obeyed while waiting."""
    with device_lock(card, exclusive=True):
        second = holder("exclusive")
        assert "waiting" in line_of(second)
        second.send_signal(number)
        assert second.wait(timeout=5) != 0


def test_an_error_frees_the_lock(card: DeviceCard, holder: Holder) -> None:
    """A failing block does not keep the lock from the next process."""
    with pytest.raises(RuntimeError), device_lock(card, exclusive=True):
        raise RuntimeError
    assert line_of(holder("exclusive")) == "held"


def test_devices_have_locks_of_their_own(card: DeviceCard, holder: Holder) -> None:
    """Timing one device does not stop work on another, and two GPUs of one name are two devices."""
    first = card.model_copy(update=GPU)
    second = first.model_copy(update={"uuid": "GPU-2"})
    assert len({lock_path(device) for device in (card, first, second)}) == 3
    with device_lock(card, exclusive=True), device_lock(first, exclusive=True):
        assert line_of(holder("exclusive", second)) == "held"


def test_what_two_processes_see_differently_does_not_part_them(card: DeviceCard) -> None:
    """A process without torch, or one whose driver is silent, meets the others at the same lock."""
    blind = {"isa": None, "driver": None, "threads": 7, "cpu_model": None, "mig": None}
    for device in (card, card.model_copy(update=GPU)):
        assert lock_path(device.model_copy(update=blind)) == lock_path(device)
    assert lock_path(card.model_copy(update={"name": "x86_64"})) == lock_path(card)


def test_a_device_without_uuid_cannot_leave_the_folder(card: DeviceCard, folder: Path) -> None:
    """A name with slashes makes a file in the folder and nowhere else."""
    odd = card.model_copy(update={"kind": "cuda", "name": "../a b/c", "uuid": None})
    with device_lock(odd, exclusive=True):
        assert [path.parent for path in folder.rglob("*.lock")] == [folder]


def test_a_symbolic_link_is_not_followed(card: DeviceCard, folder: Path) -> None:
    """A link laid in our way neither gives us its target nor lets us write there."""
    target = folder / "precious"
    target.write_text("untouched")
    lock_path(card).symlink_to(target)
    with pytest.raises(UnfitEnvironmentError, match="symbolic link") as raised, device_lock(card, exclusive=True):
        pytest.fail("the lock was taken")
    assert raised.value.exit_code == ExitCode.UNFIT_ENVIRONMENT
    assert target.read_text() == "untouched"


@pytest.mark.parametrize("trap", ["fifo", "hard link", "folder"])
def test_what_is_no_plain_file_is_refused(card: DeviceCard, folder: Path, trap: str) -> None:
    """A FIFO does not make us wait, another name of a file does not get our pid, a folder is named."""
    path = lock_path(card)
    if trap == "fifo":
        os.mkfifo(path)
    elif trap == "folder":
        path.mkdir()
    else:
        (folder / "precious").write_text("untouched")
        path.hardlink_to(folder / "precious")
    with pytest.raises(UnfitEnvironmentError, match=str(path)), device_lock(card, exclusive=True):
        pytest.fail("the lock was taken")
    if trap == "hard link":
        assert path.read_text() == "untouched"


def test_a_missing_folder_is_named(card: DeviceCard, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A wrong DCNAS_LOCK_DIR is an error with the remedy, not a lock that no one else sees."""
    monkeypatch.setenv("DCNAS_LOCK_DIR", str(folder / "absent"))
    with pytest.raises(UnfitEnvironmentError, match="DCNAS_LOCK_DIR"), device_lock(card, exclusive=True):
        pytest.fail("the lock was taken")


@pytest.mark.parametrize("text", ["", "no pid", "0x12 -5", "99999999999999999999", "\xff\xfe"])
def test_a_spoilt_file_still_locks(card: DeviceCard, holder: Holder, text: str) -> None:
    """What stands in the file is for the message alone; a holder that it does not name is unknown."""
    with device_lock(card, exclusive=True):
        lock_path(card).write_text(text)
        assert line_of(holder("shared")).endswith("(pid unknown)")
