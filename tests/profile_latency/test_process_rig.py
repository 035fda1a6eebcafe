"""The rig of measuring processes: its samples, the environment it starts them in, and that none outlives it."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dcnas_harness.errors import BadInputError, DcnasError, UnfitEnvironmentError
from dcnas_latency.rig import Rig, Subject
from dcnas_profile_latency import process_rig
from dcnas_profile_latency.messages import (
    Answer,
    AskState,
    Done,
    Failed,
    Hello,
    Load,
    Request,
    Samples,
    State,
    Take,
    Welcome,
)
from dcnas_profile_latency.process_rig import ProcessRig
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.latency import LatencySetting
from dcnas_schema.provenance import DeviceState

Settings = Callable[..., LatencySetting]
Nets = Callable[..., Subject]
Start = Callable[..., subprocess.Popen[str]]

RIG = """
import sys, time
from dcnas_harness.process import run_main
from dcnas_profile_latency.process_rig import ProcessRig
from dcnas_schema.latency import LatencySetting

def main():
    setting = LatencySetting(
        runtime="onnxruntime", provider="CPUExecutionProvider", batch=1, precision="fp32", memory_format="contiguous",
        height=32, width=32, classes=10, threads=1,
    )
    with ProcessRig(setting, "cpu", builds=2, warm_calls=1) as rig:
        print("ready", flush=True)
        time.sleep(60)

run_main(main)
"""


def children(pid: int) -> list[int]:
    """Return the measuring processes that a process has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_text()
        except OSError:
            continue  # it ended meanwhile
        if int(parent) == pid and state != "Z" and "dcnas_profile_latency.bound" in command:
            found.append(int(stat.parent.name))
    return found


def gone(pids: Sequence[int], seconds: float) -> bool:
    """Return whether all processes end within a time."""
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture(scope="module")
def rig(setting: Settings) -> Iterator[ProcessRig]:
    """Two builds of torch, one untimed call before each timed one."""
    with ProcessRig(setting(batch=2), "cpu", builds=2, warm_calls=1) as rig:
        yield rig


@pytest.fixture(scope="module")
def onnx_rig(setting: Settings) -> Iterator[ProcessRig]:
    """One build of ONNX Runtime."""
    with ProcessRig(setting(runtime="onnxruntime"), "cpu", builds=1, warm_calls=1) as rig:
        yield rig


def test_marked_samples_tell_the_parts_of_a_net(
    rig: ProcessRig, whole_net: Nets, alone: Callable[..., Subject]
) -> None:
    """Each build gives a sample a subject in the order asked, with its parts' times, which make up the whole."""
    subjects = [whole_net("dc_nas"), *(alone(whole_net("c_nas").parts[part]) for part in (4, 7))]
    rig.load(subjects)
    assert (rig.in_context, rig.clock, rig.builds) == (True, "wall", 2)
    for build in (1, 0):
        for turn, order in enumerate([[2, 0, 1], [1, 1, 2]]):
            samples = rig.sample(build, round=turn, marked=True, order=order)
            assert [sample.subject for sample in samples] == order
            assert {(sample.build, sample.round) for sample in samples} == {(build, turn)}
            for sample in samples:
                assert len(sample.part_ms) == len(subjects[sample.subject].parts)
                assert sum(sample.part_ms) == pytest.approx(sample.total_ms, rel=0.25)
                assert all(ms > 0 for ms in (*sample.part_ms, sample.total_ms, sample.wall_ms, sample.canary_ms))
                assert sample.enqueue_ms is None


def test_plain_samples_have_no_parts(rig: ProcessRig, whole_net: Nets, alone: Callable[..., Subject]) -> None:
    """Without marks the whole is timed alone; what was loaded before is replaced; a net takes longer than one of its parts."""
    subjects = [alone(whole_net("c_nas").parts[4]), whole_net("c_nas")]
    rig.load(subjects)
    samples = [sample for turn in range(5) for sample in rig.sample(0, round=turn, marked=False, order=[0, 1])]
    assert all(sample.part_ms == () for sample in samples)
    least = [min(s.total_ms for s in samples if s.subject == subject) for subject in (0, 1)]
    assert least[1] > 1.5 * least[0]


