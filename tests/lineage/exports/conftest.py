"""A small project that has run: a matrix, a folder of code, a given file, results with a cell map, real records of all runs."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dcnas_harness.files import md5_of, sha256_of, write_text
from dcnas_lineage.exports.state import ProjectState, load_state
from dcnas_lineage.recording import Recording
from dcnas_schema.cells import CellMap
from dcnas_schema.json_files import write_json_record
from dcnas_schema.run_record import RunRecord, record_path

PIPELINE = """
stages:
  generate:
    desc: Numbers to train on
    cmd: exec python -m dcnas_lineage.run generate -- dcnas_generate --out data/generate
    deps: [code/src, data/given.csv]
    params: [generate]
    outs: [data/generate/numbers.json, data/runs/generate.json]
  train:
    matrix: {model: ["a", "b c"]}
    desc: One model
    cmd: exec python -m dcnas_lineage.run "train@${item.model}" -- dcnas_train --model "${item.model}" --seed 3
    deps: [code/src, data/generate/numbers.json]
    params: [rate, loud]
    outs: ["data/train/${item.model}/weights.bin", "data/runs/train/${item.model}.json"]
  tabulate:
    desc: The table & its figures
    cmd: exec python -m dcnas_lineage.run tabulate -- dcnas_tabulate --out results
    deps: [code/src, data/train]
    params: [preset]
    outs: [results/table_1.md, results/table_1.csv, results/table_1.cells.json, results/figures, data/runs/tabulate.json]
"""
PARAMETERS = "preset: small\ngenerate: {size: 3, seed: 7}\nrate: 0.5\nloud: false\n"
CITATION = (
    'title: "A small project"\nlicense: Apache-2.0\nversion: 1.2.3\nauthors: [{name: "The <maintainers>"}]\n'
    'repository-code: "https://example.org/small"\n'
)
TABLE = """## Table 1: what became of it

| Model | PSNR (dB) |
| ----- | --------: |
| a     | **24.67** |
| b <c> | 17.65     |

† Noisy, not to be relied on.

Cells: one value.
"""


@pytest.fixture(scope="session")
def ran_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project; for reading alone."""
    root = tmp_path_factory.mktemp("small") / "project"
    root.mkdir()
    texts = {
        "dvc.yaml": PIPELINE,
        "params.yaml": PARAMETERS,
        "CITATION.cff": CITATION,
        "requirements.lock": "dvc==3.67.1 \\\n  --hash=sha256:00\nnumpy==2.3.1\n",
    }
    texts |= {
        "code/src/one.py": "1\n",
        "code/src/deep/two.py": "2\n",
        "data/given.csv": "x\n1\n",
        "README.md": "# Small\n",
    }
    for path, text in texts.items():
        write_text(root / path, text)
    (root / "presets").mkdir()
    git = ("git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", "dvc.yaml", "code"), ("commit", "-qm", "all")):
        subprocess.run([*git, *command], check=True, capture_output=True)
    runs = [
        _run(root, "generate", "dcnas_generate --out data/generate", {"data/generate/numbers.json": "[1, 2, 3]"}),
        *(
            _run(root, f"train@{m}", ("dcnas_train", "--model", m, "--seed", "3"), {f"data/train/{m}/weights.bin": m})
            for m in ("a", "b c")
        ),
    ]
    cells = CellMap(
        table="table_1",
        confidence=0.95,
        cells=(),
        source_sha256={"data/train/a/weights.bin": sha256_of(root / "data/train/a/weights.bin")},
    )
    figures = {
        "figures/curve_light.svg": "<svg/>",
        "figures/curve_dark.svg": "<svg></svg>",
        "figures/curve.figure.json": "{}",
    }
    results = {
        f"results/{name}": text for name, text in {"table_1.md": TABLE, "table_1.csv": "a,24.67\n", **figures}.items()
    }
    runs.append(_run(root, "tabulate", "dcnas_tabulate --out results", results, cells))
    lock_runs(root, runs)
    return root


@pytest.fixture
def project(ran_project: Path, tmp_path: Path) -> Path:
    """A copy of the project to do harm to."""
    return Path(shutil.copytree(ran_project, tmp_path / "project"))


@pytest.fixture
def state(ran_project: Path) -> ProjectState:
    """The state of the untouched project."""
    return load_state(ran_project)


@pytest.fixture
def relock() -> Callable[[Path, list[RunRecord]], None]:
    """What writes records and a dvc.lock that agrees with them, as a forger would."""

    def written(root: Path, runs: list[RunRecord]) -> None:
        for run in runs:
            write_json_record(root / record_path(run.stage), run)
        lock_runs(root, runs)

    return written


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two keys of ssh, `ours` and `theirs`, and the list `allowed` that names ours."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, capture_output=True)
    public = (folder / "ours.pub").read_text()
    (folder / "allowed").write_text(f'maintainer@example.org,deputy@example.org namespaces="dcnas-export" {public}')
    return folder


def lock_runs(root: Path, runs: list[RunRecord]) -> None:
    """Write the dvc.lock of runs."""
    stages = {}
    for run in runs:
        record = {"path": record_path(run.stage), "md5": md5_of(root / record_path(run.stage))}
        stages[run.stage] = {
            "cmd": run.command,
            "deps": [{"path": dep.path, "md5": dep.md5} for dep in run.deps],
            "params": {"params.yaml": run.params},
            "outs": [*({"path": out.path, "md5": out.md5} for out in run.outs), record],
        }
    with (root / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)


def _run(
    root: Path, stage: str, argv: str | tuple[str, ...], outs: dict[str, str], cells: CellMap | None = None
) -> RunRecord:
    recording = Recording(root, stage, tuple(argv.split()) if isinstance(argv, str) else argv)
    for path, text in outs.items():
        write_text(root / path, text)
    if cells is not None:
        write_json_record(root / "results/table_1.cells.json", cells)
    return recording.finish()
