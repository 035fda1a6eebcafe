"""One lock a device and machine: those who compute share it, those who time have the device to themselves."""

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.files import process_lives
from dcnas_schema.provenance import DeviceCard

FOLDER_VARIABLE = "DCNAS_LOCK_DIR"
_POLL_S = 0.2
_ANYONE = 0o666


@contextmanager
def device_lock(card: DeviceCard, *, exclusive: bool) -> Iterator[None]:
    """
    Hold the lock of the card's device while the block runs, waiting for it where need be and saying once whom for.

    Who times takes it exclusively, who computes shares it; the kernel frees it even when this process is killed. It is not
    fair: those who share it can keep one who times waiting.

    Raises:
        UnfitEnvironmentError: The lock file cannot be used.
    """
    path = lock_path(card)
    descriptor = _open(path)
    try:
        _wait(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, card)
        _sign(descriptor, alone=exclusive)
        yield
    finally:
        os.close(descriptor)


def lock_path(card: DeviceCard) -> Path:
    """
    Return the lock file of the card's device: in the machine's folder for temporary files, or in DCNAS_LOCK_DIR.

    It is named by what the device is to everyone here, not by its fingerprint: that holds what two processes may see differently (the
    instruction set, a driver that one of them cannot ask), and then they would not meet.
    """
    device = "cpu" if card.kind == "cpu" else card.uuid or card.name.replace(" ", "_").replace("/", "_")
    return Path(os.environ.get(FOLDER_VARIABLE) or tempfile.gettempdir()) / f"dcnas-{device}.lock"


def _open(path: Path) -> int:
    try:
        descriptor = _open_or_create(path)
    except OSError as error:
        symlink = error.errno == errno.ELOOP
        reason = "it is a symbolic link" if symlink else os.strerror(error.errno or 0).lower()
        raise _unusable(path, reason) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise _unusable(path, "it is no plain file with one name")
    return descriptor


def _open_or_create(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # the last: a FIFO must not make us wait
    while True:
        try:
            return os.open(path, flags)  # without O_CREAT, which Linux refuses for another user's file in /tmp
        except FileNotFoundError:
            pass
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, _ANYONE)
        except FileExistsError:
            continue
        os.fchmod(descriptor, _ANYONE)  # whatever the umask: other users of the machine time the same device
        return descriptor


def _unusable(path: Path, reason: str) -> UnfitEnvironmentError:
    return UnfitEnvironmentError(
        f"The device's lock file cannot be used: {reason}.",
        where=path,
        remedy=f"remove it, or set {FOLDER_VARIABLE} to a folder that all who use the device share",
    )


def _wait(descriptor: int, kind: int, card: DeviceCard) -> None:
    """Take the lock by asking again and again, so that signals are handled while it waits."""
    told = False
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                pids = ", ".join(map(str, _holders(descriptor))) or "unknown"
                print(f"waiting for {card.name}: in use by another process (pid {pids})", flush=True)
                told = True
            time.sleep(_POLL_S)
        else:
            return


def _sign(descriptor: int, *, alone: bool) -> None:
    """
    Write our process id, beside those of the others who share the lock.

    Two who sign at once may lose one id, and a full disk loses them all: they serve the message above and nothing else.
    """
    pids = [] if alone else [pid for pid in _holders(descriptor) if pid != os.getpid()]
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, "".join(f"{pid}\n" for pid in (*pids, os.getpid())).encode(), 0)


def _holders(descriptor: int) -> list[int]:
    words = os.pread(descriptor, 4096, 0).decode(errors="replace").split()
    return [int(word) for word in words if word.isdecimal() and word.isascii() and process_lives(int(word))]
