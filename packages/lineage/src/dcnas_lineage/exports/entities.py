"""The graph of a crate: entities by their @id, and what every kind of them has in common."""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

Reference = dict[str, str]
"""JSON-LD's pointer to an entity: {"@id": ...}."""

_ENCODINGS = {
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".lock": "text/plain",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".yaml": "application/yaml",
}
_TYPES: tuple[tuple[type, str], ...] = ((bool, "Boolean"), (int, "Integer"), (float, "Float"), (dict, "PropertyValue"))


class Graph:
    """Entities of a crate, each once; one that is added again under the same @id is left as it was."""

    def __init__(self) -> None:
        self._entities: dict[str, dict[str, Any]] = {}

    def add(self, identifier: str, kind: str | list[str], /, **properties: Any) -> Reference:
        """Add an entity, properties that are `None` or empty left out, and return the reference to it."""
        if identifier not in self._entities:
            kept = {key: value for key, value in properties.items() if value not in (None, "", [], {})}
            self._entities[identifier] = {"@id": identifier, "@type": kind, **kept}
        return {"@id": identifier}

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._entities

    def __getitem__(self, identifier: str) -> dict[str, Any]:
        return self._entities[identifier]

    def entities(self) -> list[dict[str, Any]]:
        """Return all entities, in the order in which they were added."""
        return list(self._entities.values())


def many(references: Iterable[Reference]) -> Any:
    """Return references as RO-Crate wants them: each once, a single one without a list around it."""
    found = list({reference["@id"]: reference for reference in references}.values())
    return found[0] if len(found) == 1 else found


def relative(path: str) -> str:
    """Return the @id of a file inside the crate."""
    return quote(path, safe="/")


def elsewhere(path: str) -> str:
    """Return the @id of a file or folder that the crate names but does not hold: a local identifier, as nobody can fetch it by a path."""
    return "#" + quote(path, safe="/")


def encoding(path: str) -> str:
    """Return the media type of a file by its suffix."""
    return _ENCODINGS.get(path[path.rfind(".") :] if "." in path else "", "application/octet-stream")


def parameter_type(value: Any) -> str:
    """Return the schema.org type of a parameter's value, as Workflow Run Crate asks for in `additionalType`."""
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "Text")


def parameter_value(value: Any) -> Any:
    """Return a parameter's value as it stands in a PropertyValue: numbers and texts as they are, the others as canonical JSON."""
    if isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def checksums(*, sha256: str, md5: str | None, size: int | None) -> Mapping[str, Any]:
    """Return the properties that tie a file to its content: SHA-256, size in bytes, and the name of DVC's object."""
    return {
        "sha256": sha256,
        "contentSize": None if size is None else str(size),
        "identifier": None if md5 is None else f"md5:{md5}",
    }
