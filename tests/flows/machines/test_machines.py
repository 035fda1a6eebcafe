"""Stages that other machines run, their workers' entry called without Prefect."""

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_flows.away import Away
from dcnas_flows.engine import Capacity, Outcome, Plan, Result, Step, execute, exit_code, retrying
from dcnas_flows.orders import Order, Sharing
from dcnas_flows.project import opened, plan

pytestmark = pytest.mark.long
Net = Any
Machines = Any
OUTS = ("drawn/one", "drawn/two", "trained-a.txt", "trained-b.txt", "joined.txt")


def reproduce(home: Path, carrier: Machines, **options: bool) -> dict[str, Outcome]:
    """Bring all stages of a clone up to date, those that may leave by the carrier; return the outcomes by name."""
    with opened(
        home,
        [],
        lambda repo, made, stages: Away(repo, made, stages, carrier=carrier, sharing=Sharing(pool="", **options)),
    ) as project:
        assert project.elsewhere is not None
        capacity = Capacity(cores=2, away=project.elsewhere.names)
        run = project.run
        outcomes = execute(project.plan, lambda step: retrying(lambda: run(step.name, print), print), capacity)
    return {outcome.name: outcome for outcome in outcomes}


def entries(home: Path) -> list[str]:
    """Return the entries of dvc.lock as text, in alphabetical order."""
    return sorted(re.split(r"\n(?=  \S)", (home / "dvc.lock").read_text().removesuffix("\n")))


def made(home: Path) -> dict[str, bytes]:
    """Return all outputs by path."""
    return {name: (home / name).read_bytes() for name in OUTS}


def test_a_worker_runs_what_leaves_and_home_takes_it_over(net: Net, machines: Machines) -> None:
    """
    The worker executes the two trainings and home the rest; a second flow has nothing to do; an order sent again is restored and pushed by
    the worker, not executed; and when home has lost all it made, what was shared comes from the remote and is not executed again.
    """
    home, worker = net.machine("home"), net.machine("worker")
    carrier = machines(worker)
    outcomes = reproduce(home, carrier)
    assert {outcome.result for outcome in outcomes.values()} == {Result.RAN}, carrier.output
    expected = [("draw", "home"), ("join", "home"), ("train@a", "worker"), ("train@b", "worker")]
    assert sorted(net.ran()) == expected
    assert not plan(home, []).stale
    assert not (worker / "dvc.lock").exists()
    runs, aside = net.root / "remote/runs", net.root / "aside"
    runs.rename(aside)  # as if the worker had died before it pushed its entries
    for order in carrier.orders[:2]:
        assert carrier(order, "cpu", "", print).result == "restored"
    assert len(list(runs.glob("*/*/*"))) == 2
    shutil.copytree(aside, runs, dirs_exist_ok=True)
    assert len(net.ran()) == 4
    before = made(home), entries(home)
    for name in ("drawn", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(home / name)
    for name in ("trained-a.txt", "trained-b.txt", "dvc.lock"):
        (home / name).unlink()
    outcomes = reproduce(home, carrier)
    assert {outcomes[name].result for name in ("draw", "train@a", "train@b")} == {Result.RESTORED}
    assert len(carrier.orders) == 4
    assert [stage for stage, _ in net.ran()[4:]] == ["join"], "nothing reads it, so it was not shared"
    assert (made(home), entries(home)) == before


def test_serial_parallel_and_distant_runs_give_the_same_bytes(
    net: Net, machines: Machines, dvc_repro: Callable[[Path], None]
) -> None:
    """`dvc repro`, the engine with two stages at once, and the engine with a worker leave the same entries of dvc.lock and outputs."""
    serial, parallel, home = (net.machine(name) for name in ("serial", "parallel", "home"))
    dvc_repro(serial)
    with opened(parallel, []) as project:
        assert exit_code(execute(project.plan, lambda step: project.run(step.name, print), Capacity(cores=2))) == 0
    reproduce(home, machines(net.machine("worker")))
    assert entries(serial) == entries(parallel) == entries(home)
    assert made(serial) == made(parallel) == made(home)
    assert len(net.ran()) == 12


def test_what_is_away_takes_nothing_of_home() -> None:
    """Beside a stage that times, and needs all of home, a stage runs that is on another machine; one that is here does not."""
    beside: dict[str, set[str]] = {}
    running: set[str] = set()

    def run(step: Step) -> Outcome:
        running.add(step.name)
        time.sleep(0.2)
        beside[step.name] = set(running)
        time.sleep(0.2)
        running.discard(step.name)
        return Outcome(name=step.name, result=Result.RAN)

    timing, plain = {"timing": True}, {"resources": {"cpu": 1}}
    steps = [("times", timing), ("here", plain), ("there", plain)]
    made = Plan(steps=tuple(Step(name=name, upstream=(), stale=True, meta=meta) for name, meta in steps))
    execute(made, run, Capacity(cores=2, away=frozenset({"there"})))
    assert beside["times"] == {"times", "there"}


def test_a_lost_worker_is_replaced(net: Net, machines: Machines, comes_true: Callable[..., bool]) -> None:
    """
    When the worker's process is killed while its stage runs, the stage's command dies too, the flow says so and sends the stage once
    more, to another machine here, and nothing that was done is done again.
    """
    home, carrier = net.machine("home"), machines(net.machine("one"), net.machine("other"))
    hold, pid = net.root / "side.hold-a", net.root / "side.pid-a"
    hold.touch()

    def kill(process: subprocess.Popen[str], order: Order) -> None:
        if order.stage == "train@a" and hold.exists():
            assert comes_true(lambda: pid.is_file() and pid.read_text().strip())
            process.send_signal(signal.SIGKILL)
            hold.unlink()

    carrier.started = kill
    outcomes = reproduce(home, carrier)
    assert all(outcome.good for outcome in outcomes.values()), carrier.output
    assert {name: outcome.attempts for name, outcome in outcomes.items()} == {
        "draw": 1,
        "train@a": 2,
        "train@b": 1,
        "join": 1,
    }
    assert comes_true(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists())
    assert sorted(stage for stage, _ in net.ran()) == ["draw", "join", "train@a", "train@a", "train@b"]
