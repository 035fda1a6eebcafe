"""Parquet on disk: atomic, compressed, with checksums of pages and of the whole file, written and verified, and typed JSON as metadata."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import atomic_write
from dcnas_schema.seal import EMPTY_SEAL, SEAL_KEY, broken_seal, seal

METADATA_KEY = b"dcnas"
_DIGEST_KEY = b"dcnas_json_sha256"
"""SHA-256 of the JSON, for who reads the metadata alone."""
_OLD_DIGEST_KEY = b"dcnas_sha256"
"""The same in files of before they were sealed. A key of its own: a seal whose key was damaged must not pass for such a file."""
Metadata = TypeVar("Metadata", bound=BaseModel)


def with_metadata(schema: pa.Schema, metadata: BaseModel) -> pa.Schema:
    """Return `schema` carrying `metadata` as JSON under the key `dcnas`."""
    return schema.with_metadata(_key_values(metadata))


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write `batches` one row group each, so that no more than one need be in memory; the file appears when it is whole."""
    with parquet_sink(path, schema) as sink:
        for batch in batches:
            sink.write(batch)


class ParquetSink:
    """Takes batches, and at the end the metadata where only the batches tell it."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one row group."""
        self._writer.write_batch(batch)

    def describe(self, metadata: BaseModel) -> None:
        """Give the file its metadata, once; a schema made by `with_metadata` has them already."""
        self._writer.add_key_value_metadata(_key_values(metadata))


@contextmanager
def parquet_sink(path: Path, schema: pa.Schema) -> Iterator[ParquetSink]:
    """Yield what writes batches to `path`; the file appears, sealed, when the block ends well."""
    kept = {
        key: value for key, value in (schema.metadata or {}).items() if key != SEAL_KEY
    }  # a copied schema may bring one
    schema = schema.with_metadata(kept)
    with atomic_write(path) as temporary:
        with pq.ParquetWriter(
            temporary, schema, compression="zstd", compression_level=1, use_dictionary=False, write_page_checksum=True
        ) as writer:
            yield ParquetSink(writer)
            writer.add_key_value_metadata({SEAL_KEY: EMPTY_SEAL})
        seal(temporary)


def _key_values(metadata: BaseModel) -> dict[bytes, bytes]:
    text = metadata.model_dump_json().encode()
    return {METADATA_KEY: text, _DIGEST_KEY: hashlib.sha256(text).hexdigest().encode()}


def read_metadata(path: Path, metadata_type: type[Metadata]) -> Metadata:
    """
    Read the metadata alone of a table that `write_parquet` made; of its rows nothing is read or checked.

    Raises:
        CorruptArtefactError: The file is missing, damaged, or carries other metadata.
    """
    if not path.is_file():
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc repro (or dvc pull)")
    remedy = f"delete it, then run: dvc checkout {path} (or dvc repro)"
    try:
        written = pq.read_metadata(path).metadata or {}
        _require_named_digest(path, written)
        return metadata_type.model_validate_json(written[METADATA_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # pydantic's ValidationError is a ValueError
        raise CorruptArtefactError(f"{path} does not carry metadata of this kind: {error}", remedy=remedy) from error


def _require_named_digest(path: Path, metadata: Mapping[bytes, bytes]) -> None:
    named = metadata.get(_DIGEST_KEY, metadata.get(_OLD_DIGEST_KEY))
    if hashlib.sha256(metadata[METADATA_KEY]).hexdigest().encode() != named:
        raise CorruptArtefactError(
            f"{path} is damaged: its metadata do not have the SHA-256 that it names.",
            remedy=f"delete it, then run: dvc checkout {path} (or dvc repro)",
        )


def check_parquet(path: Path) -> None:
    """
    Read a whole Parquet file, ours or not: its seal where it has one, and every page against its checksum where it has one.

    Raises:
        CorruptArtefactError: It is damaged.

        BadInputError: It may not be read.
    """
    _read_whole(path)


def read_parquet(path: Path, schema: pa.Schema, metadata_type: type[Metadata]) -> tuple[pa.Table, Metadata]:
    """
    Read a table that `write_parquet` made, verifying the seal of the whole file and every page's checksum.

    Args:
        schema: The columns that the file must have, in this order.

        metadata_type: The type of the JSON in the schema's metadata.

    Raises:
        CorruptArtefactError: The file is missing, truncated, damaged, or not of this kind.

        BadInputError: It may not be read.
    """
    remedy = f"delete it, then run: dvc checkout {path} (or dvc repro)"
    if not path.is_file():
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc repro (or dvc pull)")
    table, metadata, sealed = _read_whole(path)
    found = metadata.get(METADATA_KEY)
    if not table.schema.equals(schema) or found is None:
        names, wanted = ", ".join(table.schema.names), ", ".join(schema.names)
        raise CorruptArtefactError(
            f"{path} is not the expected table, or of another version: it has the columns {names}, not {wanted}.",
            remedy=remedy,
        )
    try:
        parsed = metadata_type.model_validate_json(found)
    except ValidationError as error:
        raise CorruptArtefactError(
            f"{path} carries metadata that this version cannot read:\n{error}", remedy="run: dvc repro"
        ) from error
    if not sealed:
        if _DIGEST_KEY in metadata:
            raise CorruptArtefactError(f"{path} is damaged: the seal of its bytes is gone.", remedy=remedy)
        _require_named_digest(path, metadata)
    return table, parsed


def _read_whole(path: Path) -> tuple[pa.Table, dict[bytes, bytes], bool]:
    """Return rows, metadata and whether a seal vouches for both."""
    remedy = f"delete it, then run: dvc checkout {path} (or dvc repro)"
    sealed = True
    try:
        try:
            problem = broken_seal(path)
        except LookupError:
            problem, sealed = None, False
        if problem:
            raise CorruptArtefactError(f"{path} is damaged: {problem}.", remedy=remedy)
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=True) as file:
            return file.read(), file.metadata.metadata or {}, sealed
    except PermissionError as error:
        raise BadInputError(f"{path} cannot be read: permission denied.", remedy=f"chmod u+r {path}") from error
    except MemoryError as error:  # a damaged size asks for any amount
        raise CorruptArtefactError(
            f"{path} cannot be read: too little memory, or it is damaged: {error}",
            remedy=f"close other programs; if it stays so, {remedy}",
        ) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise CorruptArtefactError(f"{path} is damaged: {reason}", remedy=remedy) from error
