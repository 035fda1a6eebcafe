"""What may not leave home, and what a worker refuses: each with a message that names the thing and the remedy."""

import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from dcnas_flows.away import Away, key_of
from dcnas_flows.engine import Result
from dcnas_flows.exchange import push_outputs, push_run
from dcnas_flows.machines import work_off
from dcnas_flows.orders import (
    IDENTITY,
    Order,
    Sharing,
    device_kind,
    device_queue,
    environment_of,
    require_kind,
    require_same_environment,
    require_same_inputs,
)
from dcnas_flows.project import opened
from dcnas_flows.reproduce import reproduce
from dcnas_harness.errors import BadInputError, DcnasError, UnfitEnvironmentError

Net = Any
TIMED = """
stages:
  measure: {cmd: echo 1 > ms.txt, deps: [data/device.json], outs: [ms.txt], meta: {resources: {device: 1}, timing: true}}
  clock: {cmd: echo 1 > s.txt, deps: [seed.txt], outs: [s.txt], meta: {resources: {device: 1}, timing: true}}
  free: {cmd: echo 1 > free.txt, outs: [free.txt], meta: {resources: {device: 1}}}
  small: {cmd: echo 1 > small.txt, deps: [seed.txt], outs: [small.txt], meta: {resources: {cpu: 1}}}
  learn: {cmd: echo 1 > net.txt, deps: [seed.txt], outs: [net.txt], meta: {resources: {device: 1}}}
"""


def placed(home: Path, **options: bool) -> dict[str, str]:
    """Return the work queue of every stage that leaves home."""
    seen: list[Away] = []

    def make(repo: Repo, made: Any, stages: Any) -> Away:
        seen.append(
            Away(
                repo,
                made,
                stages,
                carrier=lambda *_: pytest.fail("nothing is sent"),
                sharing=Sharing(pool="", **options),
            )
        )
        return seen[0]

    with opened(home, [], make):
        return dict(seen[0]._queues)


def identify(clone: Path, *gpus: str) -> None:
    """Write which machine a clone is on."""
    (clone / "data").mkdir(exist_ok=True)
    (clone / IDENTITY).write_text(json.dumps({"cpu": clone.name, "gpus": [{"uuid": gpu} for gpu in gpus]}))


def test_a_latency_stays_with_its_device(net: Net) -> None:
    """
    What reads the device file stays at home, and goes to that device's own queue where the file describes another machine; what times
    without reading it never leaves; nor does what DVC keeps no run of, or what takes no device.
    """
    home = net.machine("home")
    (home / "dvc.yaml").write_text(TIMED)
    net.commit(home)
    identify(home)
    assert placed(home) == {"learn": "cpu"}
    queue = device_queue(home / IDENTITY)
    assert queue is not None
    assert queue.startswith("device-")
    assert placed(home, device_elsewhere=True) == {"learn": "cpu", "measure": queue}
    (home / "params.yaml").write_text("device: {kind: cuda}\n")
    net.commit(home)
    assert placed(home) == {"learn": "cuda"}


def test_a_twin_measures_for_itself(net: Net) -> None:
    """A machine of the same make has the same device file: it takes over what another has made, but never what another has timed."""
    home, twin = net.machine("home"), net.machine("twin")
    for clone in (home, twin):
        (clone / "dvc.yaml").write_text(TIMED)
        net.commit(clone)
        (clone / "data").mkdir()
        (clone / IDENTITY).write_text('{"cpu": "one make", "gpus": []}')
    with opened(home, ["measure", "small"]) as project:
        assert [project.run(step.name, print).result for step in project.plan.steps] == [Result.RAN] * 2
    with chdir(home), Repo(str(home)) as repo:
        for stage in repo.index.stages:
            if stage.name in ("measure", "small"):
                push_outputs(repo, stage.outs)
                push_run(repo, stage)

    def make(repo: Repo, made: Any, stages: Any) -> Away:
        return Away(repo, made, stages, carrier=lambda *_: pytest.fail("nothing is sent"), sharing=Sharing(pool=""))

    with opened(twin, ["measure", "small"], make) as project:
        results = {step.name: project.run(step.name, print).result for step in project.plan.steps}
    assert results == {"measure": Result.RAN, "small": Result.RESTORED}


def test_home_refuses_without_a_remote(net: Net) -> None:
    """No DVC remote is bad input, with the command that adds one."""
    home = net.machine("home")
    (home / ".dvc/config").write_text("")
    with pytest.raises(BadInputError, match=r"No DVC remote is configured[\s\S]*dvc remote add"):
        placed(home)


