"""
An in-toto Statement v1 with a SLSA Provenance v1 predicate: which files the pipeline made, out of what, and by which runs.

The build type `urn:x-dcnas:build-type:pipeline:1`: `dvc repro` in a clone at the commit among the `resolvedDependencies`, with the file of
`externalParameters.parameters` holding `externalParameters.values`. `internalParameters.runs` names the run behind every output by the
SHA-256 of its record and of its claim (`dcnas_schema.run_record`). The builder is whoever's machine it ran on: SLSA Build L1, provenance
exists; only a signature (`dcnas_lineage.exports.signing`) says who vouches for it.

Sources: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/spec/v1.0/provenance.
"""

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import sha256_of, write_json
from dcnas_lineage.exports.entities import encoding
from dcnas_lineage.exports.parts import device_of
from dcnas_lineage.exports.state import PARAMETERS, REQUIREMENTS, RESULTS, WORKFLOW, ProjectState
from dcnas_schema.run_record import HashedPath, record_path

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:x-dcnas:build-type:pipeline:1"
BUILDER = "urn:x-dcnas:builder:own-machine"


def write_intoto(state: ProjectState, target: Path) -> Path:
    """Write the statement as JSON and return its path."""
    write_json(target, statement(state))
    return target


def statement(state: ProjectState) -> dict[str, Any]:
    """
    Return the statement: its subjects are the results as they lie there.

    Raises:
        CorruptArtefactError: A result is missing, or not the one that its run made.
    """
    for file in state.results:
        problem = _subject_problem(state.root, file.path, file.sha256)
        if problem is not None:
            raise CorruptArtefactError(problem, remedy=f"run: dvc checkout --force {file.path}")
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file.path, "digest": {"sha256": file.sha256}} for file in state.results],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"pipeline": WORKFLOW, "parameters": PARAMETERS, "values": state.params},
                "internalParameters": {"runs": [*_runs(state)]},
                "resolvedDependencies": [*_dependencies(state)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"dcnas": state.about.version}},
                "metadata": {
                    "invocationId": _invocation(state),
                    "startedOn": _timestamp(state.started.isoformat()),
                    "finishedOn": _timestamp(state.ended.isoformat()),
                },
                "byproducts": [
                    {
                        "name": record_path(run.stage),
                        "digest": {"sha256": state.record_sha256(run)},
                        "mediaType": "application/json",
                    }
                    for run in state.runs
                ],
            },
        },
    }


def _runs(state: ProjectState) -> Iterator[dict[str, Any]]:
    for run in state.runs:
        yield {
            "stage": run.stage,
            "runId": run.run_id,
            "command": run.command,
            "claimSha256": run.claim_sha256,
            "recordSha256": state.record_sha256(run),
            "commit": run.git.commit,
            "changed": list(run.git.dirty or ()),
            "diffSha256": run.git.diff_sha256,
            "device": device_of(run),
        }


def _dependencies(state: ProjectState) -> Iterator[dict[str, Any]]:
    for commit in state.commits:
        described: dict[str, Any] = {"name": "source code", "digest": {"gitCommit": commit}}
        if state.about.address is not None:
            described["uri"] = f"git+{state.about.address}@{commit}"
        yield described
    for name in (WORKFLOW, PARAMETERS):
        yield {"name": name, "digest": {"sha256": sha256_of(state.root / name)}, "mediaType": encoding(name)}
    for sha256 in state.environments:
        yield {"name": REQUIREMENTS, "digest": {"sha256": sha256}, "mediaType": encoding(REQUIREMENTS)}
    for dep in state.given:
        yield _given(dep)


def _given(dep: HashedPath) -> dict[str, Any]:
    """Describe what runs read and no run made. A folder's hash is in-toto's `dirHash`: of the lines `SHA-256, two spaces, path`."""
    if dep.is_folder:
        return {"name": f"{dep.path}/", "digest": {"dirHash": dep.sha256}, "annotations": {"files": len(dep.files)}}
    return {"name": dep.path, "digest": {"sha256": dep.sha256}, "mediaType": encoding(dep.path)}


def _invocation(state: ProjectState) -> str:
    """Return a name for this set of runs: the same for the same runs."""
    together = hashlib.sha256("\n".join(sorted(run.run_id for run in state.runs)).encode()).hexdigest()
    return uuid.UUID(together[:32]).urn


def _timestamp(utc_time: str) -> str:
    return utc_time.replace("+00:00", "Z")


class _Digest(BaseModel):
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _Subject(BaseModel):
    name: str
    digest: _Digest


class _Statement(BaseModel):
    """What a verifier reads of a statement; other fields are ignored, as in-toto's parsing rules ask."""

    type: str = Field(alias="_type")
    subject: list[_Subject] = Field(min_length=1)
    predicateType: str  # noqa: N815 - in-toto's own name


def check_subjects(statement_file: Path, folder: Path, *, of_results: bool = False) -> int:
    """
    Hash every subject of a statement again; return how many hold.

    Args:
        folder: The project's folder, which the subjects' names start from.

        of_results: Whether it stands in for results/ instead, such as results/published/demo-amd-epyc does.

    Raises:
        CorruptArtefactError: It is no in-toto statement of this kind, or a subject is missing, changed or outside the project.
    """
    try:
        read = _Statement.model_validate_json(statement_file.read_bytes())
    except (ValidationError, OSError) as error:
        raise CorruptArtefactError(
            f"{statement_file} is no in-toto statement that names its subjects by SHA-256:\n{error}",
            remedy="run: dcnas export intoto --out FILE",
        ) from error
    if (read.type, read.predicateType) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise CorruptArtefactError(
            f"{statement_file} is a {read.type} with {read.predicateType}, not a {STATEMENT_TYPE} with {PREDICATE_TYPE}.",
            remedy="run: dcnas export intoto --out FILE",
        )
    prefix = RESULTS if of_results else ""
    named = [(s.name.removeprefix(prefix), s.digest.sha256) for s in read.subject]
    problems = [problem for name, sha256 in named if (problem := _subject_problem(folder, name, sha256))]
    if problems:
        raise CorruptArtefactError(
            f"{len(problems)} of {len(read.subject)} subjects of {statement_file} do not hold:\n"
            + "\n".join(problems[:10]),
            remedy="run: dvc checkout --force, or export anew",
        )
    return len(read.subject)


def _subject_problem(root: Path, name: str, sha256: str) -> str | None:
    """Return why the file called `name` is not the one with this hash; `None` where it is."""
    pure = PurePosixPath(name)
    path = root / pure
    if pure.is_absolute() or ".." in pure.parts or not path.resolve().is_relative_to(root.resolve()):
        return f"{name} lies outside {root}"
    if not path.is_file():
        return f"{name} does not exist"
    actual = sha256_of(path)
    return None if actual == sha256 else f"{name} has sha256 {actual}, not {sha256}"
