"""The rig of real devices: one measuring process a build, so that what a process happens to get (memory layout, threads) shows."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

from dcnas_harness import errors
from dcnas_harness.errors import DcnasError, UnfitEnvironmentError
from dcnas_latency.rig import RigSample, Subject
from dcnas_latency.timers import thread_environment
from dcnas_profile_latency.messages import (
    ANSWER,
    Answer,
    AskCard,
    AskState,
    Bye,
    Card,
    Done,
    Failed,
    Hello,
    Load,
    Request,
    Samples,
    State,
    Take,
    Welcome,
    as_line,
)
from dcnas_profile_latency.runtimes import DeviceKind
from dcnas_schema.latency import Clock, LatencySetting
from dcnas_schema.provenance import DeviceCard, DeviceState

A = TypeVar("A", Welcome, Done, Samples, Card, State)

_GRACE_S = 5.0
"""For a process that is told to end."""
_LAST_LINES = 8


class ProcessRig:
    """
    A device measured by `builds` processes, each started in the environment that timing needs, bound to its cores, and loaded anew.

    One process works at a time, but for loading. They end with the rig, with this process, and with the thread that made the rig.

    Args:
        setting: How the nets run; what is `auto` in the parameters is decided already.

        builds: Processes.

        warm_calls: Untimed calls of a subject right before each timed one.

    Raises:
        BadInputError: The runtime cannot do what the setting says.

        UnfitEnvironmentError: The runtime or the device is missing, or a process ended; any method may raise the latter.
    """

    in_context: bool
    clock: Clock

    def __init__(
        self,
        setting: LatencySetting,
        device_kind: DeviceKind,
        *,
        builds: int,
        warm_calls: int,
    ) -> None:
        self.builds, self._warm_calls = builds, warm_calls
        self._card: DeviceCard | None = None
        self._workers: list[_Worker] = []
        try:
            for build in range(builds):
                self._workers.append(_Worker(build, setting.threads))
            for build, worker in enumerate(self._workers):
                worker.send(Hello(build=build, setting=setting, device_kind=device_kind))
            welcome = self._receive_all(Welcome)[0]
        except BaseException:
            self._end(grace_s=0)
            raise
        self.in_context, self.clock = welcome.in_context, welcome.clock
        self.canary_op = welcome.canary_op
        """What the canary times, for `CanaryStore`."""
        self.cores = welcome.cores
        """That each process is bound to; empty where the system does not bind."""

    @property
    def card(self) -> DeviceCard:
        """The device as the measuring processes see it."""
        if self._card is None:
            self._card = self.card_now()
        return self._card

    def card_now(self) -> DeviceCard:
        """Return the device as it is now: a power cap or MIG may have been set while it was timed."""
        return self._workers[0].ask(AskCard(), Card).card

    def load(self, subjects: Sequence[Subject]) -> None:
        """Make `subjects` ready in every build, in the place of those loaded before; one build after the other, as they share cores."""
        request = Load(subjects=tuple(subjects))
        for worker in self._workers:
            worker.ask(request, Done)

    def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
        """Time each subject of `order` once in one build; `marked` asks for the parts' times too."""
        request = Take(round=round, marked=marked, order=tuple(order), warm_calls=self._warm_calls)
        return list(self._workers[build].ask(request, Samples).samples)

    def state(self) -> DeviceState:
        """Return the device as it is now; ours on it do not count as others, and where even ours are hidden none is told."""
        state = self._workers[0].ask(AskState(), State).state
        if state.compute_processes is None or state.other_processes is None:
            return state
        others = state.compute_processes - self.builds
        if others >= 0:
            return state.model_copy(update={"other_processes": others})
        hidden = f"NVML lists {state.compute_processes} processes, fewer than our own {self.builds}: it hides some here"
        return state.model_copy(update={"other_processes": None, "absent": {**state.absent, "other_processes": hidden}})

    def close(self) -> None:
        """End the processes; a second call does nothing."""
        self._end(grace_s=_GRACE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(grace_s=_GRACE_S if error is None else 0)

    def _receive_all(self, kind: type[A]) -> list[A]:
        return [_expect(worker.receive(), kind) for worker in self._workers]

    def _end(self, *, grace_s: float) -> None:
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.end(grace_s)


class _Worker:
    """One measuring process, with the file that its stderr goes to."""

    def __init__(self, build: int, threads: int) -> None:
        self._build = build
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 # closed in `end`; a pipe that nobody reads would fill up
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dcnas_profile_latency.bound", str(os.getpid()), str(threads)],
            env={**os.environ, **thread_environment(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C in the terminal is the rig's to handle
        )

    def ask(self, request: Request, kind: type[A]) -> A:
        self.send(request)
        return _expect(self.receive(), kind)

    def send(self, request: Request) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(as_line(request))
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def receive(self) -> Answer:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._ended()
        return ANSWER.validate_json(line)

    def end(self, grace_s: float) -> None:
        """Let the process end by itself for a while, then kill it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # it has ended already
            self._process.stdin.write(as_line(Bye()))
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()

    def _ended(self) -> UnfitEnvironmentError:
        self._process.kill()  # where it closed its stdout and lives on
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        self._stderr.seek(0)
        last = self._stderr.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        return UnfitEnvironmentError(
            "\n".join([f"The measuring process of build {self._build} {how}. Its last lines:", *(last or ["(none)"])]),
            remedy="if memory ran out, take a smaller batch or image, or close other programs; then run the same command again",
        )


def _expect(answer: Answer, kind: type[A]) -> A:
    """Return an answer of the kind that was asked for, or raise what the measuring process raised."""
    if isinstance(answer, Failed):
        own = getattr(errors, answer.error, None)
        if isinstance(own, type) and issubclass(own, DcnasError):
            raise own(answer.message)
        if answer.error == MemoryError.__name__:
            raise MemoryError(answer.message)
        raise RuntimeError(f"in a measuring process: {answer.error}: {answer.message}\n{answer.trace}")
    assert isinstance(answer, kind), f"{answer} does not answer what was asked"
    return answer