def test_home_refuses_what_is_not_committed(net: Net) -> None:
    """A changed tracked file is named and refused; allowed, the line that says what leaves names it; dvc.lock may always differ."""
    home = net.machine("home")
    (home / "dvc.lock").write_text("schema: '2.0'\n")
    net.commit(home)
    (home / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert set(placed(home)) == {"train@a", "train@b"}
    (home / "seed.txt").write_text("another\n")
    with pytest.raises(BadInputError, match=r"seed\.txt differ from commit[\s\S]*--allow-dirty"):
        placed(home)
    make: list[Away] = []

    def elsewhere(repo: Repo, made: Any, stages: Any) -> Away:
        make.append(
            Away(
                repo,
                made,
                stages,
                carrier=lambda *_: pytest.fail("nothing is sent"),
                sharing=Sharing(pool="", allow_dirty=True),
            )
        )
        return make[0]

    with opened(home, [], elsewhere):
        assert "workers do not see the changes in seed.txt" in make[0].describe()


def test_other_machines_need_prefect(net: Net) -> None:
    """Without Prefect there is no pool: bad input, before anything is planned."""
    with pytest.raises(BadInputError, match="--no-prefect"):
        reproduce(net.root, [], use_prefect=False, sharing=Sharing(pool="boxes"))


def order_for(clone: Path, **changes: Any) -> Order:
    """Return an order for the commit that a clone is at."""
    order = Order(
        stage="draw",
        commit=changes.pop("commit", None) or (clone / ".git/refs/heads").glob("*").__next__().read_text().strip(),
        remote="shared",
        upstream={},
        expected={
            "cmd": 'echo draw $PWD >> "$SIDE"; mkdir drawn; tr a-z A-Z < seed.txt > drawn/one; wc -c < seed.txt > drawn/two',
            "deps": [{"path": "seed.txt", "hash": "md5", "md5": "c7c5b8f1f5b5f6b9a3f5a1c1a0f0d9c0"}],
        },
        kind="cpu",
        environment=environment_of(clone),
        beat_s=10.0,
    )
    return order.model_copy(update=changes)


REFUSED: dict[str, tuple[dict[str, Any], type[DcnasError], str]] = {
    "unknown commit": ({"commit": "0" * 40}, BadInputError, r"Commit 0{12} of home is not to be had[\s\S]*git push"),
    "other environment": (
        {"environment": {"python": "2.7"}},
        UnfitEnvironmentError,
        r"python 3\.\d+ here, 2\.7 at home",
    ),
    "unknown stage": ({"stage": "none"}, BadInputError, "no pipeline stage 'none'"),
    "unknown remote": ({"remote": "attic"}, BadInputError, r"'attic'[\s\S]*dvc remote add --local attic"),
    "other input": ({}, UnfitEnvironmentError, r"draw: seed\.txt is not the same in the commit as at home"),
    "other command": ({"expected": {"cmd": "true"}}, UnfitEnvironmentError, "draw: its command is not the same"),
    "no GPU": ({"kind": "cuda"}, UnfitEnvironmentError, "needs a GPU"),
}


def test_a_worker_refuses(net: Net) -> None:
    """A worker runs nothing where commit, environment, remote, device, command or an input is not home's, and says which."""
    worker = net.machine("worker")
    for changes, error, message in REFUSED.values():
        with pytest.raises(error, match=message):
            work_off(worker, order_for(worker, **changes), print)
    assert not net.ran()


def test_devices_are_never_mixed(tmp_path: Path) -> None:
    """`auto` that means another kind of device here than at home is refused, and so is a device file of another machine."""
    home, here = tmp_path / "home", tmp_path / "here"
    for clone in (home, here):
        clone.mkdir()
        (clone / "params.yaml").write_text("device: {kind: auto}\n")
    identify(home)
    identify(here, "GPU-1")
    assert (device_kind(home), device_kind(here)) == ("cpu", "cuda")
    with pytest.raises(UnfitEnvironmentError, match=r"auto, which is cuda on this machine and cpu at home"):
        require_kind(here, here, "cpu")
    ours, theirs = ({"deps": [{"path": IDENTITY, "hash": "md5", "md5": md5}]} for md5 in "ab")
    with pytest.raises(UnfitEnvironmentError, match="a latency belongs to one device"):
        require_same_inputs(ours, theirs, "measure")
    assert device_queue(home / IDENTITY) != device_queue(here / IDENTITY)


def test_environments_are_compared_by_what_is_installed(tmp_path: Path) -> None:
    """Another lock file or version is refused by name; a local label of a version, and a package that one side lacks, are not."""
    (tmp_path / "requirements.lock").write_text("pytest==1.0\nabsent-package==1.0\n")
    own = environment_of(tmp_path)
    assert "pytest" in own
    assert "absent-package" not in own
    require_same_environment(tmp_path, {**own, "absent-package": "1.0"})
    with pytest.raises(UnfitEnvironmentError, match=r"pytest .* here, 0\.1 at home"):
        require_same_environment(tmp_path, {**own, "pytest": "0.1"})
    with pytest.raises(UnfitEnvironmentError, match=r"requirements\.lock"):
        require_same_environment(tmp_path, {**own, "requirements.lock": "0" * 64})


def test_the_same_work_has_the_same_key(net: Net) -> None:
    """Two homes that order a stage of the same inputs order one piece of work, whatever their commits; other inputs are another."""
    worker = net.machine("worker")
    order = order_for(worker)
    assert key_of(order) == key_of(order.model_copy(update={"commit": "1" * 40}))
    assert key_of(order) != key_of(order.model_copy(update={"expected": {"cmd": "true"}}))
