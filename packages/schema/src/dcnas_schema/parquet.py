"""Parquet on disk: atomic, compressed, with page checksums written and verified, and typed JSON in the schema's metadata."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import atomic_write

METADATA_KEY = b"dcnas"
_DIGEST_KEY = b"dcnas_sha256"
"""SHA-256 of the JSON: Parquet's page checksums do not cover the footer that holds it."""
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
    """Yield what writes batches to `path`; the file appears when the block ends well."""
    with (
        atomic_write(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", compression_level=1, use_dictionary=False, write_page_checksum=True
        ) as writer,
    ):
        yield ParquetSink(writer)


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
    try:
        written = pq.read_metadata(path).metadata or {}
        if hashlib.sha256(written[METADATA_KEY]).hexdigest().encode() != written.get(_DIGEST_KEY):
            raise ValueError("they do not have the SHA-256 that it names")
        return metadata_type.model_validate_json(written[METADATA_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:  # pydantic's ValidationError is a ValueError
        raise CorruptArtefactError(
            f"{path} does not carry metadata of this kind: {error}",
            remedy=f"delete it, then run: dvc checkout {path} (or dvc repro)",
        ) from error


def read_parquet(path: Path, schema: pa.Schema, metadata_type: type[Metadata]) -> tuple[pa.Table, Metadata]:
    """
    Read a table that `write_parquet` made, verifying every page's checksum.

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
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=True) as file:
            table, metadata = file.read(), file.metadata.metadata or {}
        names = ", ".join(table.schema.names)
    except MemoryError as error:  # a damaged size asks for any amount
        raise CorruptArtefactError(
            f"{path} cannot be read: too little memory, or it is damaged: {error}",
            remedy=f"close other programs; if it stays so, {remedy}",
        ) from error
    except PermissionError as error:
        raise BadInputError(f"{path} cannot be read: permission denied.", remedy=f"chmod u+r {path}") from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise CorruptArtefactError(f"{path} is damaged: {reason}", remedy=remedy) from error
    found = metadata.get(METADATA_KEY)
    if not table.schema.equals(schema) or found is None:
        raise CorruptArtefactError(
            f"{path} is not the expected table, or of another version: it has the columns {names}, not {', '.join(schema.names)}.",
            remedy=remedy,
        )
    try:
        parsed = metadata_type.model_validate_json(found)
    except ValidationError as error:
        raise CorruptArtefactError(
            f"{path} carries metadata that this version cannot read:\n{error}", remedy="run: dvc repro"
        ) from error
    if hashlib.sha256(found).hexdigest().encode() != metadata.get(_DIGEST_KEY):
        raise CorruptArtefactError(
            f"{path} is damaged: its metadata do not have the SHA-256 that it names.", remedy=remedy
        )
    return table, parsed
