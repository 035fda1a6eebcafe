"""The soak of `make bench` on a small project: it kills, it tells what it killed, and it sees what is wrong."""

import importlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_harness.files import md5_of

Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
@pytest.mark.long
def test_kills_at_random_end_as_if_nothing_had_been(
    project: Path, unmade: Path, python: Python, tmp_path: Path
) -> None:
    """Two kills: both are told with their kind, all outputs are those of the undisturbed run, nobody is left behind."""
    result = tmp_path / "soak.json"
    done = python(project / "benchmarks/soak.py", "--project", unmade, "--kills", 2, "--seed", 1, "--json", result)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(result.read_text())
    assert [bar["met"] for bar in found["bars"]] == [True] * 3
    results = found["results"]
    assert sum(results["kills_by_kind"].values()) == len(results["kills"]) == 2
    assert set(results["kills_by_kind"]) <= {"dvc", "stage", "child of a stage", "child of dvc"}
    assert results["compared"] == 5 * results["chains"]
    assert (results["differences"], results["hangs"], results["orphans"]) == ([], 0, 0)


def test_whatever_differs_is_seen(project: Path, made_once: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another output, a damaged one and a part of a file are told by name; run records, which hold times, may differ."""
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    soak = importlib.import_module("soak")
    nothing, found = soak.Soak(), soak.Soak()
    soak._compare(made_once, made, nothing)
    assert (nothing.differences, nothing.damaged, nothing.left_over, nothing.compared) == ([], [], [], 5)
    lock = (made / "dvc.lock").read_text()
    md5 = md5_of(made / "data/second.json")
    (made / "dvc.lock").write_text(lock.replace(md5, "f" * 32))
    (made / "data/folder/a.txt").write_text("x")
    (made / "data/.third.bin.1.tmp").touch()
    soak._compare(made_once, made, found)
    assert found.differences == [f"data/second.json: {'f' * 32}, not {md5}"]
    assert [line.split(": ")[0] for line in found.damaged] == [f"{made}/data/folder/a.txt", f"{made}/data/second.json"]
    assert found.left_over == ["data/.third.bin.1.tmp"]
    steps = soak.Steps(start_s=3.0, seconds={"a": 1.0, "b": 2.0})
    assert steps.left_s({"a"}) == 2.0
