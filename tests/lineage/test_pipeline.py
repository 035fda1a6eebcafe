"""dvc.yaml read without DVC: the same stages, and nothing guessed."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from dcnas_harness.errors import BadInputError
from dcnas_lineage.pipeline import load_pipeline, resolve
from dcnas_schema.run_record import record_path, stage_of

PROJECT = Path(__file__).resolve().parents[2]
PRESETS = sorted(path.stem for path in (PROJECT / "presets").glob("*.yaml"))
SMALL = """
stages:
  make: {cmd: make, deps: [code], outs: [data]}
  train:
    matrix: {model: "${runs.models}", seed: [0, 1]}
    cmd: train ${item.model} ${item.seed} ${device.threads}
    deps: [data/train]
    params: ["models.${item.model}"]
    outs: ["out/${item.model}/${item.seed}"]
    meta: {cpu: "${device.threads}"}
  table: {cmd: table, deps: [out], outs: [t.md]}
"""
VALUES = "runs: {models: [a, b]}\ndevice: {threads: 2}\nmodels: {a: {x: 1}, b: {x: 2}}\n"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_reader_agrees_with_dvc(preset: str, tmp_path: Path) -> None:
    """Each stage of the real graph has DVC's own name, command, dependencies, parameters, outputs and meta, at every preset."""
    shutil.copyfile(PROJECT / "dvc.yaml", tmp_path / "dvc.yaml")
    shutil.copyfile(PROJECT / f"presets/{preset}.yaml", tmp_path / "params.yaml")
    Repo.init(str(tmp_path), no_scm=True).close()
    with Repo(str(tmp_path)) as repo:
        theirs = {
            stage.name: (
                stage.cmd,
                sorted(dep.def_path for dep in stage.deps if not hasattr(dep, "params")),
                sorted(key for dep in stage.deps for key in getattr(dep, "params", ())),
                sorted(out.def_path for out in stage.outs),
                dict(stage.meta or {}),
            )
            for stage in repo.index.stages
        }
    ours = {
        stage.name: (stage.command, sorted(stage.deps), sorted(stage.params), sorted(stage.outs), stage.meta)
        for stage in load_pipeline(tmp_path).stages.values()
    }
    assert ours == theirs


def test_every_stage_runs_through_the_wrapper_and_leaves_a_record() -> None:
    """All commands of dvc.yaml name their own stage to the wrapper, and the record is an output."""
    stages = load_pipeline(PROJECT).stages.values()
    for stage in stages:
        assert stage.command.startswith(f"exec python -m dcnas_lineage.run {stage.name} -- dcnas_"), stage.name
        assert stage.record == record_path(stage.name)
        assert stage_of(stage.record) == stage.name
        assert not stage.loose


def test_items_names_and_values_are_filled_in() -> None:
    """A matrix makes a stage for each combination; a reference that is all of a text keeps its type."""
    pipeline = resolve(SMALL, VALUES)
    assert list(pipeline.stages) == ["make", "train@a-0", "train@a-1", "train@b-0", "train@b-1", "table"]
    stage = pipeline.stage("train@b-1")
    assert (stage.command, stage.params, stage.outs) == ("train b 1 2", {"models.b": {"x": 2}}, ("out/b/1",))
    assert stage.meta == {"cpu": 2}


def test_what_is_upstream_follows_from_paths() -> None:
    """A file in an output folder, and a folder of outputs, lead to their makers."""
    pipeline = resolve(SMALL, VALUES)
    assert pipeline.upstream("train@a-0") == ("make",)
    assert pipeline.upstream("table") == ("train@a-0", "train@a-1", "train@b-0", "train@b-1")
    assert pipeline.upstream("make") == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("${runs.models}", "${runs.nets}", "runs.nets"),
        ("cmd: make,", "cmd: 'make ${x[0]}',", "not known here"),
        ("matrix:", "foreach: [a]\n    matrix:", "foreach"),
        ("cmd: make,", "cmd: 'make ${models}',", "cannot stand inside a text"),
    ],
)
def test_what_is_not_known_is_refused(old: str, new: str, said: str) -> None:
    """Templating beyond what the project uses is bad input, never read as something else."""
    assert old in SMALL
    with pytest.raises(BadInputError) as refused:
        resolve(SMALL.replace(old, new), VALUES)
    assert said in str(refused.value)


def test_an_unknown_stage_is_named_with_the_nearest() -> None:
    """A mistyped stage is bad input; the one that is most like it is offered."""
    with pytest.raises(BadInputError, match=r"train@a-0"):
        resolve(SMALL, VALUES).stage("trian@a-0")


def test_a_kept_reading_is_taken_again_and_a_damaged_one_made_anew(tmp_path: Path) -> None:
    """What is kept in .scratch reads as what was parsed, goes with the bytes of both files, and is never trusted damaged."""
    (tmp_path / "dvc.yaml").write_text(SMALL)
    (tmp_path / "params.yaml").write_text(VALUES)
    first = load_pipeline(tmp_path, keep=True)
    (kept,) = (tmp_path / ".scratch/lineage").glob("*.json")
    assert load_pipeline(tmp_path, keep=True).stages == first.stages
    kept.write_text('[{"name": 1}]')
    assert load_pipeline(tmp_path, keep=True).stages == first.stages
    (tmp_path / "params.yaml").write_text(VALUES.replace("threads: 2", "threads: 3"))
    assert load_pipeline(tmp_path, keep=True).stage("train@a-0").command == "train a 0 3"