def test_freed_memory_is_not_faulted_in_again(rig: ProcessRig, whole_net: Nets) -> None:
    """A process keeps what a pass frees: at a size whose maps glibc would give back each time, a pass faults in nothing."""
    subject = whole_net("c_nas", uniform_genotype("k3_e6", 6))
    rig.load([subject])
    faults = [rig.sample(1, round=turn, marked=False, order=[0])[0].page_faults for turn in range(5)]
    assert min(faults) == 0


@pytest.mark.parametrize("build", [0, 1])
def test_the_processes_start_as_timing_needs_it(rig: ProcessRig, build: int) -> None:
    """malloc's and OpenMP's variables are in their environment from the start, and they are bound to one core for one thread."""
    pid = sorted(children(os.getpid()))[build]
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert {"MALLOC_MMAP_MAX_=0", "OMP_NUM_THREADS=1"} <= set(environment)
    assert len(os.sched_getaffinity(pid)) == 1
    assert os.getsid(pid) == pid
    assert rig.builds == 2


def test_the_card_is_the_measuring_processes(onnx_rig: ProcessRig) -> None:
    """It shows the threads and malloc's settings under which the times were taken, not those of this process."""
    card = onnx_rig.card
    assert (card.kind, card.threads) == ("cpu", 1)
    assert card.allocator is not None
    assert card.allocator["MALLOC_MMAP_MAX_"] == "0"
    assert onnx_rig.state().load_average is not None
    assert "numpy" in onnx_rig.canary_op


def test_a_bug_in_a_process_is_raised_with_its_traceback(onnx_rig: ProcessRig, whole_net: Nets) -> None:
    """Marks that the runtime does not have are our fault; the error carries where, and the rig works on."""
    onnx_rig.load([whole_net("c_nas")])
    with pytest.raises(RuntimeError, match=r"(?s)in a measuring process: ValueError: .*cannot be marked.*_take"):
        onnx_rig.sample(0, round=0, marked=True, order=[0])
    (sample,) = onnx_rig.sample(0, round=0, marked=False, order=[0])
    assert sample.part_ms == ()


def test_a_setting_that_the_runtime_refuses_leaves_no_process(setting: Settings) -> None:
    """The error comes back as its own class, with its remedy, and both processes are gone."""
    before = children(os.getpid())
    with pytest.raises(BadInputError, match=r"(?s)precision bf16.*remedy: set precision: fp32"):
        ProcessRig(setting(runtime="onnxruntime", precision="bf16"), "cpu", builds=2, warm_calls=0)
    assert children(os.getpid()) == before


