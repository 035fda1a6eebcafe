"""dvc.lock written an entry at a time: the bytes of DVC's own writing, wherever the entry stands."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml, load_yaml

from dcnas_flows.lockfile import with_entry, writing_entries_alone

NewProject = Callable[[Path, str], Path]

CHAIN = """
stages:
  first: {cmd: exec python work.py write a.txt work.py, deps: [work.py], outs: [a.txt]}
  second:
    matrix: {model: [one, two], seed: [0]}
    cmd: >-
      exec python work.py write out/${item.model}.txt a.txt --and-a-long-option-that-makes-dvc-fold-the-line --and-another-one
      --and-the-last
    deps: [a.txt]
    outs: ["out/${item.model}.txt"]
    params: [loss]
  third: {cmd: exec python work.py write c.txt out/one.txt, deps: [out/one.txt], outs: [c.txt]}
"""
PARAMS = "loss: {scale: 1.0e-3, name: 'yes', none: null, list: [[0.5, 1], []], text: \"two\\nlines: # 'x'\"}\n"


def repro(root: Path, *, quick: bool) -> None:
    """Run everything anew in this process, as `dvc repro --force --no-run-cache` does, with one of the two ways to write dvc.lock."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with pytest.MonkeyPatch.context() as patch, writing_entries_alone() if quick else nullcontext():
        patch.setenv("PATH", tools)
        patch.chdir(root)
        with Repo(str(root)) as opened:
            opened.reproduce(force=True, run_cache=False)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, new_project: NewProject) -> Path:
    """A project with entries of every form, which plain DVC has run."""
    root = new_project(tmp_path_factory.mktemp("chain") / "project", CHAIN)
    (root / "params.yaml").write_text(PARAMS)
    (root / "work.py").write_text(
        (root / "work.py").read_text().replace("sys.argv[3:]", "[a for a in sys.argv[3:] if a[0] != '-']")
    )
    repro(root, quick=False)
    return root


def test_each_entry_taken_out_and_put_back_gives_the_same_bytes(chain: Path) -> None:
    """An entry replaced by itself changes nothing; entries put one by one into an empty file give the whole."""
    text = (chain / "dvc.lock").read_text()
    entries = load_yaml(str(chain / "dvc.lock"))["stages"]
    assert len(entries) == 4
    grown: str | None = None
    for name, entry in entries.items():
        assert with_entry(text, name, entry) == text
        grown = with_entry(grown, name, entry) if grown else dumps_yaml({"schema": "2.0", "stages": {name: entry}})
    assert grown == text


def test_a_run_leaves_the_lock_file_of_plain_dvc(chain: Path) -> None:
    """From nothing, and after a change in the middle, both doors leave the same bytes."""
    plain = (chain / "dvc.lock").read_bytes()
    (chain / "dvc.lock").unlink()
    repro(chain, quick=True)
    assert (chain / "dvc.lock").read_bytes() == plain
    (chain / "params.yaml").write_text(PARAMS.replace("1.0e-3", "0.25"))
    repro(chain, quick=True)
    quick = (chain / "dvc.lock").read_bytes()
    assert quick != plain
    (chain / "dvc.lock").write_bytes(plain)
    repro(chain, quick=False)
    assert (chain / "dvc.lock").read_bytes() == quick


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stages:\n  a:\n    cmd: x\n",
        "schema: '2.0'\nstages: {a: {cmd: x}}\n",
        "schema: '2.0'\nstages:\n  a:\n    cmd: x",
    ],
)
def test_a_file_of_another_layout_is_left_to_dvc(text: str) -> None:
    """An empty, foreign or cut-off file is not edited as text."""
    assert with_entry(text, "a", {"cmd": "y"}) is None


def test_other_sections_stay_behind_the_stages() -> None:
    """A new entry goes after the last stage and before what follows."""
    text = "schema: '2.0'\nstages:\n  a:\n    cmd: x\ndatasets:\n- name: d\n"
    expected = "schema: '2.0'\nstages:\n  a:\n    cmd: x\n  b:\n    cmd: y\ndatasets:\n- name: d\n"
    assert with_entry(text, "b", {"cmd": "y"}) == expected


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0c"])
def test_only_a_line_feed_ends_a_line(odd: str) -> None:
    """What Python's `splitlines` takes for ends of lines too stands inside words of an entry, and the whole entry is replaced."""
    head, rest = "schema: '2.0'\nstages:\n", "  b:\n    cmd: z\n"
    old = f'  a:\n    cmd: "one{odd}two"\n'
    assert with_entry(head + old + rest, "a", {"cmd": "y"}) == head + "  a:\n    cmd: y\n" + rest
