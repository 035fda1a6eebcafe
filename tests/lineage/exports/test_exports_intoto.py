"""The in-toto statement: read by in-toto's own library, signed and verified by ssh-keygen, refused where anything was touched."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from typer.testing import CliRunner

from dcnas_app.main import app
from dcnas_harness.errors import BadInputError, CorruptArtefactError, ExitCode
from dcnas_harness.files import sha256_of
from dcnas_lineage.exports.intoto import check_subjects, statement, write_intoto
from dcnas_lineage.exports.signing import NAMESPACE, sign, signature_of, verify
from dcnas_lineage.exports.state import ProjectState, load_state


@pytest.fixture
def signed(project: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A statement of the project in it, signed by the command; the project is the current folder."""
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["export", "intoto", "--out", "statement.json", "--sign", str(keys / "ours")])
    assert done.exception is None, done.output
    return project / "statement.json"


@pytest.fixture
def refusal(keys: Path) -> Callable[[Path], str]:
    """What verifies by the command, and returns the message of a refusal; its exit code is that of corrupt artefacts."""

    def refused(file: Path) -> str:
        done = CliRunner().invoke(app, ["export", "verify", str(file), "--allowed-signers", str(keys / "allowed")])
        assert isinstance(done.exception, CorruptArtefactError)
        assert done.exception.exit_code is ExitCode.CORRUPT_ARTEFACT
        return str(done.exception)

    return refused


def test_in_totos_own_library_reads_it(state: ProjectState) -> None:
    """The statement passes the validation of in-toto-attestation; its predicate is SLSA provenance without an unknown field."""
    made = statement(state)
    parsed = json_format.ParseDict(made, statement_pb2.Statement())
    Statement.copy_from_pb(parsed).validate()
    assert json_format.MessageToDict(parsed) == made
    predicate = json_format.ParseDict(made["predicate"], Provenance())
    assert json_format.MessageToDict(predicate) == made["predicate"]
    assert predicate.build_definition.build_type
    assert predicate.run_details.builder.id
    assert (
        predicate.run_details.metadata.started_on.ToDatetime()
        <= predicate.run_details.metadata.finished_on.ToDatetime()
    )
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"


def test_subjects_are_the_results(state: ProjectState) -> None:
    """Every result with the SHA-256 of the file that lies there."""
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement(state)["subject"]}
    assert subjects == {file.path: sha256_of(state.root / file.path) for file in state.results}


def test_what_it_was_made_of_is_named(state: ProjectState) -> None:
    """Commit, pipeline, parameters, environment, data and code; a folder by the hash that in-toto gives a shell line for."""
    build = statement(state)["predicate"]["buildDefinition"]
    found = {dependency["name"]: dependency for dependency in build["resolvedDependencies"]}
    line = "find . -type f | cut -c3- | LC_ALL=C sort | xargs -r sha256sum | sha256sum | cut -f1 -d' '"
    by_shell = subprocess.run(line, shell=True, cwd=state.root / "code/src", capture_output=True, text=True, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=state.root, capture_output=True, text=True, check=True)
    assert found["source code"] == {
        "name": "source code",
        "digest": {"gitCommit": head.stdout.strip()},
        "uri": f"git+https://example.org/small@{head.stdout.strip()}",
    }
    assert found["code/src/"]["digest"] == {"dirHash": by_shell.stdout.strip()}
    for name in ("dvc.yaml", "params.yaml", "requirements.lock", "data/given.csv"):
        assert found[name]["digest"] == {"sha256": sha256_of(state.root / name)}
    assert build["externalParameters"]["values"] == {
        "generate": {"size": 3, "seed": 7},
        "loud": False,
        "preset": "small",
        "rate": 0.5,
    }
    assert [run["claimSha256"] for run in build["internalParameters"]["runs"]] == [
        run.claim_sha256 for run in state.runs
    ]


def test_the_same_state_gives_the_same_bytes(state: ProjectState, project: Path, tmp_path: Path) -> None:
    """In another folder, the same statement."""
    one, other = write_intoto(state, tmp_path / "one.json"), write_intoto(load_state(project), tmp_path / "other.json")
    assert one.read_bytes() == other.read_bytes()


def test_an_edited_result_is_not_attested(project: Path) -> None:
    """No statement is made about a table that its run did not make."""
    (project / "results/table_1.md").write_text("| better |\n")
    with pytest.raises(CorruptArtefactError, match=r"results/table_1\.md has sha256"):
        statement(load_state(project))


def test_a_signed_statement_is_verified(signed: Path, keys: Path) -> None:
    """The command names the signer as the list does, and how many results hold."""
    done = CliRunner().invoke(app, ["export", "verify", str(signed), "--allowed-signers", str(keys / "allowed")])
    assert done.exception is None
    assert "signed by maintainer@example.org, 6 subjects hold" in done.output


