"""The pipeline stage generate_data as it is run: what it writes, and how it ends when something is wrong."""

import hashlib
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_data.scenes import read_scenes
from dcnas_generate_data.__main__ import main
from dcnas_generate_data.write import write_splits
from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.process import exclusive_run
from dcnas_schema.params import Params, digest_of
from dcnas_schema.provenance import Provenance
from dcnas_schema.scenes import SPLITS

Python = Callable[..., subprocess.CompletedProcess[str]]
MODULE = ("-m", "dcnas_generate_data")
FILES = {*(f"{split}.parquet" for split in SPLITS), "provenance.json"}


@pytest.fixture
def arguments(tmp_path: Path, write_params: Callable[..., Path]) -> Callable[..., list[Any]]:
    """A function that gives the command's arguments, with changed parameters."""

    def make(changes: dict[str, Any] | None = None, out: Path | None = None) -> list[Any]:
        params = write_params(tmp_path / "params.yaml", changes)
        return [*MODULE, "--params", params, "--out", out or tmp_path / "out", "--scratch", tmp_path / "scratch"]

    return make


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_three_splits_say_what_they_are(tiny_scenes: Path, tiny_params: Callable[..., Params]) -> None:
    """Counts, size, seed, source, range and parameters stand in each file's metadata, and the scenes are there."""
    params = tiny_params().generate_data.digits
    assert {path.name for path in tiny_scenes.iterdir()} == FILES
    provenance = Provenance.model_validate_json((tiny_scenes / "provenance.json").read_text())
    assert (provenance.stage, provenance.item, provenance.seed) == ("generate_data", "digits", 0)
    assert provenance.params_sha256 == digest_of(params)
    for split, count in (("train", 16), ("validation", 4), ("test", 5)):
        scenes = read_scenes(tiny_scenes / f"{split}.parquet")
        assert scenes.images.shape == (count, 56, 56)
        found = scenes.metadata
        assert (found.split, found.source, found.scenes, found.size, found.seed) == (split, "optdigits", count, 56, 0)
        assert found.background == (0.1, 0.3)


def test_a_commit_changes_no_scene(
    tmp_path: Path, tiny_params: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another git state the tables keep their bytes, so nothing below is stale; only the provenance beside them differs."""
    made = {}
    for state in ((None, None), ("0" * 40, ("README.md",))):
        monkeypatch.setattr("dcnas_lineage.collect._git_state", lambda state=state: state)
        write_splits(tiny_params().generate_data.digits, tmp_path / str(state[0]))
        made[state[0]] = hashes(tmp_path / str(state[0]))
    differing = {name for name in FILES if made[None][name] != made["0" * 40][name]}
    assert differing == {"provenance.json"}


def test_the_command_says_what_it_does(tmp_path: Path, python: Python, arguments: Callable[..., list[Any]]) -> None:
    """It exits 0, prints its progress in plain lines, and leaves only the three tables and their provenance."""
    done = python(*arguments())
    assert done.returncode == 0, done.stderr
    assert "generate_data optdigits: 3/3 done" in done.stdout
    assert set(hashes(tmp_path / "out")) == FILES


def test_help_tells_run_takes_and_expect(in_process: Python) -> None:
    """`--help` shows the command, what it takes and what to expect."""
    done = in_process(main, "--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("Run:", "Takes:", "Expect:", "--out"))


def test_bad_input_ends_in_one_message(tmp_path: Path, in_process: Python, arguments: Callable[..., list[Any]]) -> None:
    """A wrong parameter exits 2, names it and a remedy without a traceback, and writes nothing."""
    done = in_process(main, *arguments({"generate_data.digits.size": 20})[2:], cwd=tmp_path)
    assert done.returncode == 2
    assert "generate_data.digits.size = 20" in done.stderr
    assert "remedy" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_read_only_folder_ends_before_the_work(
    read_only_disk: Path, in_process: Python, arguments: Callable[..., list[Any]]
) -> None:
    """An output folder that cannot be written exits 2 and is named."""
    done = in_process(main, *arguments(out=read_only_disk / "out")[2:])
    assert done.returncode == 2
    assert "read-only disk/out cannot be written" in done.stderr


def test_a_full_disk_keeps_the_old_scenes(small_disk: Path, tiny_params: Callable[..., Params]) -> None:
    """Scenes that do not fit are exit 3; the old file stays whole."""
    write_splits(tiny_params().generate_data.digits, small_disk)
    before = hashes(small_disk)
    many = {"generate_data.digits.scenes": {"train": 4096, "validation": 4, "test": 5}, "generate_data.digits.size": 96}
    with pytest.raises(UnfitEnvironmentError, match=r"No space left.*train\.parquet"):
        write_splits(tiny_params(many).generate_data.digits, small_disk)
    assert hashes(small_disk) == before


def test_a_second_run_of_the_same_output_is_refused(
    tmp_path: Path, in_process: Python, arguments: Callable[..., list[Any]]
) -> None:
    """While one process makes the scenes, another exits 3 and names it."""
    with exclusive_run(tmp_path / "out", tmp_path / "scratch"):
        done = in_process(main, *arguments()[2:])
    assert done.returncode == 3
    assert "another process (pid " in done.stderr


def test_a_killed_run_is_made_good_by_the_next(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], in_process: Python, arguments: Callable[..., list[Any]]
) -> None:
    """Killed while it writes, run again: the same bytes as an undisturbed run, nothing left over."""
    many = {"generate_data.digits.scenes": {"train": 8192, "validation": 4, "test": 5}}
    assert in_process(main, *arguments(many, out=tmp_path / "reference")[2:]).returncode == 0
    process = start(*arguments(many))
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("out/.train*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob("out/.train*.tmp")), "the kill did not fall into the writing"
    assert in_process(main, *arguments(many)[2:]).returncode == 0
    assert hashes(tmp_path / "out") == hashes(tmp_path / "reference")
