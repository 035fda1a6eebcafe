"""The flow and `dvc repro` give the same bytes on the project's own graph."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_the_flow_gives_the_bytes_of_dvc_repro(smoke: Path, tmp_path: Path, command: Command) -> None:
    """A clone with an empty cache, run by the flow, ends with the dvc.lock that `dvc repro` wrote: every output has the same hash."""
    clone = tmp_path / "clone"
    assert command(["git", "clone", "--quiet", str(smoke), str(clone)], tmp_path).returncode == 0
    done = command(["dcnas", "flow", "run", "--no-prefect"], clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone / "dvc.lock").read_text() == (smoke / "dvc.lock").read_text()
    again = command(["dcnas", "flow", "run", "--no-prefect"], clone)
    assert (again.returncode, "nothing is stale" in again.stdout) == (0, True)
