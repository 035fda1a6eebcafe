"""Machines for tests: a folder with a clone and a cache of its own stands in for a machine, a folder for the DVC remote."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from dcnas_flows.orders import LOST, OnLine, Order, Report

PIPELINE = """
stages:
  draw:
    cmd: echo draw $PWD >> "$SIDE"; mkdir drawn; tr a-z A-Z < seed.txt > drawn/one; wc -c < seed.txt > drawn/two
    deps: [seed.txt]
    outs: [drawn]
  train:
    matrix: {net: [a, b]}
    cmd: >-
      echo train@${item.net} $PWD >> "$SIDE"; cat drawn/* work/${item.net}.txt > trained-${item.net}.txt;
      if [ -e "$SIDE.hold-${item.net}" ]; then echo $$ > "$SIDE.pid-${item.net}"; exec sleep 100; fi
    deps: [drawn, "work/${item.net}.txt"]
    params: [rate]
    outs: ["trained-${item.net}.txt"]
    meta: {resources: {device: 1}}
  join:
    cmd: echo join $PWD >> "$SIDE"; cat trained-a.txt trained-b.txt > joined.txt
    deps: [trained-a.txt, trained-b.txt]
    outs: [joined.txt]
"""
SCRIPT = """
import sys
from pathlib import Path
from dcnas_flows.machines import work_off
from dcnas_flows.orders import Order
from dcnas_harness.process import run_main

def main():
    outcome = work_off(Path(sys.argv[1]), Order.model_validate_json(sys.stdin.read()), lambda line: print(line, flush=True))
    print("result:", outcome.result.name.lower())
    sys.exit(outcome.exit_code)

run_main(main)
"""


def sh(folder: Path, *command: str) -> str:
    """Run a command in a folder, which must end well, and return its output."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Net:
    """Machines around a bare git repository and a folder that is the DVC remote."""

    def __init__(self, root: Path) -> None:
        self.root, self.side = root, root / "side"
        self.side.touch()
        first = root / "first"
        (first / "work").mkdir(parents=True)
        sh(first, "git", "init", "--quiet")
        with Repo.init(str(first)) as repo, repo.config.edit() as config:
            config["remote"] = {"shared": {"url": str(root / "remote")}}
            config["core"] = {"remote": "shared", "analytics": False}
        for name, text in {
            "dvc.yaml": PIPELINE,
            "params.yaml": "rate: 1\n",
            "seed.txt": "seed\n",
            "work/a.txt": "a\n",
            "work/b.txt": "b\n",
            ".gitignore": "/.scratch/\n/drawn\n/trained-*.txt\n/joined.txt\n",
        }.items():
            (first / name).write_text(text)
        self.commit(first)
        sh(root, "git", "clone", "--quiet", "--bare", str(first), "bare")
        shutil.rmtree(first)

    def machine(self, name: str) -> Path:
        """Return a new clone of the bare repository."""
        sh(self.root, "git", "clone", "--quiet", "bare", name)
        return self.root / name

    @staticmethod
    def commit(clone: Path) -> None:
        """Commit all that git knows or would know in a clone."""
        sh(clone, "git", "add", "--all")
        sh(clone, "git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "-qm", "change")

    def ran(self) -> list[tuple[str, str]]:
        """Return what has been executed so far: (stage, machine), in order of its start."""
        lines = [line.split(" ") for line in self.side.read_text().splitlines()]
        return [(stage, Path(folder).relative_to(self.root).parts[0]) for stage, folder in lines]


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    """Machines with nothing made yet; commands write a line to the side file when they start."""
    monkeypatch.setenv("SIDE", str(tmp_path / "net/side"))
    monkeypatch.setenv("SHELL", "/bin/sh")
    (tmp_path / "net").mkdir()
    return Net(tmp_path / "net")


class Machines:
    """Carries orders to clones, each time to the next, in a process of its own as on another machine."""

    def __init__(self, *clones: Path) -> None:
        self._clones, self.orders, self.output = list(clones), list[Order](), list[str]()
        self.started: Callable[[subprocess.Popen[str], Order], None] = lambda *_: None

    def __call__(self, order: Order, _queue: str, _key: str, on_line: OnLine) -> Report:
        """Have the next machine work an order off; one that dies is lost."""
        clone = self._clones[len(self.orders) % len(self._clones)]
        self.orders.append(order)
        with start_worker(clone, order) as process:
            self.started(process, order)
            assert process.stdout is not None
            output = process.stdout.read()
            self.output.append(output)
            code = process.wait()
        if code < 0:
            on_line(f"the worker of {order.stage} is lost")
            return LOST
        result = "failed" if code else output.split("result: ")[1].strip()
        return Report(result=result, exit_code=code, of_command=True, machine=clone.name, seconds=1.0)


def start_worker(clone: Path, order: Order) -> subprocess.Popen[str]:
    """Start a process that works an order off in a clone."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(clone)],
        cwd=clone.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(order.model_dump_json())
    process.stdin.close()
    return process


@pytest.fixture
def machines() -> type[Machines]:
    """The class of carriers that take orders to clones."""
    return Machines


def _comes_true(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Return whether `condition` comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def comes_true() -> Callable[..., bool]:
    """The function that waits for a condition."""
    return _comes_true
