"""dvc.lock read without DVC: which entries are alive, and who made what."""

from pathlib import Path

import pytest

from dcnas_harness.errors import BadInputError, CorruptArtefactError, DcnasError
from dcnas_lineage.lock import Lock, md5_as_locked

PIPELINE = """
stages:
  make: {cmd: make, outs: [data]}
  train:
    matrix: {model: "${runs.models}", seed: [0, 1]}
    cmd: train
"""
LOCKED = """
stages:
  make: {outs: [{path: data, md5: aa.dir}]}
  train@a-0: {deps: [{path: data/train, md5: bb}], outs: [{path: out/a/0/weights, md5: cc}]}
  train@removed-0: {deps: [], outs: [{path: out/removed/0/weights, md5: dd}]}
  former: {outs: [{path: elsewhere, md5: ee}]}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's three files."""
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "dvc.lock").write_text(LOCKED)
    (tmp_path / "params.yaml").write_text("runs: {models: [a, b]}\n")
    return tmp_path


def test_entries_of_removed_stages_are_left_out(root: Path) -> None:
    """What params.yaml and dvc.yaml no longer name stays in the file, and says nothing."""
    assert set(Lock(root).outputs) == {"data", "out/a/0/weights"}


def test_a_file_belongs_to_the_folder_that_holds_it(root: Path) -> None:
    """A file inside an output folder is made by that output's stage; a like-named folder is another."""
    lock = Lock(root)
    assert getattr(lock.producer_of("data/deep/file"), "stage", None) == "make"
    assert getattr(lock.producer_of("out/a/0/weights"), "md5", None) == "cc"
    assert lock.producer_of("database/file") is None
    assert getattr(lock.dependency_of("train@a-0", "data/train"), "md5", None) == "bb"
    assert lock.dependency_of("make", "data/train") is None


@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml", "params.yaml"])
def test_a_missing_file_is_named(root: Path, name: str) -> None:
    """Without one of the three there is nothing to audit: bad input, with the command."""
    (root / name).unlink()
    with pytest.raises(BadInputError, match=rf"(?s){name} does not exist.*dvc repro"):
        Lock(root)


def test_a_lock_cut_anywhere_is_refused_by_name(root: Path) -> None:
    """dvc.lock ended at any byte gives a message and a way back, or reads as a shorter lock; never an error of Python's own."""
    whole, said = LOCKED.strip(), []
    for end in range(len(whole)):
        (root / "dvc.lock").write_text(whole[:end])
        try:
            Lock(root)
        except DcnasError as error:
            said.append(str(error))
    assert len(said) > len(whole) // 2
    assert all("dvc.lock" in message for message in said)
    (root / "dvc.lock").write_text("stages: {make: {outs: [{path: data}]}}")
    with pytest.raises(CorruptArtefactError, match=r"(?s)dvc\.lock is cut short.*'md5'.*git checkout dvc\.lock"):
        Lock(root)


def test_a_folders_hash_follows_content_and_names_alone(tmp_path: Path) -> None:
    """Bytes and names count; times, compiled files and temporary files do not."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    (folder / "below" / "b").write_bytes(b"2")
    first = md5_as_locked(folder)
    assert first.endswith(".dir")
    (folder / "a").touch()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_bytes(b"x")
    (folder / ".a.7.tmp").write_bytes(b"x")
    assert md5_as_locked(folder) == first
    (folder / "below" / "b").write_bytes(b"3")
    assert md5_as_locked(folder) != first
    (folder / "below" / "b").write_bytes(b"2")
    (folder / "a").rename(folder / "c")
    assert md5_as_locked(folder) != first