def test_a_killed_process_is_told_with_its_last_words(setting: Settings, whole_net: Nets) -> None:
    """A dead process is the machine's fault (exit 3), with the signal and its stderr; later calls say the same; the rig still closes."""
    others = children(os.getpid())
    with ProcessRig(setting(runtime="onnxruntime"), "cpu", builds=1, warm_calls=0) as rig:
        (pid,) = set(children(os.getpid())) - set(others)
        stderr = os.open(f"/proc/{pid}/fd/2", os.O_WRONLY | os.O_APPEND)
        os.write(stderr, "".join(f"line {number}\n" for number in range(20)).encode())
        os.close(stderr)
        os.kill(pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(
                UnfitEnvironmentError, match=r"(?s)build 0 was killed by signal 9.*: *\nline 12\n.*line 19\n.*remedy"
            ):
                rig.load([whole_net("c_nas")])
    assert children(os.getpid()) == others


def test_closing_ends_the_processes(setting: Settings) -> None:
    """After the block none is left; closing again does nothing."""
    before = children(os.getpid())
    with ProcessRig(setting(runtime="onnxruntime"), "cpu", builds=2, warm_calls=0) as rig:
        assert len(children(os.getpid())) == len(before) + 2
    assert children(os.getpid()) == before
    rig.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_command(start: Start, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and even SIGKILL of the command take its measuring processes along, though they are too busy to listen."""
    command = start("-c", RIG)
    assert command.stdout is not None
    assert command.stdout.readline() == "ready\n"
    pids = children(command.pid)
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    command.send_signal(number)
    command.communicate(timeout=10)
    assert gone(pids, 5)


class FakeWorker:
    """A process in this process: answers what it is given for each kind of request, and writes down what it does."""

    answers: dict[type[Request], Answer]
    log: list[str]

    def __init__(self, build: int, threads: int) -> None:
        self.build = build
        self.log.append(f"start {build} with {threads}")

    def ask(self, request: Request, kind: type[Done | Samples | State]) -> Answer:
        """Return the answer."""
        self.send(request)
        answer = self.receive()
        assert isinstance(answer, kind)
        return answer

    def send(self, request: Request) -> None:
        """Take a request."""
        self.request = request
        self.log.append(f"send {self.build}")

    def receive(self) -> Answer:
        """Return the answer."""
        self.log.append(f"receive {self.build}")
        return self.answers[type(self.request)]

    def end(self, grace_s: float) -> None:
        """End."""
        self.log.append(f"end {self.build} {'at once' if grace_s == 0 else ''}")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    """Measuring processes without processes."""
    FakeWorker.log = []
    FakeWorker.answers = {
        Hello: Welcome(in_context=False, clock="cuda_events", cores=(), canary_op="x"),
        Load: Done(),
        Take: Samples(samples=()),
    }
    monkeypatch.setattr(process_rig, "_Worker", FakeWorker)
    return FakeWorker


def test_builds_start_side_by_side_and_load_in_turn(fake: type[FakeWorker], setting: Settings) -> None:
    """All start before any is waited for; they load one after the other, because they are bound to the same cores."""
    rig: Rig = ProcessRig(setting(threads=4), "cuda", builds=2, warm_calls=0)
    assert (rig.in_context, rig.clock) == (False, "cuda_events")
    starting = ["start 0 with 4", "start 1 with 4", "send 0", "send 1", "receive 0", "receive 1"]
    assert fake.log == starting
    rig.load([])
    assert fake.log == [*starting, "send 0", "receive 0", "send 1", "receive 1"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DcnasError", DcnasError),
        ("BadInputError", BadInputError),
        ("MemoryError", MemoryError),
        ("ExitCode", RuntimeError),
        ("KeyError", RuntimeError),
    ],
)
def test_errors_keep_their_class(fake: type[FakeWorker], setting: Settings, name: str, kind: type[Exception]) -> None:
    """The project's own errors and missing memory come back as what they were, anything else as a bug; the processes end."""
    fake.answers[Hello] = Failed(error=name, message="what happened")
    with pytest.raises(kind, match="what happened") as caught:
        ProcessRig(setting(), "cuda", builds=1, warm_calls=0)
    assert type(caught.value) is kind
    assert fake.log[-1] == "end 0 at once"


@pytest.mark.parametrize(("listed", "others"), [(None, None), (2, 0), (3, 1), (1, None), (0, None)])
def test_our_own_processes_are_no_strangers(
    fake: type[FakeWorker], setting: Settings, listed: int | None, others: int | None
) -> None:
    """Two builds are two processes on the device; a list that lacks even them hides others too, and says nothing of their number."""
    seen = None if listed is None else max(listed - 1, 0)
    fake.answers[AskState] = State(state=DeviceState(compute_processes=listed, other_processes=seen))
    state = ProcessRig(setting(), "cuda", builds=2, warm_calls=0).state()
    assert state.other_processes == others
    assert ("other_processes" in state.absent) == (listed is not None and others is None)


@pytest.mark.parametrize(("error", "end"), [(None, "end 0 "), (KeyboardInterrupt(), "end 0 at once")])
def test_a_process_is_left_time_to_end_only_where_all_is_well(
    fake: type[FakeWorker], setting: Settings, error: BaseException | None, end: str
) -> None:
    """After Ctrl-C, in the middle of a long load, nobody waits."""
    rig = ProcessRig(setting(), "cuda", builds=1, warm_calls=0)
    rig.__exit__(type(error) if error else None, error, None)
    assert fake.log[-1] == end
