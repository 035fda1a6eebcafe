"""Two flows and a hand-run `dvc repro` in one project at once: nothing is lost, and no stage runs beside itself."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_flows.engine import Result
from dcnas_flows.project import opened, plan

pytestmark = pytest.mark.long
NewProject = Callable[[Path, str], Path]
StartFlow = Callable[..., Any]

SLOW = """
stages:
  one:
    matrix: {item: [a, b, c]}
    cmd: echo begin ${item} >> log; while [ ! -e go ]; do sleep 0.1; done; sleep 1; echo ${item} > ${item}.txt; echo end ${item} >> log
    deps: [work.py]
    outs: ["${item}.txt"]
  all:
    cmd: echo begin all >> log; cat a.txt b.txt c.txt > all.txt; echo end all >> log
    deps: [a.txt, b.txt, c.txt]
    outs: [all.txt]
""".replace("${item}", "${item.item}")


def test_two_flows_and_dvc_repro_at_once(tmp_path: Path, new_project: NewProject, start_flow: StartFlow) -> None:
    """
    The second flow refuses (exit 3). The first one and `dvc repro` share the work: where one makes a stage the other waits or refuses,
    every stage is executed once and never beside itself, all are recorded, and what the flow waited for is taken over.
    """
    root = new_project(tmp_path / "project", SLOW)
    first = start_flow(root)
    assert first.comes_true((root / "log").exists, 60), first.log.read_text()
    assert start_flow(root, folder=root).end(60)[0] == 3
    log = (root / "by_hand.log").open("w+")
    with (
        log,
        subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "--keep-going"], cwd=root, stdout=log, stderr=log
        ) as by_hand,
    ):
        made_there = len((root / "log").read_text().splitlines())
        assert first.comes_true(lambda: by_hand.poll() is not None or begun(root) > made_there, 60)
        (root / "go").touch()
        by_hand.wait(timeout=120)
        log.seek(0)
        output = log.read()
    ended, said = first.end(120)
    assert ended == 0, said + output
    lines = (root / "log").read_text().splitlines()
    for name in ("a", "b", "c", "all"):
        assert [line for line in lines if line.split()[1] == name] == [f"begin {name}", f"end {name}"], (said, output)
    assert not plan(root, []).stale
    assert (root / "all.txt").read_text() == "a\nb\nc\n"
    if by_hand.returncode:  # it met a stage that the flow was making
        assert "is busy" in output or "Unable to acquire lock" in output, output


def test_a_stage_that_dvc_runs_by_hand_is_waited_for(tmp_path: Path, new_project: NewProject) -> None:
    """A flow that comes to a stage which a hand-run dvc is making says so, waits, and takes over what was made."""
    root, lines = new_project(tmp_path / "project", SLOW), list[str]()

    def listen(line: str) -> None:
        lines.append(line)
        if line.startswith("waiting:"):
            (root / "go").touch()

    with opened(root, []) as project:
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", "one@a"]
        with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL) as by_hand:
            while not (root / "log").exists():
                assert by_hand.poll() is None
                time.sleep(0.05)
            outcome = project.run("one@a", listen)
    assert outcome.result is Result.RESTORED, lines
    assert "is busy" in "".join(lines)
    assert begun(root) == 1


def begun(root: Path) -> int:
    """Return how many commands have begun."""
    return (root / "log").read_text().count("begin")
