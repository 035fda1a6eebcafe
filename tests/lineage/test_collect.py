"""Provenance as it is collected: the commit, what differs from it, the bytes that were read."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dcnas_lineage.collect import collect_provenance
from dcnas_lineage.inputs import run_digest, training_folder
from dcnas_schema.provenance import DeviceCard, Provenance

Collect = Callable[..., Provenance]
Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A function that runs git in a fresh repository with one commit, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout

    run("init", "--quiet")
    for name in ("code.py", "other.py", "größe 1.py", "dvc.lock"):
        (tmp_path / name).write_text(f"# {name}, with enough text to be known again after a rename\n" * 5)
    run("add", ".")
    run("commit", "--quiet", "--message", "first")
    return run


@pytest.fixture
def collect(card: DeviceCard) -> Collect:
    """A function that collects provenance here and now."""
    return lambda inputs=(): collect_provenance(
        stage="retrain", item="unet_s-0", params_sha256="1" * 64, seed=3, inputs=inputs, device=card
    )


def test_a_clean_checkout_names_its_commit(git: Git, collect: Collect) -> None:
    """The commit is HEAD's and nothing differs from it; files that git does not track are not the code's."""
    Path("untracked.py").write_text("")
    provenance = collect()
    assert provenance.commit == git("rev-parse", "HEAD").strip()
    assert provenance.dirty == ()


@pytest.mark.usefixtures("git")
def test_changed_files_are_listed(collect: Collect) -> None:
    """Edited and deleted files stand in the list by their names, whatever letters these have."""
    Path("größe 1.py").write_text("changed")
    Path("code.py").unlink()
    assert collect().dirty == ("code.py", "größe 1.py")


def test_staged_files_are_listed(git: Git, collect: Collect) -> None:
    """What is added but not committed differs from the commit."""
    Path("new.py").write_text("new")
    Path("code.py").write_text("changed")
    git("add", ".")
    assert collect().dirty == ("code.py", "new.py")


def test_a_renamed_file_is_listed_by_its_names(git: Git, collect: Collect) -> None:
    """A staged rename lists files that exist or existed, not parts of their names."""
    git("mv", "other.py", "renamed.py")
    dirty = collect().dirty
    assert dirty is not None
    assert "renamed.py" in dirty
    assert set(dirty) <= {"renamed.py", "other.py"}


@pytest.mark.usefixtures("git")
def test_the_lock_file_that_a_run_writes_is_left_out(collect: Collect) -> None:
    """DVC rewrites dvc.lock while the pipeline runs: it does not make the code dirty."""
    Path("dvc.lock").write_text("written by the run")
    assert collect().dirty == ()
    Path("code.py").write_text("changed")
    assert collect().dirty == ("code.py",)


def test_outside_a_checkout_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collect: Collect
) -> None:
    """In a folder without git the commit is unknown, not invented; the same where git is not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (collect().commit, collect().dirty) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (collect().commit, collect().dirty) == (None, None)


def test_inputs_are_hashed_by_their_bytes(tmp_path: Path, collect: Collect) -> None:
    """Each input stands with the SHA-256 of what it holds at that moment."""
    path = tmp_path / "train.parquet"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        assert collect([path]).inputs == {path.as_posix(): hashlib.sha256(content).hexdigest()}


def test_versions_are_those_installed(collect: Collect) -> None:
    """The packages that decide numbers are named with their versions."""
    versions = collect().versions
    assert versions["numpy"] == np.__version__
    assert versions["pyarrow"] == pa.__version__
    assert {"torch", "torchvision", "safetensors", "scikit-learn"} <= set(versions)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of two files that can be imported."""
    folder = tmp_path / "dcnas_digest_test"
    (folder / "below").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "below" / "code.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def digest(parts: dict[str, str] | None = None) -> str:
    """Return the digest of a run of the test's package."""
    return run_digest(parts or {"params": "1", "train.parquet": "2"}, ["dcnas_digest_test"])


def test_a_code_edit_changes_the_digest(package: Path) -> None:
    """One changed byte, a new file or another name of a file: another run, which takes up no old checkpoint."""
    first = digest()
    assert digest() == first
    code = package / "below" / "code.py"
    code.write_text("x = 2\n")
    edited = digest()
    code.write_text("x = 1\n")
    (package / "more.py").write_text("")
    added = digest()
    (package / "more.py").unlink()
    code.rename(package / "below" / "edoc.py")
    renamed = digest()
    assert len({first, edited, added, renamed}) == 4


def test_what_is_not_code_leaves_the_digest(package: Path) -> None:
    """Compiled files and documents do not make a run another one."""
    first = digest()
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "code.cpython-311.pyc").write_bytes(b"x")
    (package / "README.md").write_text("words")
    assert digest() == first


@pytest.mark.usefixtures("package")
def test_parameters_and_inputs_change_the_digest() -> None:
    """Each named part counts, its name too, and their order does not."""
    parts = {"a": "1", "b": "2"}
    others = [{"a": "1", "b": "3"}, {"a": "1"}, {"a": "1", "c": "2"}, {"a": "2", "b": "1"}, {"a": "1b=2"}]
    assert digest(dict(reversed(parts.items()))) == digest(parts)
    assert len({digest(parts), *map(digest, others)}) == 6


@pytest.mark.usefixtures("package")
def test_a_training_leaves_the_newest_other_checkpoints(collect: Collect, tmp_path: Path) -> None:
    """A change that is taken back finds what was trained before; what is older goes, and only where this process leads."""
    found = []
    for number, params in enumerate(("1", "2", "3")):
        provenance = collect().model_copy(update={"params_sha256": params})
        for leads in (False, True):
            own = training_folder(
                tmp_path / "all", provenance, code=["dcnas_digest_test"], execution="fp32", capability="", leads=leads
            )
            own.mkdir(parents=True, exist_ok=True)
            os.utime(own, (number, number))
            found.append(len(list((tmp_path / "all").iterdir())))
    assert found == [1, 1, 2, 2, 3, 2]
    assert {path.name for path in (tmp_path / "all").iterdir()} >= {own.name}
