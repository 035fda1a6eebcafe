"""Outputs that nobody asks for any more."""

import shutil
from pathlib import Path

import pytest

from dcnas_app.presets import prune_outputs
from dcnas_schema.params import load_params


def make(root: Path, *paths: str) -> None:
    """Write small files."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")


def test_what_params_yaml_does_not_name_is_removed(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outputs and run records of unknown models, seeds and searches go, each told; all others stay, those of whole stages too."""
    shutil.copyfile(project / "presets" / "smoke.yaml", tmp_path / "params.yaml")
    params = load_params(tmp_path / "params.yaml")
    model, search = params.runs.models[0], params.search_runs.searches[0]
    seed = params.runs.seeds[0]
    kept = [
        f"data/retrain/{model}/{seed}/weights.safetensors",
        f"data/runs/retrain/{model}-{seed}.json",
        f"data/search_supernet/{search}/{params.search_runs.seeds[0]}/search.parquet",
        "data/runs/generate_data.json",
    ]
    gone = [
        f"data/retrain/{model}/99/weights.safetensors",
        "data/evaluate/old/0/record.parquet",
        f"data/runs/retrain/{model}-99.json",
        "data/runs/evaluate_photos/old-0.json",
        "data/runs/search_supernet/old-0.json",
    ]
    make(tmp_path, *kept, *gone)
    prune_outputs(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert left == set(kept)
    assert not (tmp_path / "data" / "evaluate" / "old").exists()
    told = capsys.readouterr().out
    assert all(path.startswith("data/runs") is (path in told) for path in gone)
    assert told.count("removed ") == len(gone)
