"""Timers: each runs a whole net once and gives one raw sample; what a sample may be used for is decided elsewhere."""

import gc
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_harness.process import SPINS
from dcnas_latency.cuda import Cuda

Cache = Literal["warm", "cold"]

_TASKS = Path("/proc/self/task")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_LEAD_OVER_ENQUEUE = 2.0
_LEAD_TRIES = 4
_LEAST_LEAD_MS, _MOST_LEAD_MS = 0.2, 250.0
_PAPER_WARMUP, _PAPER_CALLS = 100, 1000
"""arXiv:2409.08943, section 4: 100 warm-up passes, mean of 1000."""


@runtime_checkable
class Program(Protocol):
    """A whole net with its input, ready to run."""

    def run(self) -> object:
        """Run one forward pass of a whole batch; on CUDA it may return before the device is done."""


@runtime_checkable
class MarkedProgram(Program, Protocol):
    """A program whose runtime lets its parts be marked."""

    def run_marked(self, mark: Callable[[], None]) -> object:
        """Run as `run` does, calling `mark` after each part, the last one included."""


class CapturedProgram:
    """A program captured as one CUDA graph: a run is a replay, without the cost of its launches; parts cannot be marked."""

    def __init__(self, program: Program, cuda: Cuda) -> None:
        self._replay = cuda.capture(program.run)

    def run(self) -> None:
        """Replay the graph; returns before the device is done."""
        self._replay()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One timed run of a whole net; all times in ms."""

    total_ms: float
    """By the timer's own clock: what the run cost."""
    part_ms: tuple[float, ...] = ()
    """Between the start, each mark and the next; empty where none were set. What follows the last mark is in `total_ms` alone."""
    enqueue_ms: float | None = None
    """Time until the call returned, the device still at work; `None` where nothing is queued."""
    wall_ms: float
    """Time on the host's clock until the result was there."""
    cpu_ms: float | None = None
    """Processor time of all threads of this process."""
    main_cpu_ms: float | None = None
    """Of it, that of the calling thread."""
    page_faults: int = 0
    """Minor and major ones."""
    run_delay_ms: float | None = None
    """Time that our threads were ready but waited for a processor, summed; `None` where the system does not tell."""
    launches_hidden: bool | None = None
    """The whole run was queued before the device began it, so that no gap between launches is in its time; `None` off CUDA."""


class Timer(Protocol):
    """What runs a program once and says how long it took."""

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """
        Time one run; `marked` asks for the parts' times too.

        Raises:
            ValueError: Marks are asked of a timer or a program that has none.
        """


class CpuTimer:
    """Wall time of a run whose call returns when it is done, with what else the system knows of it."""

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """Time one run; marks are moments of the same clock."""
        moments: list[int] = []
        clock = time.perf_counter_ns

        def mark() -> None:
            moments.append(clock())

        run = _marked_run(program, mark) if marked else program.run
        with _no_collection(), _Host() as host:
            began = clock()
            run()
            ended = clock()
        total = (ended - began) / 1e6
        parts = tuple((end - start) / 1e6 for start, end in pairwise([began, *moments]))
        return Sample(total_ms=total, wall_ms=total, part_ms=parts, **host.spent())


class WallTimer:
    """Wall time of a call, the device synchronised before and after; `cuda` is `None` on a CPU."""

    def __init__(self, cuda: Cuda | None = None, *, cache: Cache = "warm") -> None:
        if cuda is None and cache == "cold":
            raise ValueError("a CPU is timed with a warm cache only")
        self._cuda, self._cache = cuda, cache

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """Time one run; waiting for the device at every part would make it another program, so there are no marks."""
        if marked:
            raise ValueError("wall time of a synchronised call has no marks; use CudaEventTimer")
        cuda, clock = self._cuda, time.perf_counter_ns
        if cuda is None:
            return CpuTimer().sample(program)
        if self._cache == "cold":
            cuda.flush()
        cuda.synchronize()
        with _no_collection(), _Host() as host:
            began = clock()
            program.run()
            queued = clock()
            cuda.synchronize()
            ended = clock()
        wall = (ended - began) / 1e6
        return Sample(total_ms=wall, wall_ms=wall, enqueue_ms=(queued - began) / 1e6, **host.spent())


