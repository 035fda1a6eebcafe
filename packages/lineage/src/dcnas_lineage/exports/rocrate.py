"""A Workflow Run RO-Crate as one zip that opens as a page, the same bytes for the same project state."""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import atomic_write, md5_of, sha256_of
from dcnas_lineage.exports.crate import METADATA, PREVIEW, README, crate_metadata
from dcnas_lineage.exports.preview import preview_page
from dcnas_lineage.exports.state import LOCK, PARAMETERS, REQUIREMENTS, WORKFLOW, ProjectState
from dcnas_schema.cells import CellMap
from dcnas_schema.json_files import read_json_record
from dcnas_schema.run_record import HashedFile, record_path

_ALWAYS = (WORKFLOW, PARAMETERS, LOCK)
_WHERE_PRESENT = (REQUIREMENTS, README, "CITATION.cff", "LICENSE")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold; of every member, so that the bytes tell nothing of the moment."""
_CHUNK = 1 << 20


def write_rocrate(state: ProjectState, target: Path, *, with_data: bool = False) -> Path:
    """
    Write the crate and return its path.

    It holds the pipeline, its parameters, dvc.lock, the results, what their cells are derived from, and the records of all runs.
    Members are stored as they are, since compressed bytes would depend on the version of zlib.

    Args:
        with_data: Whether to put in every file that a run made too: scenes, weights, logs. Without it the crate names them by their hashes.

    Raises:
        CorruptArtefactError: A file is missing, or not the one that its run made.
    """
    included = _included(state, with_data=with_data)
    metadata = crate_metadata(state, included)
    texts = {
        METADATA: json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        PREVIEW: preview_page(state, included),
    }
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, text in texts.items():
            archive.writestr(_member(name), text.encode())
        for path, file in sorted(included.items()):
            _store(archive, state.root, path, file)
    return target


def check_crate(crate: Path) -> int:
    """
    Hash every file in a crate again; return how many hold.

    Raises:
        CorruptArtefactError: It is no crate of ours, or a file in it is missing, changed or not named by its metadata.
    """
    try:
        with zipfile.ZipFile(crate) as archive:
            named = _named_files(json.loads(archive.read(METADATA)))
            names = [name for name in archive.namelist() if name not in (METADATA, PREVIEW)]
            found = {name: _sha256_in(archive, name) for name in names}
    except (OSError, KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptArtefactError(
            f"{crate} is no crate that can be read: {error}", remedy="run: dcnas export rocrate --out FILE"
        ) from error
    wrong = sorted(name for name in {*named, *found} if named.get(name) != found.get(name))
    if wrong or len(found) != len(names):
        raise CorruptArtefactError(
            f"{len(wrong)} files of {crate} are not what its metadata says, the first {', '.join(wrong[:5]) or 'twice there'}.",
            remedy="export it anew",
        )
    return len(found)


def _named_files(metadata: dict[str, Any]) -> dict[str, str]:
    """Return path -> SHA-256 of the files that a crate says it holds."""
    files = [entity for entity in metadata["@graph"] if "File" in entity["@type"] and not entity["@id"].startswith("#")]
    return {unquote(entity["@id"]): entity["sha256"] for entity in files}


def _sha256_in(archive: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    with archive.open(name) as member:
        while chunk := member.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _included(state: ProjectState, *, with_data: bool) -> dict[str, HashedFile]:
    wanted = {file.path: file for file in state.results}
    sources = {
        source for file in state.results if file.path.endswith(".cells.json") for source in _sources(state, file)
    }
    wanted |= {path: file for path, file in state.made.items() if with_data or path in sources}
    names = [*_ALWAYS, *(name for name in _WHERE_PRESENT if (state.root / name).is_file())]
    own = [*names, *(record_path(run.stage) for run in state.runs)]
    own += [path for path in sorted(sources) if path not in state.made]  # the paper's figures
    for path in wanted:
        _require(state.root, path)
    return wanted | {path: _hashed(state.root, path) for path in own}


def _sources(state: ProjectState, cell_map: HashedFile) -> tuple[str, ...]:
    """Return the files that the cells of a table are derived from."""
    return tuple(read_json_record(state.root / cell_map.path, CellMap).source_sha256)


def _hashed(root: Path, path: str) -> HashedFile:
    file = _require(root, path)
    return HashedFile(path=path, size=file.stat().st_size, sha256=sha256_of(file), md5=md5_of(file))


def _require(root: Path, path: str) -> Path:
    if not (root / path).is_file():
        raise CorruptArtefactError(f"{root / path} does not exist.", remedy="run: dvc checkout (or dvc pull)")
    return root / path


def _store(archive: zipfile.ZipFile, root: Path, path: str, expected: HashedFile) -> None:
    """Copy a file into the archive, and refuse it where it is not the expected one."""
    digest, header = hashlib.sha256(), _member(path)
    header.file_size = expected.size  # so that one of more than 2 GiB gets the fields that it needs
    with _require(root, path).open("rb") as source, archive.open(header, "w") as member:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            member.write(chunk)
    if digest.hexdigest() != expected.sha256:
        raise CorruptArtefactError(
            f"{root / path} is not the file that its run made.",
            where=f"sha256 {digest.hexdigest()}, the record says {expected.sha256}",
            remedy=f"run: dvc checkout --force {path}",
        )


def _member(name: str) -> zipfile.ZipInfo:
    """Return the header of a member: no time, no owner, readable by all."""
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.create_system, info.external_attr = 3, 0o100644 << 16
    info.compress_type = zipfile.ZIP_STORED
    return info
