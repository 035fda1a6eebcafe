"""The processes under a flow: each in a group of its own, and all of them gone when the flow ends, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread, Timer
from types import FrameType
from typing import NoReturn, TypeVar

from dcnas_harness.errors import ExitCode

T = TypeVar("T")

_GRACE_S = 3.0
"""From asking a group to stop (SIGINT) to killing it: dvc needs a moment to release its locks."""
_REPORT_S = 3.0
"""For the work to notice that its processes are gone and to report it."""
_END_S = 8.0
"""From the signal to the end of this process at the latest: Prefect's exit hooks alone would wait for minutes when its server is gone."""


class ProcessGroups:
    """The process groups of the commands that run now. Threads add theirs; the main thread stops them all."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: set[int] = set()
        self._stopping = False

    @contextmanager
    def command(
        self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[str]]:
        """
        Run a command in `folder`; its stdout and stderr come as one stream of lines, its `returncode` is set after the block.

        The command has a session of its own, so that Ctrl-C in the terminal reaches it through `stop` alone, and it dies with the
        thread that started it. What it leaves behind in its group is killed when it ends; the stream ends then too.

        Raises:
            KeyboardInterrupt: The groups have been stopped.
        """
        process = self._start(arguments, folder, environment)
        reaper = Thread(target=_kill_what_is_left, args=(process,), daemon=True)
        reaper.start()
        try:
            yield process
        except BaseException:
            _signal_group(process.pid, signal.SIGINT)
            reaper.join(_GRACE_S)
            _signal_group(process.pid, signal.SIGKILL)
            raise
        finally:
            reaper.join()
            with self._lock:
                self._running.discard(process.pid)  # before the kernel may give the number to another process
            if process.stdout is not None:
                process.stdout.close()
            process.wait()
        if self._stopping:
            raise KeyboardInterrupt

    def require_going(self) -> None:
        """
        Return at once unless the groups have been stopped.

        Raises:
            KeyboardInterrupt: They have.
        """
        if self._stopping:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Interrupt every group, kill what still runs after 3 s, and let no new command start."""
        with self._lock:
            self._stopping = True
            self._signal_all(signal.SIGINT)
        end = time.monotonic() + _GRACE_S
        while self._running and time.monotonic() < end:
            time.sleep(0.05)
        with self._lock:
            self._signal_all(signal.SIGKILL)

    def _start(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._stopping:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dcnas_flows.child", str(os.getpid()), *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process.pid)
            return process

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._running:
            _signal_group(pid, number)


RUNNING = ProcessGroups()
"""The groups of this process. One for all, because signals come to the process and not to a flow."""


def supervised(work: Callable[[], T], *, own_sigterm: bool = True) -> T:
    """
    Return `work()`, done in a thread, while the main thread waits for signals.

    On SIGINT and SIGTERM the main thread stops all process groups, gives the work a moment to report, and raises KeyboardInterrupt
    or SystemExit(143). The process then ends within 8 s, whatever its threads and exit hooks wait for. Main thread only.

    Args:
        own_sigterm: False where SIGTERM has a handler already that raises an exception of its own, as in Prefect's engine.
    """
    before = signal.signal(signal.SIGTERM, _raise_terminated) if own_sigterm else signal.getsignal(signal.SIGTERM)
    executor = ThreadPoolExecutor(1, thread_name_prefix="flow")
    future = executor.submit(work)
    try:
        return future.result()
    except Exception:  # the work's own
        raise
    except BaseException as reason:
        interrupted = isinstance(reason, KeyboardInterrupt)
        _end_in_time(ExitCode.INTERRUPTED if interrupted else ExitCode.TERMINATED)
        RUNNING.stop()
        wait([future], timeout=_REPORT_S)
        raise
    finally:
        executor.shutdown(wait=False)
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(ExitCode.TERMINATED)


def _end_in_time(code: ExitCode) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end is bounded; a second signal must not interrupt it
    deadline = Timer(_END_S, _end_now, args=(code,))
    deadline.daemon = True
    deadline.start()


def _end_now(code: ExitCode) -> NoReturn:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process ended meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                os.kill(int(stat.parent.name), signal.SIGKILL)
    os._exit(code)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _kill_what_is_left(process: "subprocess.Popen[str]") -> None:
    if hasattr(os, "waitid"):
        os.waitid(
            os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
        )  # leaves it a zombie, which keeps the group's number taken
    else:  # macOS before Python 3.13
        process.wait()
    _signal_group(process.pid, signal.SIGKILL)
