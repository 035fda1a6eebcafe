"""What several entities of a crate point at: files, parameters, software, accounts, commits."""

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from dcnas_lineage.exports.entities import (
    Graph,
    Reference,
    checksums,
    elsewhere,
    encoding,
    parameter_type,
    parameter_value,
    relative,
)
from dcnas_lineage.exports.state import REQUIREMENTS, ProjectState
from dcnas_schema.run_record import HashedFile, HashedPath, RunRecord

_REQUIREMENTS_FORMAT = "https://pip.pypa.io/en/stable/reference/requirements-file-format/"
_FORMAL_PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"
_USAGE = "urn:x-dcnas:usage:"


class Parts:
    """
    Adds parts to the graph of a crate and returns the references to them.

    Args:
        included: Path -> file, of all that the crate holds.
    """

    def __init__(self, state: ProjectState, included: dict[str, HashedFile], graph: Graph) -> None:
        self._state, self._included, self._graph = state, included, graph
        self._add = graph.add
        self._outputs = {(file.path, file.sha256) for file in state.results}
        self._inputs = {(file.path, file.sha256) for file in single_files(state.given)}

    def file(self, file: HashedFile, **more: Any) -> Reference:
        """Add a file, under its path where the crate holds it in this version; return the reference to it."""
        held = self._included.get(file.path)
        inside = held is not None and held.sha256 == file.sha256
        if inside and relative(file.path) in self._graph:
            return {"@id": relative(file.path)}
        properties: dict[str, Any] = {
            "name": file.path,
            "encodingFormat": encoding(file.path),
            **checksums(sha256=file.sha256, md5=file.md5, size=file.size),
            "exampleOfWork": self._slot_of(file),
            "description": None if inside else "Not in this crate; named by its SHA-256.",
            **more,
        }
        return self._add(relative(file.path) if inside else self._free(file.path, file.sha256), "File", **properties)

    def given(self, dep: HashedPath) -> Reference:
        """Add what runs read and no run made: a file, or a folder as one."""
        if not dep.is_folder:
            return self.file(dep.files[0])
        return self._add(
            self._free(f"{dep.path}/", dep.sha256),
            "Dataset",
            name=dep.path,
            description=f"{len(dep.files)} files, not in this crate. SHA-256 of the lines `SHA-256, two spaces, path`, sorted by path.",
            **checksums(sha256=dep.sha256, md5=dep.md5, size=None),
        )

    def parameter(self, key: str, value: Any) -> tuple[Reference, Reference]:
        """Add a key of params.yaml and its value; return both."""
        slot = self._add(
            f"#parameter/{quote(key)}",
            "FormalParameter",
            name=key,
            additionalType=parameter_type(value),
            valueRequired=True,
            conformsTo={"@id": _FORMAL_PARAMETER},
        )
        given = self._add(f"#value/{quote(key)}", "PropertyValue", name=key, exampleOfWork=slot)
        self._graph[given["@id"]]["value"] = parameter_value(value)  # kept where it is empty too
        return slot, given

    def agent(self, run: RunRecord) -> Reference:
        """Add the account that a run belonged to."""
        who = f"{run.machine.user}@{run.machine.host}"
        return self._add(f"#agent/{quote(who)}", "Person", name=run.machine.user, description=f"The account {who}")

    def commit(self, run: RunRecord) -> list[Reference]:
        """Add the commit whose code ran; none outside a checkout."""
        if run.git.commit is None:
            return []
        address = self._state.about.address
        return [
            self._add(
                f"#commit/{run.git.commit}",
                ["CreativeWork", "SoftwareSourceCode"],
                name=f"The code at git commit {run.git.commit[:12]}",
                version=run.git.commit,
                codeRepository=address,
                url=address,
            )
        ]

    def variable(self, name: str, value: str) -> Reference:
        """Add a variable of the environment as a run found it."""
        return self._add(f"#environment/{quote(f'{name}={value}', safe='')}", "PropertyValue", name=name, value=value)

    def usage(self, run: RunRecord) -> Iterator[Reference]:
        """Add what a run took: wall time, and the device."""
        yield self._add(
            f"#wall-time/{run.run_id}",
            "PropertyValue",
            name="wall time (s)",
            propertyID=f"{_USAGE}wall-time",
            unitCode="https://qudt.org/vocab/unit/SEC",
            value=round(run.seconds, 3),
        )
        device = device_of(run)
        yield self._add(
            f"#device/{quote(device, safe='')}",
            "PropertyValue",
            name="device",
            propertyID=f"{_USAGE}device",
            value=device,
        )

    def software(self, name: str, version: str, identifier: str, *, url: str | None = None) -> Reference:
        """Add a program that others need, in one version. Packages have no address: whoever installs them chooses where from."""
        return self._add(identifier, "SoftwareApplication", name=name, softwareVersion=version, url=url)

    def requirements(self) -> Reference | None:
        """Add the lock of the environment, where the one in the crate is the one that runs had."""
        file = self._included.get(REQUIREMENTS)
        if file is None or file.sha256 not in self._state.environments:
            return None
        form = self._add(_REQUIREMENTS_FORMAT, "WebPageElement", name="Requirements file with hashes")
        return self.file(file, conformsTo=form, name="The Python environment: versions and hashes")

    def _slot_of(self, file: HashedFile) -> Reference | None:
        """Add the workflow's formal parameter that a file stands for: of a result, or of a source file; `None` for the files between."""
        if (file.path, file.sha256) in self._outputs:
            kind = "output"
        elif (file.path, file.sha256) in self._inputs:
            kind = "input"
        else:
            return None
        return self._add(
            slot_id(kind, file.path),
            "FormalParameter",
            name=file.path,
            additionalType="File",
            conformsTo={"@id": _FORMAL_PARAMETER},
        )

    def _free(self, path: str, sha256: str) -> str:
        """Return the @id of what the crate does not hold: by its path, and by its hash too where another version of it has that."""
        identifier = elsewhere(path)
        if identifier in self._graph and self._graph[identifier]["sha256"] != sha256:
            return f"{identifier}@{sha256[:16]}"
        return identifier


def device_of(run: RunRecord) -> str:
    """Return on what a run ran, in words: its GPUs with drivers, or its processor."""
    machine = run.machine
    cpu = f"{machine.cpu_model or 'unknown processor'}, {machine.cores} cores"
    return "; ".join([*(f"{gpu.name}, driver {gpu.driver}" for gpu in machine.gpus), cpu])


def slot_id(kind: str, path: str) -> str:
    """Return the @id of the workflow's formal parameter that a file stands for; `kind` is input or output."""
    return f"#{kind}/{quote(path, safe='/')}"


def single_files(given: Iterable[HashedPath]) -> list[HashedFile]:
    """Return those that are no folders."""
    return [dep.files[0] for dep in given if not dep.is_folder]
