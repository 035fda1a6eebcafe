"""The flow and `dvc repro` give the same bytes on the project's own graph."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dcnas_flows.project import plan
from dcnas_schema.params import read_yaml
from dcnas_schema.run_record import RUNS

Command = Callable[..., subprocess.CompletedProcess[str]]
FLOW = ["dcnas", "flow", "run", "--no-prefect", "--jobs", "2"]
ITEM = "dcnet_reduced_integrated-0"
TABLES = {"tabulate", "tabulate_photos"}
FIRST = ("generate_data", "profile_latency", f"retrain@{ITEM}", f"evaluate@{ITEM}")


def locked(root: Path) -> dict[str, Any]:
    """Return what dvc.lock says of each pipeline stage: its command, parameters and the hashes of all that it read and made."""
    stages: dict[str, Any] = read_yaml(root / "dvc.lock")["stages"]
    for entry in stages.values():  # run records hold times and hosts: no two runs give the same
        entry["outs"] = [out for out in entry["outs"] if not out["path"].startswith(RUNS)]
    return stages


@pytest.mark.slow
def test_the_flow_gives_the_bytes_of_dvc_repro(smoke: Path, tmp_path: Path, command: Command) -> None:
    """
    A clone with an empty cache, run by the flow, ends with the entries of dvc.lock that `dvc repro` wrote: every output has its hash.

    Each kind of pipeline stage runs once; the other models' outputs are copied before the tables are made of all, two at once where
    `dvc repro` made one after the other.
    """
    clone = tmp_path / "clone"
    assert command(["git", "clone", "--quiet", str(smoke), str(clone)], tmp_path).returncode == 0
    first = command([*FLOW, f"evaluate@{ITEM}", "profile_latency"], clone)
    assert first.returncode == 0, first.stdout + first.stderr
    expected = locked(smoke)
    assert locked(clone) == {name: expected[name] for name in FIRST}
    for folder in ("data", ".dvc/cache/files"):  # not .dvc/cache/runs: the tables are not restored
        shutil.copytree(smoke / folder, clone / folder, dirs_exist_ok=True)
    whole = read_yaml(smoke / "dvc.lock")["stages"]
    others = {name: entry for name, entry in whole.items() if name not in TABLES}
    with (clone / "dvc.lock").open("w") as file:
        YAML(typ="safe").dump({"schema": "2.0", "stages": others}, file)
    assert {step.name for step in plan(clone, []).stale} == TABLES
    last = command(FLOW, clone)
    assert last.returncode == 0, last.stdout + last.stderr
    for name in TABLES:
        assert last.stdout.index(f"Running stage '{name}':") < last.stdout.index("[1/2]"), (
            "both run before one has ended"
        )
    assert locked(clone) == expected
    assert not plan(clone, []).stale
