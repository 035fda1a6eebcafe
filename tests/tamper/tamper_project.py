"""
A small real project: scenes and tables by the real stages, profiling, training and scoring by stand-ins.

One model, two seeds, seven pipeline stages, each through the wrapper, with a cache and a remote.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).resolve().parent / "mini_stages"
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
CODE = ("packages/harness/src", "packages/schema/src", "packages/lineage/src", "stages/tabulate/src")
PIPELINE = """\
stages:
  generate_data:
    cmd: exec python -m dcnas_lineage.run generate_data -- dcnas_generate_data --out data/generate_data/digits
    deps: [packages/schema/src]
    params: [generate_data.digits]
    outs:
      - data/generate_data/digits/train.parquet
      - data/generate_data/digits/validation.parquet
      - data/generate_data/digits/test.parquet
      - data/runs/generate_data.json
  profile_latency:
    cmd: exec python -m dcnas_lineage.run profile_latency -- mini_profile --out data/profile_latency/lut.json
    deps: [mini_stages]
    params: [profile_latency]
    outs: [data/profile_latency/lut.json, data/runs/profile_latency.json]
    meta: {timing: true}
  retrain:
    matrix: {model: "${runs.models}", seed: "${runs.seeds}"}
    cmd: >-
      exec python -m dcnas_lineage.run retrain@${item.model}-${item.seed} -- mini_retrain --model ${item.model} --seed ${item.seed}
      --scenes data/generate_data/digits --out data/retrain/${item.model}/${item.seed}
    deps: [mini_stages, data/generate_data/digits/train.parquet, data/generate_data/digits/validation.parquet]
    params: ["models.${item.model}", retrain]
    outs:
      - data/retrain/${item.model}/${item.seed}/weights.safetensors
      - data/retrain/${item.model}/${item.seed}/log.parquet
      - data/runs/retrain/${item.model}-${item.seed}.json
  evaluate:
    matrix: {model: "${runs.models}", seed: "${runs.seeds}"}
    cmd: >-
      exec python -m dcnas_lineage.run evaluate@${item.model}-${item.seed} -- mini_evaluate --model ${item.model} --seed ${item.seed}
      --scenes data/generate_data/digits --trained data/retrain/${item.model}/${item.seed} --lut data/profile_latency/lut.json
      --out data/evaluate/${item.model}/${item.seed}
    deps:
      - data/device.json
      - mini_stages
      - data/generate_data/digits/test.parquet
      - data/profile_latency/lut.json
      - data/retrain/${item.model}/${item.seed}/weights.safetensors
      - data/retrain/${item.model}/${item.seed}/log.parquet
    params: [noise, "models.${item.model}", evaluate]
    outs:
      - data/evaluate/${item.model}/${item.seed}/record.parquet
      - data/evaluate/${item.model}/${item.seed}/panel.parquet
      - data/runs/evaluate/${item.model}-${item.seed}.json
    meta: {timing: true}
  tabulate:
    cmd: >-
      exec python -m dcnas_lineage.run tabulate -- dcnas_tabulate --records data/evaluate
      --reference data/reference/paper_tables.csv --out results
    deps: [packages/schema/src, packages/lineage/src, stages/tabulate/src, data/reference/paper_tables.csv, data/evaluate]
    params: [preset, runs, models, generate_data.digits, tabulate]
    outs:
      - results/table_1.md
      - results/table_1.csv
      - results/table_1.parquet
      - results/table_1.cells.json
      - results/table_7.md
      - results/table_7.csv
      - results/table_7.parquet
      - results/table_7.cells.json
      - results/table_8.md
      - results/table_8.csv
      - results/table_8.parquet
      - results/table_8.cells.json
      - results/figures
      - results/index.html
      - results/curves
      - data/runs/tabulate.json
    metrics: [results/metrics.json]
"""
IGNORED = """\
/data/device.json
/data/generate_data/
/data/profile_latency/
/data/retrain/
/data/evaluate/
/data/runs/
/results/
/.scratch/
__pycache__/
*.tmp
"""


def run(command: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a project with the stand-ins importable; its failure fails the test."""
    done = attempt(command, root)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def attempt(command: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a project with the stand-ins importable."""
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(STAND_INS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DVC_NO_ANALYTICS": "1",
    }
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=900)


def commit(root: Path, message: str) -> None:
    """Commit all that git does not ignore."""
    run(["git", "add", "--all"], root)
    run(["git", *IDENTITY, "commit", "--quiet", "--allow-empty", "--message", message], root)


def new_project(root: Path) -> Path:
    """Make the project, as yet without results, and return it."""
    for path in (*CODE, "presets", ".dvcignore", "requirements.lock", "data/reference/paper_tables.csv"):
        source, target = PROJECT / path, root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    shutil.copytree(STAND_INS, root / "mini_stages", ignore=shutil.ignore_patterns("__pycache__"))
    params = (PROJECT / "presets/smoke.yaml").read_text(encoding="utf-8")
    params = params.replace("seeds: [0]", "seeds: [0, 1]", 1)
    others = "    - dcnet_reduced_sequential\n    - unet_s\n    - classifier_conv_noisy\n"
    assert others in params, "the smoke preset runs other models now"
    params = params.replace(others, "", 1)
    (root / "params.yaml").write_text(params, encoding="utf-8")
    (root / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (root / ".gitignore").write_text(IGNORED, encoding="utf-8")
    (root / "data/device.json").write_text('{"cpu": "test"}\n', encoding="utf-8")
    run(["git", "init", "--quiet"], root)
    run(["dvc", "init", "--quiet"], root)
    (root / ".dvc/config").write_text(
        "[core]\n    analytics = false\n    remote = store\n[cache]\n    type = copy\n['remote \"store\"']\n    url = ../../remote\n",
        encoding="utf-8",
    )
    commit(root, "project")
    return root
