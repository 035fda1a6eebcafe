"""The measuring process: the order of what it does around a timed call, its answers to errors, its streams, and how it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO

import pytest

from dcnas_harness.errors import BadInputError
from dcnas_latency.canary import Canary
from dcnas_latency.rig import Subject
from dcnas_latency.timers import Cache, Program, Sample
from dcnas_profile_latency import worker
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
from dcnas_schema.latency import LatencySetting

Settings = Callable[..., LatencySetting]
Nets = Callable[..., Subject]
Python = Callable[..., subprocess.CompletedProcess[str]]

NOISY = """
import os, sys
import dcnas_profile_latency.worker as worker

def load_runtime(setting, device_kind):
    os.write(1, b"a library's own words\\\\n")
    print("a module's own words", flush=True)
    raise worker.DcnasError("nothing works")

worker.load_runtime = load_runtime
worker.main()
"""

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from dcnas_profile_latency.worker import main
main()
"""


@dataclass
class Machine:
    """A runtime, its timer and its canary, all of whose calls are written down."""

    log: list[str] = field(default_factory=list)
    canary_ms: list[float] = field(default_factory=list)
    pinned: int = 0

    name = "torch_eager"
    in_context = True
    clock = "wall"

    def prepare(self, subject: Subject) -> Program:
        """Make a program."""
        self.log.append("prepare")
        return Named(self, str(subject.kind))

    @contextmanager
    def context(self) -> Iterator[None]:
        """Surround runs."""
        self.log.append("(")
        yield
        self.log.append(")")

    def timer(self, *, cache: Cache) -> "Machine":
        """Time with this."""
        self.log.append(cache)
        return self

    def release(self) -> None:
        """Forget."""
        self.log.append("release")

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """Time a program."""
        assert isinstance(program, Named)
        self.log.append(f"time {program.name}{' marked' if marked else ''}")
        return Sample(total_ms=2.0, part_ms=(0.5, 1.5) if marked else (), wall_ms=2.5, page_faults=3, run_delay_ms=0.25)

    def run(self) -> None:
        """Run the canary, untimed."""


@dataclass
class Named:
    """A program."""

    machine: Machine
    name: str

    def run(self) -> None:
        """Run."""
        self.machine.log.append(self.name)


@dataclass
class FakeCanary:
    """The canary, with given times."""

    machine: Machine
    op: str = "a product"

    def sample(self) -> float:
        """Return the next time."""
        self.machine.log.append("canary")
        return self.machine.canary_ms.pop(0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine in the place of the real one."""
    machine = Machine()

    def pin(threads: int) -> tuple[int, ...]:
        machine.pinned = threads
        return (5,)

    def canary(_device: str, *, runtime: str) -> Canary:
        assert runtime == "torch_eager"
        return FakeCanary(machine)  # type: ignore[return-value] # has all that the worker uses of it

    monkeypatch.setattr(worker, "pin", pin)
    monkeypatch.setattr(worker, "load_runtime", lambda *_arguments: machine)
    monkeypatch.setattr(worker, "choose_canary", canary)
    monkeypatch.setattr(worker.gc, "collect", lambda: machine.log.append("collect"))
    return machine


@pytest.fixture
def hello(setting: Settings) -> Hello:
    """The first request, of build 7."""
    return Hello(build=7, setting=setting(threads=3), device_kind="cpu")


def answers(*requests: Request) -> list[Answer]:
    """Return what a process answers."""
    out = StringIO()
    worker.serve(map(as_line, requests), out)
    return [ANSWER.validate_json(line) for line in out.getvalue().splitlines()]


def talk(script: str, *lines: str) -> tuple[int, list[str], str]:
    """Run a script of a measuring process, this process being its parent; return exit code, lines of stdout, and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(os.getpid())],
        input="".join(lines),
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_it_is_bound_and_greets(machine: Machine, hello: Hello) -> None:
    """It binds itself to as many cores as the setting has threads and says how it times."""
    assert answers(hello) == [Welcome(in_context=True, clock="wall", cores=(5,), canary_op="a product")]
    assert machine.pinned == 3
    assert machine.log == ["warm"]


def test_a_program_runs_until_it_faults_in_no_page(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, hello: Hello, whole_net: Nets
) -> None:
    """Page faults of first calls do not reach the timed ones: seven calls where the seventh is the first without, ten at most."""
    faulting = iter([1] * 6 + [0] + [1] * 99)
    total = 0

    def page_faults() -> int:
        return total

    def run(self: Named) -> None:
        nonlocal total
        total += next(faulting)
        self.machine.log.append(self.name)

    monkeypatch.setattr(worker, "page_faults", page_faults)
    monkeypatch.setattr(Named, "run", run)
    assert answers(hello, Load(subjects=(whole_net("c_nas"), whole_net("d_nas"))))[1:] == [Done()]
    assert (machine.log.count("c_nas"), machine.log.count("d_nas")) == (7, 10)


def test_loading_replaces_and_runs_each_program_twice(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, hello: Hello, whole_net: Nets
) -> None:
    """What was loaded before is let go first; first runs, in which libraries choose and allocate, are over before anything is timed."""
    monkeypatch.setattr(worker, "page_faults", lambda: 0)
    first, second = Load(subjects=(whole_net("c_nas"), whole_net("d_nas"))), Load(subjects=(whole_net("dc_nas"),))
    assert answers(hello, first)[1:] == [Done()]
    loading = ["(", "prepare", "c_nas", "c_nas", ")", "(", "prepare", "d_nas", "d_nas", ")"]
    assert machine.log == ["warm", "collect", "release", *loading, "collect"]
    machine.canary_ms = [1.0] * 3
    *_, samples, failed = answers(
        hello,
        first,
        second,
        Take(round=0, marked=False, order=(0,), warm_calls=0),
        Take(round=0, marked=False, order=(1,), warm_calls=0),
    )
    assert isinstance(samples, Samples)
    assert machine.log[-5:] == ["(", "time dc_nas", ")", "canary", "canary"]
    assert isinstance(failed, Failed)
    assert failed.error == "IndexError"