class CudaEventTimer:
    """
    Device time between CUDA events, with wall and enqueue time of a plain run right before.

    Events also count the time in which the device waits for the host's next launch. So the device first idles in its queue until the
    whole run stands behind it; where it began too early the run is repeated with a longer lead, and `launches_hidden` says how it ended.

    Args:
        cuda: The device.

        cache: `cold` writes over the L2 cache before each run; `warm` leaves what the run before left.
    """

    def __init__(self, cuda: Cuda, *, cache: Cache = "warm") -> None:
        self._cuda, self._cache = cuda, cache
        self._plain = WallTimer(cuda, cache=cache)
        self._events: list[Any] = []

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """Time a plain run by the wall clock, then one by events; processor time and page faults are the plain run's."""
        plain = self._plain.sample(program)
        lead = min(max((plain.enqueue_ms or 0.0) * _LEAD_OVER_ENQUEUE, _LEAST_LEAD_MS), _MOST_LEAD_MS)
        for _ in range(_LEAD_TRIES):
            spans, hidden = self._queued_run(program, marked=marked, lead_ms=lead)
            if hidden:
                break
            lead *= 2
        return Sample(
            total_ms=spans[-1],
            part_ms=_differences(spans[:-1]),
            wall_ms=plain.wall_ms,
            enqueue_ms=plain.enqueue_ms,
            cpu_ms=plain.cpu_ms,
            main_cpu_ms=plain.main_cpu_ms,
            page_faults=plain.page_faults,
            run_delay_ms=plain.run_delay_ms,
            launches_hidden=hidden,
        )

    def _queued_run(self, program: Program, *, marked: bool, lead_ms: float) -> tuple[list[float], bool]:
        cuda, used = self._cuda, 0

        def mark() -> None:
            nonlocal used
            if used == len(self._events):
                self._events.append(cuda.event())
            cuda.record(self._events[used])
            used += 1

        run = _marked_run(program, mark) if marked else program.run
        if self._cache == "cold":
            cuda.flush()
        cuda.synchronize()
        with _no_collection():
            cuda.sleep(lead_ms)
            mark()
            run()
            mark()
            hidden = not self._events[0].query()
        cuda.synchronize()
        start, *later = self._events[:used]
        return [float(start.elapsed_time(event)) for event in later], hidden


class UnsynchronisedTimer:
    """
    The paper's figure, for like-for-like comparison only: mean wall time of back-to-back calls, the device never waited for
    (`CallPlan.unsynchronised`, in params.yaml `latency.unsynchronised` of the stages that evaluate).

    On CUDA it is the time to queue a pass, or, once the queue is full, the time between two passes; not the latency of one.
    """

    def __init__(self, cuda: Cuda | None = None, *, warmup: int = _PAPER_WARMUP, calls: int = _PAPER_CALLS) -> None:
        self._cuda, self._warmup, self._calls = cuda, warmup, calls

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """Run the warm-up and the calls; every field is the mean of a call, page faults are those of all."""
        if marked:
            raise ValueError("an unsynchronised mean has no marks; use CudaEventTimer")
        for _ in range(self._warmup):
            program.run()
        with _no_collection(), _Host() as host:
            began = time.perf_counter_ns()
            for _ in range(self._calls):
                program.run()
            ended = time.perf_counter_ns()
        if self._cuda is not None:
            self._cuda.synchronize()  # what is still queued must not fall into the next sample
        mean = (ended - began) / 1e6 / self._calls
        return Sample(total_ms=mean, wall_ms=mean, **host.spent(calls=self._calls))


def choose_timer(device: object, *, cache: Cache = "warm") -> Timer:
    """
    Return the timer for latency on `device`, a `torch.device` or its text (`cpu`, `cuda`, `cuda:1`).

    Raises:
        BadInputError: A cold cache is asked of a CPU.

        UnfitEnvironmentError: There is no such device.
    """
    kind, _, index = str(device).partition(":")
    if kind == "cuda":
        return CudaEventTimer(Cuda(int(index or 0)), cache=cache)
    if cache == "cold":
        raise BadInputError(
            "latency with a cold cache is asked for, but on a CPU only a warm one is measured.",
            remedy="set cache: warm",
        )
    return CpuTimer()


