"""A copy of the project in a folder with spaces and letters beyond ASCII, run once at the smoke preset for the whole session."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dcnas_latency.identity import write_identity

PROJECT = Path(__file__).resolve().parents[2]
HANGS_S = 1500
"""A command that takes longer hangs: the whole graph takes three minutes on a core of its own, and several times that on a busy machine."""


def run(command: list[str], root: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `root` with the environment's tools first on PATH and no analytics."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        **variables,
    }
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=HANGS_S
    )


def copy_project(target: Path) -> Path:
    """Copy the files that git knows or would know, with the smoke preset, into a repository of its own; return it."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = PROJECT / name
        if source.is_file() and not name.startswith(("tests/", "results/published/")) and name != "dvc.lock":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    shutil.copyfile(PROJECT / "presets/smoke.yaml", target / "params.yaml")
    write_identity(target / "data/device.json")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "copy"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        subprocess.run(["git", *identity, *command], cwd=target, check=True, capture_output=True)
    return target


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose whole graph has run at the smoke preset, by `dvc repro`; tests must leave it as they found it."""
    root = copy_project(tmp_path_factory.mktemp("clone") / "dcnas, Größe 1")
    done = run(["dvc", "repro"], root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture
def finished(smoke: Path, tmp_path: Path) -> Path:
    """A copy of the finished project that a test may damage; it shares nothing with the original."""
    root = tmp_path / "project"
    shutil.copytree(smoke, root, symlinks=True)
    return root


@pytest.fixture(scope="session")
def finished_once(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy of the finished project for tests that change a file and put it back (`changed`)."""
    root = tmp_path_factory.mktemp("shared") / "project"
    shutil.copytree(smoke, root, symlinks=True)
    return root


@pytest.fixture(scope="session")
def fresh_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project at the smoke preset that has not run, for tests that change a file and put it back (`changed`)."""
    return copy_project(tmp_path_factory.mktemp("fresh") / "project")


@contextmanager
def changed_file(path: Path) -> Iterator[Path]:
    """Let the block change, replace or remove a file, and put its bytes back."""
    before = path.read_bytes()
    try:
        yield path
    finally:
        path.write_bytes(before)


@pytest.fixture(scope="session")
def changed() -> Callable[[Path], object]:
    """The context in which a file may be changed, replaced or removed; afterwards it is as it was."""
    return changed_file


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The function that runs a command in a project."""
    return run