@pytest.mark.parametrize("marked", [True, False])
def test_a_sample_stands_between_canaries(machine: Machine, hello: Hello, whole_net: Nets, marked: bool) -> None:
    """Canary, untimed calls of the same net, timed call, canary, in the order asked; a sample has the slower of its two canaries."""
    load = Load(subjects=(whole_net("c_nas"), whole_net("d_nas")))
    answers(hello, load)
    machine.log.clear()
    machine.canary_ms = [1.0, 5.0, 2.0]
    taken = answers(hello, load, Take(round=4, marked=marked, order=(1, 0), warm_calls=3))[-1]
    word = " marked" if marked else ""
    assert machine.log[machine.log.index("canary") :] == [
        *("canary", "(", "d_nas", "d_nas", "d_nas", f"time d_nas{word}", ")"),
        *("canary", "(", "c_nas", "c_nas", "c_nas", f"time c_nas{word}", ")", "canary"),
    ]
    assert isinstance(taken, Samples)
    assert [(s.subject, s.build, s.round, s.canary_ms) for s in taken.samples] == [(1, 7, 4, 5.0), (0, 7, 4, 5.0)]
    assert {s.part_ms for s in taken.samples} == {(0.5, 1.5) if marked else ()}
    assert {(s.total_ms, s.wall_ms, s.page_faults, s.run_delay_ms, s.enqueue_ms) for s in taken.samples} == {
        (2.0, 2.5, 3, 0.25, None)
    }


def test_the_slower_canary_may_be_the_later_one(machine: Machine, hello: Hello, whole_net: Nets) -> None:
    """Each sample has its own neighbours."""
    machine.canary_ms = [1.0, 2.0, 3.0]
    load = Load(subjects=(whole_net("c_nas"),))
    taken = answers(hello, load, Take(round=0, marked=False, order=(0, 0), warm_calls=0))[-1]
    assert isinstance(taken, Samples)
    assert [sample.canary_ms for sample in taken.samples] == [2.0, 3.0]


def test_an_error_is_an_answer(machine: Machine, monkeypatch: pytest.MonkeyPatch, hello: Hello) -> None:
    """Its class and whole message come back, a bug's traceback too, and the process goes on."""
    one = Load(subjects=(Subject(kind=None, parts=(), genotype=None),))

    def refuse(_subject: Subject) -> Program:
        raise BadInputError("too wide", where="params.yaml", remedy="make it narrower")

    def fail(_subject: Subject) -> Program:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(machine, "prepare", refuse)
    _, refused = answers(hello, one)
    assert refused == Failed(
        error="BadInputError", message="too wide\n  where:  params.yaml\n  remedy: make it narrower"
    )
    monkeypatch.setattr(machine, "prepare", fail)
    _, failed, state = answers(hello, one, AskState())
    assert isinstance(failed, Failed)
    assert (failed.error, failed.message) == ("ZeroDivisionError", "by nothing")
    assert "in fail" in failed.trace
    assert isinstance(state, State)
    assert state.state.load_average is not None


@pytest.mark.usefixtures("machine")
def test_nothing_is_answered_after_the_end(hello: Hello) -> None:
    """Bye is the last request."""
    assert answers(hello, Bye(), AskState())[1:] == [Done()]


def test_libraries_may_write_to_stdout(setting: Settings) -> None:
    """What they print goes to stderr; stdout holds answers alone, and the process ends with its stdin."""
    code, out, err = talk(NOISY, as_line(Hello(build=0, setting=setting(), device_kind="cpu")))
    assert code == 0
    assert [ANSWER.validate_json(line) for line in out] == [Failed(error="DcnasError", message="nothing works")]
    assert "a library's own words" in err
    assert "a module's own words" in err


def test_an_edge_box_needs_no_torch(setting: Settings, whole_net: Nets) -> None:
    """Where torch cannot be imported ONNX Runtime's nets are made and timed all the same, and the card says that torch is missing."""
    hello = Hello(build=0, setting=setting(runtime="onnxruntime"), device_kind="cpu")
    requests: list[Request] = [
        hello,
        Load(subjects=(whole_net("dc_nas"),)),
        Take(round=0, marked=False, order=(0,), warm_calls=1),
        AskCard(),
    ]
    code, out, err = talk(WITHOUT_TORCH, *map(as_line, requests))
    assert code == 0, err
    welcome, _, taken, card = (ANSWER.validate_json(line) for line in out)
    assert isinstance(welcome, Welcome), welcome
    assert (welcome.in_context, welcome.clock) == (False, "wall")
    assert isinstance(taken, Samples), taken
    assert taken.samples[0].total_ms > 0
    assert isinstance(card, Card), card
    assert (card.card.torch, card.card.threads) == ("not installed", 1)


def test_it_ends_at_once_where_its_parent_is_gone(python: Python) -> None:
    """A parent that died while the process was starting is noticed: the pid that it was given is not its parent's."""
    assert python("-m", "dcnas_profile_latency.bound", 1, 1).returncode == -signal.SIGKILL


def test_a_process_is_bound_before_libraries_start_their_threads(python: Python) -> None:
    """What binds it imports neither NumPy nor Arrow nor torch: a thread that runs already stays where it is."""
    code = "import sys, dcnas_profile_latency.bound; print(sorted({'numpy', 'pyarrow', 'torch', 'scipy'} & set(sys.modules)))"
    assert python("-c", code).stdout.strip() == "[]"
