"""
PROV-JSON: files as entities, runs as activities, accounts and the engine as agents.

Source: https://www.w3.org/submissions/prov-json/.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from dcnas_harness.files import sha256_of, write_json
from dcnas_lineage.exports.crate import ENGINE
from dcnas_lineage.exports.parts import device_of
from dcnas_lineage.exports.state import WORKFLOW, ProjectState, utc
from dcnas_schema.run_record import HashedFile, HashedPath, RunRecord

_PREFIXES = {
    "dcnas": "urn:x-dcnas:terms:",
    "file": "urn:x-dcnas:file:",
    "run": "urn:x-dcnas:run:",
    "agent": "urn:x-dcnas:agent:",
}


def write_prov(state: ProjectState, target: Path) -> Path:
    """Write the document as JSON and return its path."""
    write_json(target, prov_document(state))
    return target


def prov_document(state: ProjectState) -> dict[str, Any]:
    """Return the PROV-JSON document; a file is named by its path and the start of its SHA-256, so that two versions are two entities."""
    document = _Document()
    plan = document.add(
        "entity",
        f"file:{WORKFLOW}",
        {"prov:type": _qualified("prov:Plan"), "dcnas:sha256": sha256_of(state.root / WORKFLOW)},
    )
    engine = document.add(
        "agent", "agent:dvc", {"prov:type": _qualified("prov:SoftwareAgent"), "prov:label": "DVC", "dcnas:url": ENGINE}
    )
    for run in state.runs:
        _add_run(document, state, run, plan, engine)
    return document.contents()


class _Document:
    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, dict[str, Any]]] = {}
        self._related: set[tuple[str, ...]] = set()

    def add(self, kind: str, name: str, attributes: dict[str, Any]) -> str:
        """Add an element under its name and return that; one of the same name is left as it is."""
        self._kinds.setdefault(kind, {}).setdefault(name, {k: v for k, v in attributes.items() if v not in (None, "")})
        return name

    def relate(self, kind: str, **ends: str) -> None:
        """Add a relation between elements, unless it is there; it needs no name of its own."""
        if (relation := (kind, *ends.values())) not in self._related:
            self._related.add(relation)
            relations = self._kinds.setdefault(kind, {})
            relations[f"_:{kind}{len(relations) + 1}"] = {f"prov:{end}": name for end, name in ends.items()}

    def contents(self) -> dict[str, Any]:
        return {"prefix": _PREFIXES, **self._kinds}


def _add_run(document: _Document, state: ProjectState, run: RunRecord, plan: str, engine: str) -> None:
    activity = document.add("activity", f"run:{run.run_id}", _activity(run))
    for dep in run.deps:
        for name in _read(document, state, dep):
            document.relate("used", activity=activity, entity=name)
    for file in run.files_made():
        document.relate("wasGeneratedBy", entity=_file(document, file), activity=activity)
    for above in run.upstream:
        document.relate("wasInformedBy", informed=activity, informant=f"run:{above.run_id}")
    who = f"{run.machine.user}@{run.machine.host}"
    person = document.add(
        "agent",
        f"agent:{quote(who, safe='@')}",
        {"prov:type": _qualified("prov:Person"), "prov:label": run.machine.user},
    )
    document.relate("wasAssociatedWith", activity=activity, agent=engine, plan=plan)
    document.relate("actedOnBehalfOf", delegate=engine, responsible=person, activity=activity)


def _activity(run: RunRecord) -> dict[str, Any]:
    return {
        "prov:startTime": utc(run.started).isoformat(),
        "prov:endTime": utc(run.ended).isoformat(),
        "prov:label": run.stage,
        "dcnas:command": run.command,
        "dcnas:claimSha256": run.claim_sha256,
        "dcnas:commit": run.git.commit,
        "dcnas:diffSha256": run.git.diff_sha256,
        "dcnas:seed": run.seed,
        "dcnas:device": device_of(run),
        "dcnas:requirementsLockSha256": run.environment.requirements_lock_sha256,
    }


def _read(document: _Document, state: ProjectState, dep: HashedPath) -> list[str]:
    """Add what a run read: its single files, but a folder that no run made as one entity."""
    if dep.is_folder and not any(file.path in state.made for file in dep.files):
        attributes = {
            "prov:type": _qualified("prov:Collection"),
            "prov:label": f"{dep.path}/",
            "dcnas:sha256": dep.sha256,
        }
        return [document.add("entity", _name(dep.path, dep.sha256), attributes)]
    return [_file(document, file) for file in dep.files]


def _file(document: _Document, file: HashedFile) -> str:
    attributes = {"prov:label": file.path, "dcnas:sha256": file.sha256, "dcnas:size": file.size}
    return document.add("entity", _name(file.path, file.sha256), attributes)


def _name(path: str, sha256: str) -> str:
    """Return an entity's name: percent-encoded, because PROV-N has no blanks or brackets in names."""
    return f"file:{quote(path, safe='/')}@{sha256[:16]}"


def _qualified(name: str) -> dict[str, str]:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}