def test_a_copy_of_the_results_is_verified_anywhere(
    signed: Path, keys: Path, state: ProjectState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the folder of a copy instead of results/, the same statement answers for it, far from the project; what is missing is named."""
    copy = (signed.parent / "results").rename(tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    assert check_subjects(signed, copy, of_results=True) == len(state.results)
    (copy / "table_1.csv").unlink()
    command = ["export", "verify", str(signed), "--allowed-signers", str(keys / "allowed"), "--results", str(copy)]
    assert "table_1.csv does not exist" in str(CliRunner().invoke(app, command).exception)


def test_a_tampered_statement_is_refused(signed: Path, refusal: Callable[[Path], str]) -> None:
    """One digit of one hash, written back: the signature does not hold."""
    document = json.loads(signed.read_bytes())
    document["subject"][0]["digest"]["sha256"] = "0" * 64
    signed.write_text(json.dumps(document))
    assert "does not hold" in refusal(signed)


@pytest.mark.parametrize("harm", ["edited", "gone"])
def test_a_tampered_subject_is_refused(signed: Path, refusal: Callable[[Path], str], harm: str) -> None:
    """A table of the same length and time of change, or none at all: the signature holds, the subject does not."""
    table = signed.parent / "results/table_1.md"
    text = table.read_text()
    table.unlink()
    if harm == "edited":
        table.write_text(text.replace("24.67", "34.67"))
    assert "results/table_1.md" in refusal(signed)


def test_an_unsigned_statement_is_refused(signed: Path, refusal: Callable[[Path], str]) -> None:
    """Without its signature it says nothing."""
    signature_of(signed).unlink()
    assert "is not signed" in refusal(signed)


def test_another_hand_and_another_purpose_are_refused(signed: Path, refusal: Callable[[Path], str], keys: Path) -> None:
    """A key that is not in the list; the right key, but a signature that was made for something else, such as git."""
    sign(signed, keys / "theirs")
    assert "does not hold" in refusal(signed)
    signature_of(signed).unlink()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(keys / "ours"), str(signed)]
    subprocess.run(command, check=True, capture_output=True)
    assert "does not hold" in refusal(signed)


@pytest.mark.parametrize("limit", ['valid-before="20200101"', 'namespaces="git"'])
def test_the_limits_of_a_signer_are_heeded(signed: Path, keys: Path, tmp_path: Path, limit: str) -> None:
    """A key that the list lets sign until an earlier day, or other things than exports, vouches for nothing here."""
    public = (keys / "ours.pub").read_text()
    (tmp_path / "allowed").write_text(f"maintainer@example.org {limit} {public}")
    with pytest.raises(CorruptArtefactError, match="does not hold"):
        verify(signed, tmp_path / "allowed")


def test_an_older_signature_is_replaced(signed: Path, keys: Path) -> None:
    """Signing again asks nobody, and verifies."""
    signed.write_bytes(signed.read_bytes() + b"\n")
    sign(signed, keys / "ours")
    assert verify(signed, keys / "allowed") == "maintainer@example.org"
    assert NAMESPACE == "dcnas-export"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            {"subject": [{"name": "../outside", "digest": {"sha256": hashlib.sha256(b"").hexdigest()}}]},
            id="a subject outside the project",
        ),
        pytest.param({"subject": []}, id="no subject"),
        pytest.param({"subject": [{"name": "results/table_1.md", "digest": {"md5": "0" * 32}}]}, id="no SHA-256"),
        pytest.param({"predicateType": "https://example.org/other"}, id="another predicate"),
        pytest.param({"_type": "https://in-toto.io/Statement/v0.1"}, id="another version"),
    ],
)
def test_what_is_no_such_statement_is_refused(state: ProjectState, tmp_path: Path, change: dict[str, Any]) -> None:
    """A file of another kind, whoever signed it, is a corrupt artefact and no crash."""
    (state.root.parent / "outside").write_text("")
    file = tmp_path / "statement.json"
    file.write_text(json.dumps(statement(state) | change))
    with pytest.raises(CorruptArtefactError):
        check_subjects(file, state.root)


def test_a_key_that_is_none_is_bad_input(tmp_path: Path) -> None:
    """No such file, or a file that is no key: a message with the way to make one, and no signature."""
    file = tmp_path / "statement.json"
    file.write_text("{}")
    with pytest.raises(BadInputError, match="ssh-keygen -t ed25519"):
        sign(file, tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="cannot sign"):
        sign(file, file)
    assert not signature_of(file).exists()
