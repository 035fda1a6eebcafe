"""The PROV-JSON document, read back by the prov library."""

from pathlib import Path
from urllib.parse import quote

import pytest
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvCommunication,
    ProvDelegation,
    ProvDocument,
    ProvEntity,
    ProvGeneration,
    ProvUsage,
)

from dcnas_lineage.exports.prov import write_prov
from dcnas_lineage.exports.state import ProjectState, load_state, utc


@pytest.fixture
def document(state: ProjectState, tmp_path: Path) -> ProvDocument:
    """The document as the library understands it."""
    return ProvDocument.deserialize(str(write_prov(state, tmp_path / "prov.json")), format="json")


def test_the_library_reads_and_writes_it_without_loss(document: ProvDocument) -> None:
    """Through PROV-JSON again, and as PROV-N, which has no place for what is not of the model."""
    assert ProvDocument.deserialize(content=document.serialize(format="json"), format="json") == document
    assert "wasGeneratedBy(" in document.get_provn()


def test_every_run_is_an_activity_with_its_times(document: ProvDocument, state: ProjectState) -> None:
    """Start and end as the record has them, seed, commit and claim as attributes."""
    for run in state.runs:
        (activity,) = document.get_record(f"run:{run.run_id}")
        assert isinstance(activity, ProvActivity)
        assert (activity.get_startTime(), activity.get_endTime()) == (utc(run.started), utc(run.ended))
        attributes = {str(name): value for name, value in activity.attributes}
        assert attributes["dcnas:claimSha256"] == run.claim_sha256
        assert attributes["dcnas:commit"] == run.git.commit
        assert attributes.get("dcnas:seed") == run.seed
    assert len([*document.get_records(ProvActivity)]) == len(state.runs)


def test_files_are_entities_with_one_maker_each(document: ProvDocument, state: ProjectState) -> None:
    """Each file that a run made was generated once, by that run; what a run read it used; a folder of code is one entity."""
    made = {str(record.args[0]): str(record.args[1]) for record in document.get_records(ProvGeneration)}
    assert made == {
        f"file:{quote(file.path)}@{file.sha256[:16]}": f"run:{run.run_id}"
        for run in state.runs
        for file in run.files_made()
    }
    assert len([*document.get_records(ProvGeneration)]) == len(made)
    used = {(str(record.args[0]), str(record.args[1])) for record in document.get_records(ProvUsage)}
    tabulated = {name.partition("@")[0] for run, name in used if run == f"run:{state.runs[-1].run_id}"}
    assert tabulated == {"file:code/src", "file:data/train/a/weights.bin", "file:data/train/b%20c/weights.bin"}
    known = {str(entity.identifier) for entity in document.get_records(ProvEntity)}
    assert {name for _, name in used} | set(made) <= known


def test_runs_agents_and_plan_are_tied_together(document: ProvDocument, state: ProjectState) -> None:
    """Each run was informed by those upstream, associated with the engine by the plan dvc.yaml, on behalf of an account."""
    informed = {(str(r.args[0]), str(r.args[1])) for r in document.get_records(ProvCommunication)}
    assert informed == {(f"run:{run.run_id}", f"run:{up.run_id}") for run in state.runs for up in run.upstream}
    assert {str(r.args[2]) for r in document.get_records(ProvAssociation)} == {"file:dvc.yaml"}
    assert len([*document.get_records(ProvAssociation)]) == len(state.runs)
    who = f"agent:{state.runs[0].machine.user}@{state.runs[0].machine.host}"
    assert {str(r.args[1]) for r in document.get_records(ProvDelegation)} == {who}
    assert {str(agent.identifier) for agent in document.get_records(ProvAgent)} == {"agent:dvc", who}


def test_the_same_state_gives_the_same_bytes(state: ProjectState, project: Path, tmp_path: Path) -> None:
    """In another folder, the same document."""
    one, other = write_prov(state, tmp_path / "one.json"), write_prov(load_state(project), tmp_path / "other.json")
    assert one.read_bytes() == other.read_bytes()
