"""However a flow ends, nothing of it stays behind; and there is one at a time."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NewProject = Callable[[Path, str], Path]
StartFlow = Callable[..., Any]

TIME_TO_END_S = 10.0


@pytest.fixture
def sleeping(tmp_path: Path, new_project: NewProject) -> Path:
    """A project whose only pipeline stage sleeps until it is stopped."""
    return new_project(
        tmp_path / "project", "stages: {sleep: {cmd: exec python work.py sleep slept.txt, outs: [slept.txt]}}"
    )


def test_a_killed_flow_takes_dvc_and_the_stage_along(sleeping: Path, start_flow: StartFlow) -> None:
    """SIGKILL of the flow leaves neither dvc nor the stage's process alive."""
    flow = start_flow(sleeping)
    stage = flow.stage_pid()
    dvc = os.getpgid(stage)
    flow.process.kill()
    assert flow.leaves_no(dvc)
    assert flow.leaves_no(stage)


def test_ctrl_c_ends_the_flow_and_its_stage(sleeping: Path, start_flow: StartFlow) -> None:
    """SIGINT ends the flow with 130 within ten seconds, with a message and no process left; dvc.lock stays as it was."""
    flow = start_flow(sleeping)
    stage = flow.stage_pid()
    dvc = os.getpgid(stage)
    flow.process.send_signal(signal.SIGINT)
    ended, output = flow.end(TIME_TO_END_S)
    assert ended == 130, output
    assert "interrupted: what was complete is kept" in output
    assert flow.leaves_no(dvc)
    assert flow.leaves_no(stage)
    assert not (sleeping / "dvc.lock").exists()


def test_a_stage_that_ignores_signals_is_killed(sleeping: Path, start_flow: StartFlow) -> None:
    """A stage that ignores SIGINT and SIGTERM does not hold the flow up for more than ten seconds, and dies."""
    pipeline = sleeping / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("work.py sleep", "work.py stubborn"))
    flow = start_flow(sleeping)
    stage = flow.stage_pid()
    flow.process.terminate()
    ended, output = flow.end(TIME_TO_END_S)
    assert ended == 143, output
    assert flow.leaves_no(stage)


def test_a_terminated_flow_goes_on_when_started_again(sleeping: Path, start_flow: StartFlow) -> None:
    """SIGTERM ends the flow with 143 within ten seconds, its stage too, and the next flow runs that stage to its end."""
    flow = start_flow(sleeping)
    stage = flow.stage_pid()
    flow.process.terminate()
    ended, output = flow.end(TIME_TO_END_S)
    assert ended == 143, output
    assert "bug of dcnas" not in output
    assert flow.leaves_no(stage)
    work = sleeping / "work.py"
    work.write_text(work.read_text().replace("time.sleep(600)", ""))
    ended, output = start_flow(sleeping).end(60)
    assert ended == 0, output
    assert (sleeping / "slept.txt").exists()


def test_a_second_flow_refuses(sleeping: Path, start_flow: StartFlow) -> None:
    """While one flow runs, another in the same project exits 3, names the first one's pid, and leaves it alone."""
    first = start_flow(sleeping)
    stage = first.stage_pid()
    for folder in (None, sleeping):  # from anywhere
        ended, output = start_flow(sleeping, folder=folder).end(60)
        assert ended == 3, output
        assert f"pid {first.process.pid}" in output
        assert "remedy" in output
    os.kill(stage, 0)  # still alive


def test_what_a_stage_leaves_behind_is_killed(tmp_path: Path, new_project: NewProject, start_flow: StartFlow) -> None:
    """A process that a stage starts and forgets neither outlives the stage nor keeps the flow waiting."""
    pipeline = "stages: {careless: {cmd: 'sleep 300 & echo $! > pid; echo made > made.txt', outs: [made.txt]}}"
    root = new_project(tmp_path / "project", pipeline)
    start = time.monotonic()
    flow = start_flow(root)
    ended, output = flow.end(60)
    assert ended == 0, output
    assert time.monotonic() - start < 60
    assert flow.leaves_no(flow.stage_pid())
