"""The life of a pipeline-stage process: exit codes, signals, death with its parent, one run at a time per output."""

import ctypes
import fcntl
import hashlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dcnas_harness.errors import DcnasError, ExitCode, UnfitEnvironmentError
from dcnas_harness.files import disk_errors_explained

_PR_SET_PDEATHSIG = 1
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory")
"""Torch reports missing memory as a RuntimeError in these words."""
SPINS = "300000"
"""GOMP_SPINCOUNT of every process that times."""
_KEPT = "what was complete is kept; run the same command again to go on"


def run_stage(main: Callable[[], None]) -> NoReturn:
    """
    Run `main` as the body of a pipeline stage, as `run_main` does, and end the process at once.

    The interpreter's own end takes torch apart, module by module, for more than a second (measured); nothing of ours waits for that end.
    """
    try:
        run_main(main)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def run_main(main: Callable[[], None]) -> NoReturn:
    """
    Run `main` as the body of a command and exit: 0, or the code of the error's class with one clear message on stderr.

    Ctrl-C exits 130 and SIGTERM 143; what was complete stays, and the same command run again goes on from there.
    """
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        main()
    except DcnasError as error:
        _fail(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _fail(f"interrupted: {_KEPT}", ExitCode.INTERRUPTED)
    except SystemExit as end:
        if end.code == ExitCode.TERMINATED:
            _fail(f"terminated: {_KEPT}", ExitCode.TERMINATED)
        if end.code == ExitCode.INTERRUPTED:  # typer turns Ctrl-C into this
            _fail(f"interrupted: {_KEPT}", ExitCode.INTERRUPTED)
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            remedy = "use a smaller batch size or close other programs"
            _fail(f"error: out of memory: {error}\n  remedy: {remedy}", ExitCode.UNFIT_ENVIRONMENT)
        traceback.print_exc()
        _fail("this is a bug of dcnas: please report it with the lines above", ExitCode.BUG)
    sys.stdout.flush()
    sys.exit(ExitCode.OK)


def die_with_parent(parent: int | None = None) -> None:
    """
    Ask the kernel to kill this process when its parent dies, so that a killed `dvc` or flow leaves no orphan behind.

    Linux only. The kernel counts the end of the thread that started this process as the parent's death.

    Args:
        parent: Pid of the process that started this one as its helper. `None` for a pipeline stage, which asks only under DVC (which
            sets DVC_STAGE for its commands): started by hand it may outlive its shell.
    """
    if sys.platform != "linux" or (parent is None and "DVC_STAGE" not in os.environ):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _orphaned(parent):  # the parent died before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def let_idle_threads_spin_briefly() -> None:
    """
    Have OpenMP's idle threads spin some 10 us before they sleep: for training, which may share its cores. Call it before torch is imported.

    Most ops of a step follow each other faster than that. Alone on two cores steps are as fast as with libgomp's default, of which sleeping
    at once takes 1.2 to 1.3 times; beside a busy neighbour they take 1.0 to 1.2 times as long as with sleeping, the default up to 2.3 times
    (LOG.md). What a user has set stays.
    """
    if sys.platform != "linux":
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    elif "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def let_idle_threads_spin() -> None:
    """
    Have OpenMP's idle threads spin some 3 ms before they sleep, whatever was inherited: for timing. Call it before torch is imported.

    That is libgomp's default (torch's wheels); all latencies are of this setting.
    """
    os.environ.pop("OMP_WAIT_POLICY", None)
    os.environ["GOMP_SPINCOUNT"] = SPINS


@contextmanager
def exclusive_run(output: Path, scratch: Path) -> Iterator[None]:
    """
    Hold the kernel's lock for `output` while the block runs; the kernel frees it even when this process is killed.

    Args:
        output: The file or folder that the block writes.

        scratch: Folder for lock files; never a pipeline output.

    Raises:
        UnfitEnvironmentError: Another process is making the same output.
    """
    whole = output.resolve()
    name = f"{whole.name[:60]}-{hashlib.sha256(str(whole).encode()).hexdigest()[:16]}.lock"
    path = scratch / "locks" / name
    with disk_errors_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UnfitEnvironmentError(
                f"{output} is being made by another process (pid {file.read().strip() or 'unknown'}).",
                remedy="wait for it to end, or stop it, then run the same command again",
            ) from error
        with disk_errors_explained(path):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def _orphaned(parent: int | None) -> bool:
    if parent is not None:
        return os.getppid() != parent
    return os.getppid() == 1 and os.getsid(0) != os.getsid(1)  # in a container process 1 may be dvc itself


def _raise_terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(ExitCode.TERMINATED)


def _fail(message: str, code: ExitCode) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)
