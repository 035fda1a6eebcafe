"""The project that is tampered with: run once a session by `dvc repro`; tests work on copies."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # tampers.py is a script too, and imports what stands beside it

from tamper_project import commit, new_project, run


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, run, pushed and committed; tests must leave it as it is."""
    root = new_project(tmp_path_factory.mktemp("tamper") / "project")
    run(["dvc", "repro"], root)
    run(["dvc", "push", "--run-cache"], root)
    commit(root, "results")
    return root


@pytest.fixture(scope="session")
def copies(honest: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A function that returns a fresh copy of the finished project, which shares nothing with it; its remote is copied too."""
    made = 0

    def copy() -> Path:
        nonlocal made
        made += 1
        folder = tmp_path_factory.mktemp(f"copy-{made}")
        shutil.copytree(honest, folder / "project", symlinks=True)
        shutil.copytree(honest.parent / "remote", folder / "remote", symlinks=True)
        return folder / "project"

    return copy


@pytest.fixture
def damaged(copies: Callable[[], Path]) -> Path:
    """A copy of the finished project that the test may damage."""
    return copies()
