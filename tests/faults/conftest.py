"""A small DVC project whose stages stand on the harness as the real ones do: they are killed, starved of disk and misled about the time."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

PIPELINE = """
stages:
  first:
    cmd: exec python first.py
    deps: [first.py]
    outs: [data/table.parquet, data/record.json, data/folder]
  second:
    cmd: exec python second.py
    deps: [second.py, data/table.parquet]
    outs: [data/second.json]
  third:
    cmd: exec python third.py
    deps: [third.py, data/second.json]
    outs: [data/third.bin]
"""
FIRST = '''
"""Ends at once, and leaves a line each time it has run."""
from pathlib import Path
import pyarrow as pa
from pydantic import BaseModel
from dcnas_harness.files import write_json, write_text
from dcnas_harness.process import die_with_parent, run_stage
from dcnas_schema.parquet import with_metadata, write_parquet

class Kind(BaseModel):
    seed: int = 3

def main():
    die_with_parent()
    with Path("runs.tmp").open("a") as runs:
        runs.write("first\\n")
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    batch = pa.RecordBatch.from_pylist([{"n": i * i} for i in range(2000)], schema=schema)
    write_parquet(Path("data/table.parquet"), with_metadata(schema, Kind()), [batch])
    write_json(Path("data/record.json"), {"value": 0.25})
    write_text(Path("data/folder/a.txt"), "a")
    write_text(Path("data/folder/sub/b.txt"), "b")

run_stage(main)
'''
SECOND = '''
"""Forty steps, each kept in scratch; after every fifth it waits until the file `go` names it. A helper process answers at the end."""
import hashlib, os, time
from pathlib import Path
from dcnas_harness.asking import respondent
from dcnas_harness.files import read_json, write_json
from dcnas_harness.process import die_with_parent, exclusive_run, run_stage

STATE = Path(".scratch/state.json")
os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])  # for the helper

def main():
    die_with_parent()
    with exclusive_run(Path("data/second.json"), Path(".scratch")), respondent("helper") as ask:
        state = read_json(STATE) if STATE.exists() else {"step": 0, "value": ""}
        with Path("runs.tmp").open("a") as runs:
            runs.write(f"second from {state['step']}\\n")
        while state["step"] < 40:
            value = hashlib.sha256(f"{state['value']}{state['step']}".encode()).hexdigest()
            state = {"step": state["step"] + 1, "value": value}
            write_json(STATE, state)
            while state["step"] % 5 == 0 and state["step"] > int(Path("go").read_text()):
                time.sleep(0.01)
        write_json(Path("data/second.json"), {"value": state["value"], "helper": ask("?")})

run_stage(main)
'''
HELPER = """
from dcnas_harness.asking import respond

respond(lambda: lambda question: f"asked {question}")
"""
THIRD = '''
"""Two million bytes that follow from the second stage's value."""
import random
from pathlib import Path
from dcnas_harness.files import atomic_write, read_json
from dcnas_harness.process import die_with_parent, run_stage

def main():
    die_with_parent()
    with Path("runs.tmp").open("a") as runs:
        runs.write("third\\n")
    with atomic_write(Path("data/third.bin")) as temporary:
        temporary.write_bytes(random.Random(read_json(Path("data/second.json"))["value"]).randbytes(2_000_000))

run_stage(main)
'''


def dvc(root: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start dvc in a process group of its own, its output caught."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def start_dvc() -> Callable[..., "subprocess.Popen[str]"]:
    """The function that starts dvc."""
    return dvc


@pytest.fixture
def unmade(tmp_path: Path) -> Path:
    """The project before its first run; the file `go` lets the second stage run through."""
    return _new_project(tmp_path / "project")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after `dvc repro`; tests must leave it as it is."""
    root = _new_project(tmp_path_factory.mktemp("made") / "project")
    process = dvc(root, "repro")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return root


@pytest.fixture
def made(made_once: Path, tmp_path: Path) -> Path:
    """A copy of the finished project."""
    return Path(shutil.copytree(made_once, tmp_path / "project"))


def _new_project(root: Path) -> Path:
    root.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    Repo.init(str(root)).close()
    scripts = {"first.py": FIRST, "second.py": SECOND, "helper.py": HELPER, "third.py": THIRD}
    for name, text in {**scripts, "dvc.yaml": PIPELINE, "params.yaml": "{}\n", "go": "40"}.items():
        (root / name).write_text(text.lstrip())
    (root / "presets").mkdir()
    return root