def thread_environment(threads: int) -> dict[str, str]:
    """
    Return the environment variables that a process which times on a CPU must start with; once it runs they are read no more.

    glibc's malloc keeps freed memory instead of giving it back and faulting it in anew at every layer; it takes about ten runs until
    what it keeps fits and page faults end. Idle OpenMP threads spin for about 3 ms before they sleep, so that none has to be woken
    between two layers and none burns a core between two samples; that is libgomp's default (torch's wheels), said here because
    libiomp's is 200 ms and an inherited OMP_WAIT_POLICY would change both.
    """
    count = str(threads)
    return {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(16 * 1024**3),
        "MALLOC_TOP_PAD_": str(64 * 1024**2),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "GOMP_SPINCOUNT": SPINS,
        "KMP_BLOCKTIME": "3",
    }


def pin(threads: int) -> tuple[int, ...]:
    """
    Bind this thread, and all that it starts from now on, to the first `threads` allowed cores; return them.

    One logical core of each physical one where there are enough; empty where the system cannot bind. Call it before any thread pool
    exists: threads that run already stay where they are.

    Raises:
        UnfitEnvironmentError: Fewer cores are allowed than threads asked for.
    """
    if not hasattr(os, "sched_setaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    if threads > len(allowed):
        raise UnfitEnvironmentError(
            f"{threads} threads are asked for, but this process may use {len(allowed)} cores.",
            remedy=f"set threads to at most {len(allowed)}, or allow the process more cores",
        )
    physical = {_siblings(core): core for core in reversed(allowed)}
    firsts = sorted(physical.values())
    cores = tuple((firsts if len(firsts) >= threads else allowed)[:threads])
    os.sched_setaffinity(0, cores)
    return cores


def _siblings(core: int) -> str:
    try:
        return (_TOPOLOGY / f"cpu{core}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(core)


def _marked_run(program: Program, mark: Callable[[], None]) -> Callable[[], object]:
    if not isinstance(program, MarkedProgram):
        raise ValueError(f"the parts of {type(program).__name__} cannot be marked: it has no run_marked")
    return lambda: program.run_marked(mark)


def _differences(spans: list[float]) -> tuple[float, ...]:
    return tuple(end - start for start, end in pairwise([0.0, *spans]))


class _Counters(NamedTuple):
    cpu_ns: int
    main_cpu_ns: int
    page_faults: int


class _Host:
    """What the system counts of this process while the block runs."""

    def __enter__(self) -> Self:
        self._delays = _run_delays(_threads())
        self._before = _counters()
        return self

    def __exit__(self, *_error: object) -> None:
        self._after = _counters()
        self._delays_after = _run_delays(_threads())

    def spent(self, calls: int = 1) -> dict[str, Any]:
        """Return the fields of `Sample` that were counted: times a call, faults of all."""
        cpu, main_cpu, faults = (after - before for before, after in zip(self._before, self._after, strict=True))
        delay = None
        if self._delays and self._delays_after:
            delay = sum(ns - self._delays.get(thread, 0) for thread, ns in self._delays_after.items()) / 1e6 / calls
        return {
            "cpu_ms": cpu / 1e6 / calls,
            "main_cpu_ms": main_cpu / 1e6 / calls,
            "page_faults": faults,
            "run_delay_ms": delay,
        }


def page_faults() -> int:
    """Return how many pages this process has faulted in so far, minor and major ones."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def _counters() -> _Counters:
    return _Counters(time.process_time_ns(), time.thread_time_ns(), page_faults())


def _threads() -> tuple[str, ...]:
    """Return the names of this process's threads; none where the system does not list them."""
    try:
        return tuple(os.listdir(_TASKS))  # noqa: PTH208 # this must be quick, see _run_delays
    except OSError:
        return ()


def _run_delays(threads: tuple[str, ...]) -> dict[str, int]:
    """
    Return ns spent runnable but waiting, by thread: the second field of schedstat. What has ended or tells nothing is left out.

    Plain system calls: whatever runs right before a timed call evicts what the call finds in the cache, pathlib 4 % of one of 1 ms.
    """
    delays = {}
    for thread in threads:
        try:
            file = os.open(f"{_TASKS}/{thread}/schedstat", os.O_RDONLY)
        except OSError:
            continue
        try:
            delays[thread] = int(os.read(file, 64).split()[1])
        except (OSError, IndexError, ValueError):
            continue
        finally:
            os.close(file)
    return delays


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let the garbage collector wait while the block runs, as timeit does."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
