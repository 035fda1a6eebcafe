"""How much of the processors others take: this process and its children do not count, everybody else does."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_latency import bystanders
from dcnas_latency.bystanders import Bystanders, wait_for_quiet

BUSY = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass"
WAIT = "\nprint(flush=True)\ninput()"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine of four cores whose counters a test sets: seconds since its start, in all and of this process."""
    now = {"clock": 100.0, "busy": 50.0, "own": 5.0}

    def advance(seconds: float, *, busy: float | None, own: float) -> None:
        now["clock"] += seconds
        now["busy"] = None if busy is None else now["busy"] + busy  # type: ignore[assignment] # None: not told
        now["own"] += own

    monkeypatch.setattr(time, "monotonic", lambda: now["clock"])
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(bystanders, "_busy_s", lambda _cores=(): now["busy"])
    monkeypatch.setattr(bystanders, "_own_s", lambda: now["own"])
    monkeypatch.setattr(time, "sleep", lambda seconds: advance(seconds, busy=0.0, own=0.0))
    return advance


@pytest.mark.parametrize(
    ("busy", "own", "share"),
    [
        (0.0, 0.0, 0.0),
        (20.0, 20.0, 0.0),
        (24.0, 20.0, 0.1),
        (40.0, 0.0, 1.0),
        (19.5, 20.0, 0.0),
        (41.0, 0.0, 1.0),
    ],
)
def test_the_share_is_what_others_took_of_all_processors(
    machine: Callable[..., None], busy: float, own: float, share: float
) -> None:
    """Of ten seconds on four cores; ticks that do not add up never make it negative or more than all."""
    watch = Bystanders()
    machine(10.0, busy=busy, own=own)
    assert watch.share() == pytest.approx(share)


def test_the_share_counts_from_its_making(machine: Callable[..., None]) -> None:
    """What others did before is not held against the run."""
    machine(10.0, busy=40.0, own=0.0)
    watch = Bystanders()
    machine(10.0, busy=2.0, own=0.0)
    assert watch.share() == pytest.approx(0.05)


def test_a_system_that_does_not_tell_gives_nothing(machine: Callable[..., None]) -> None:
    """Neither at the start nor at the end is a figure made up."""
    watch = Bystanders()
    machine(10.0, busy=None, own=0.0)
    assert watch.share() is None
    assert Bystanders().share() is None


def test_a_system_without_proc_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing /proc/stat is no error."""
    monkeypatch.setattr(bystanders, "_STAT", tmp_path / "stat")
    assert bystanders._busy_s() is None


def test_stolen_time_counts_and_waiting_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """User, nice, system, interrupts and what a hypervisor stole are busy; idle and waiting for a disk are not."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  100 20 30 9000 5000 4 5 60 7 8\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    monkeypatch.setattr(bystanders, "_STAT", tmp_path / "proc/stat")
    assert bystanders._busy_s() == pytest.approx((100 + 20 + 30 + 4 + 5 + 60) / os.sysconf("SC_CLK_TCK"))


def test_children_are_our_own_while_they_live_and_after() -> None:
    """The processor time of a child counts as ours, whether it still runs, has ended, or was waited for."""
    before = bystanders._own_s()
    child = subprocess.Popen(
        [sys.executable, "-c", BUSY.format(seconds=0.3) + WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    while_living = bystanders._own_s() - before
    child.communicate(b"\n", timeout=60)
    after = bystanders._own_s() - before
    assert 0.25 < while_living < 5.0
    assert while_living - 0.03 <= after < 5.0


@pytest.mark.parametrize("ended", [False, True], ids=["living", "ended"])
def test_a_grandchild_is_our_own_too(ended: bool) -> None:
    """A measuring process may start helpers, as a compiler does, that outlive one another: none of them is a bystander."""
    before = bystanders._own_s()
    inner = [sys.executable, "-c", BUSY.format(seconds=0.3) + ("" if ended else WAIT)]
    code = f"import subprocess\nsubprocess.run({inner!r})" + (WAIT if ended else "")
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    own = bystanders._own_s() - before
    child.communicate(b"\n", timeout=60)
    assert 0.25 < own < 5.0


@pytest.mark.usefixtures("machine")
def test_waiting_ends_when_it_is_quiet() -> None:
    """One quiet second is enough; the patience is not used up."""
    began = time.monotonic()
    wait_for_quiet(60.0)
    assert time.monotonic() - began == pytest.approx(1.0)


def test_waiting_gives_up_in_time(machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that never becomes quiet it ends before the patience does."""
    monkeypatch.setattr(time, "sleep", lambda seconds: machine(seconds, busy=2 * seconds, own=0.0))
    began = time.monotonic()
    wait_for_quiet(10.0)
    assert 8.0 <= time.monotonic() - began <= 10.0


def test_only_the_cores_that_are_timed_on_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 cores three busy neighbours take a twentieth, and all of the two that the work is bound to."""
    now, stat = {"clock": 100.0}, tmp_path / "stat"

    def write(ticks: int) -> None:
        lines = [f"cpu{core} {ticks if core < 3 else 0} 0 0 9 9 0 0 0 0 0" for core in range(64)]
        stat.write_text("\n".join([f"cpu {3 * ticks} 0 0 9 9 0 0 0 0 0", *lines, "intr 1"]))

    monkeypatch.setattr(bystanders, "_STAT", stat)
    monkeypatch.setattr(bystanders, "_own_s", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now["clock"])
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    write(0)
    all_of_them, ours, elsewhere, no_core = Bystanders(), Bystanders((0, 2)), Bystanders((5,)), Bystanders((64,))
    now["clock"] += 10.0
    write(10 * os.sysconf("SC_CLK_TCK"))
    assert all_of_them.share() == pytest.approx(3 / 64)
    assert ours.share() == pytest.approx(1.0)
    assert elsewhere.share() == 0.0
    assert no_core.share() is None
