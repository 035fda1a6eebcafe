"""The state that is exported: what is read, in which order, and when it is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_lineage.exports.state import ProjectState, load_state
from dcnas_schema.run_record import RunRecord


def test_runs_stand_behind_those_that_they_read_from(state: ProjectState) -> None:
    """Upstream first, then by name; a step's position is above those of the steps it reads from."""
    assert [run.stage for run in state.runs] == ["generate", "train@a", "train@b c", "tabulate"]
    assert [(step.name, step.position, len(step.runs)) for step in state.steps] == [
        ("generate", 1, 1),
        ("train", 2, 2),
        ("tabulate", 3, 1),
    ]


def test_what_no_run_made_is_given(state: ProjectState) -> None:
    """The source file and the folder of code, not what one run hands to the next; the results are those a reader gets."""
    assert [dep.path for dep in state.given] == ["code/src", "data/given.csv"]
    assert {file.path for file in state.results} == {
        "results/table_1.md",
        "results/table_1.csv",
        "results/table_1.cells.json",
        "results/figures/curve_light.svg",
        "results/figures/curve_dark.svg",
        "results/figures/curve.figure.json",
    }


def test_a_pipeline_that_has_not_run_to_its_end_is_refused(project: Path) -> None:
    """A stage without a record is named, with the way to get one."""
    (project / "data/runs/train/b c.json").unlink()
    with pytest.raises(BadInputError, match=r"(?s)train@b c.*make repro"):
        load_state(project)


def test_changed_parameters_are_refused(project: Path) -> None:
    """What would be exported is of another state than params.yaml: bad input, the key named."""
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("0.5", "0.25"))
    with pytest.raises(BadInputError, match=r"train@a ran with another params.yaml: rate"):
        load_state(project)


@pytest.mark.parametrize("harm", ["cut", "edited"])
def test_a_harmed_record_is_refused(project: Path, harm: str) -> None:
    """A record cut short, or edited where only DVC's hash tells, is a corrupt artefact."""
    path = project / "data/runs/train/a.json"
    text = path.read_text()
    path.write_text(text[:100] if harm == "cut" else text.replace('"seed": 3', '"seed": 4'))
    with pytest.raises(CorruptArtefactError, match=r"data/runs/train/a\.json"):
        load_state(project)


def test_records_that_contradict_each_other_are_refused(
    project: Path, state: ProjectState, relock: Callable[[Path, list[RunRecord]], None]
) -> None:
    """A record forged together with dvc.lock gives itself away where the next run read another file."""
    runs = list(state.runs)
    made = runs[1].outs[0]
    forged = made.model_copy(update={"files": (made.files[0].model_copy(update={"sha256": "0" * 64}),)})
    runs[1] = runs[1].model_copy(update={"outs": (forged,)})
    relock(project, runs)
    with pytest.raises(
        CorruptArtefactError, match=r"tabulate read another data/train/a/weights\.bin than train@a made"
    ):
        load_state(project)
