r"""
One measuring process: makes programs of what it is told to load, and times them when asked.

Run:    python -m dcnas_profile_latency.bound PARENT THREADS, PARENT being the pid of the process that starts it; ProcessRig does so
Takes:  requests as JSON lines on stdin (dcnas_profile_latency.messages), in an environment of dcnas_latency.timers.thread_environment
Expect: one answer a line on stdout; ends with its stdin or its parent
"""

import gc
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Iterable
from typing import TextIO

from dcnas_harness.errors import DcnasError, ExitCode
from dcnas_latency.canary import Canary, choose_canary
from dcnas_latency.card import cpu_card, device_card, device_state
from dcnas_latency.rig import RigSample
from dcnas_latency.timers import Program, Timer, page_faults, pin
from dcnas_profile_latency.messages import (
    REQUEST,
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
from dcnas_profile_latency.runtimes import RuntimePlugin, load_runtime
from dcnas_schema.provenance import DeviceCard

_FIRST_CALLS = 2
"""Of each program when it is loaded, at least: libraries choose kernels and allocate in the first, and settle in the second."""
_MOST_FIRST_CALLS = 10
"""Page faults end after six to nine, when what the allocator keeps fits; a program that faults none needs no more."""


class Worker:
    """A runtime with its timer, its canary and the programs loaded; made by the first request."""

    def __init__(self, hello: Hello) -> None:
        self.cores = pin(
            hello.setting.threads
        )  # `bound` did it already, before libraries made threads; here it is told
        self._hello = hello
        self.runtime: RuntimePlugin = load_runtime(hello.setting, hello.device_kind)
        self._timer: Timer = self.runtime.timer(cache=hello.setting.cache)
        self.canary: Canary = choose_canary(hello.device_kind, runtime=hello.setting.runtime)
        self._programs: list[Program] = []

    def answer(self, request: Request) -> Answer:
        """Do what is asked."""
        match request:
            case Hello():
                raise ValueError("a measuring process is told its setting once")
            case Load():
                return self._load(request)
            case Take():
                return Samples(samples=tuple(self._take(request)))
            case AskCard():
                return Card(card=self._card())
            case AskState():
                return State(state=device_state(self._hello.device_kind))
            case Bye():
                return Done()

    def _card(self) -> DeviceCard:
        cpu = self._hello.device_kind == "cpu"
        card = cpu_card(self._hello.setting.threads) if cpu else device_card("cuda")
        if self.runtime.name != "onnxruntime":
            return card
        return card.model_copy(update={"onnxruntime": importlib.metadata.version("onnxruntime")})

    def _load(self, request: Load) -> Done:
        self._programs = []
        gc.collect()
        self.runtime.release()
        for subject in request.subjects:
            with self.runtime.context():
                program = self.runtime.prepare(subject)
                _settle(program)
            self._programs.append(program)
        gc.collect()
        return Done()

    def _take(self, request: Take) -> Iterable[RigSample]:
        before = self.canary.sample()
        for index in request.order:
            program = self._programs[index]
            with self.runtime.context():
                for _ in range(request.warm_calls):
                    program.run()
                sample = self._timer.sample(program, marked=request.marked)
            after = self.canary.sample()
            yield RigSample(
                subject=index,
                build=self._hello.build,
                round=request.round,
                total_ms=sample.total_ms,
                part_ms=sample.part_ms,
                canary_ms=max(before, after),
                page_faults=sample.page_faults,
                run_delay_ms=sample.run_delay_ms,
                wall_ms=sample.wall_ms,
                enqueue_ms=sample.enqueue_ms,
                launches_hidden=sample.launches_hidden,
            )
            before = after


def _settle(program: Program) -> None:
    """Run `program` until a call faults in no page, within limits."""
    for call in range(_MOST_FIRST_CALLS):
        before = page_faults()
        program.run()
        if call + 1 >= _FIRST_CALLS and page_faults() == before:
            return


def serve(requests: Iterable[str], answers: TextIO) -> None:
    """Answer requests one after the other until there are no more, or `Bye`; an error is an answer too."""
    worker: Worker | None = None
    for line in requests:
        request = REQUEST.validate_json(line)
        answer: Answer
        try:
            if worker is None:
                assert isinstance(request, Hello), f"the first request is no hello: {line}"
                worker = Worker(request)
                answer = _welcome(worker)
            else:
                answer = worker.answer(request)
        except DcnasError as error:
            answer = Failed(error=type(error).__name__, message=str(error))
        except Exception as error:  # whatever it is, the parent raises it: this process has no one to tell
            answer = Failed(error=type(error).__name__, message=str(error), trace=traceback.format_exc())
        answers.write(as_line(answer))
        answers.flush()
        if isinstance(request, Bye):
            return


def _welcome(worker: Worker) -> Welcome:
    return Welcome(
        in_context=worker.runtime.in_context,
        clock=worker.runtime.clock,
        cores=worker.cores,
        canary_op=worker.canary.op,
    )


def _private_stdout() -> TextIO:
    """Return stdout as it was, and lead what libraries print there to stderr from now on."""
    private = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return private


def main() -> None:
    """Serve requests from stdin."""
    serve(sys.stdin, _private_stdout())
    sys.stderr.flush()
    os._exit(ExitCode.OK)  # taking torch down in order takes seconds, and there is nothing to save
