"""The user's own Parquet files of encoded images with labels, read a row group at a time."""

from bisect import bisect_right
from collections import defaultdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dcnas_data.photo_files import RefusedError
from dcnas_data.photo_items import PART_NAMES, PhotoItem
from dcnas_harness.errors import BadInputError
from dcnas_schema.photo_params import ParquetColumns, PhotosParams
from dcnas_schema.photos import PhotoSplit

_GROUPS_KEPT = 2
"""Row groups in memory: the threads that decode stand in one or in two that follow each other."""


def parquet_parts(params: PhotosParams) -> tuple[tuple[str, ...], dict[PhotoSplit, list[PhotoItem]]]:
    """
    Return the class names, sorted, and the pictures of each part; a source without a split column has the part `train` alone.

    Raises:
        BadInputError: A file cannot be read, or lacks a column, or has a row without a label, or an unknown part.
    """
    assert params.columns is not None, "checked with the parameters"
    columns = params.columns
    tables = [_read_small_columns(Path(name).expanduser(), columns) for name in params.files]
    labels = {label for table in tables for label in table[columns.label].to_pylist()}
    if len({type(label) for label in labels}) > 1:
        raise BadInputError(
            f"column {columns.label} has numbers in one file and strings in another", remedy="use one kind"
        )
    ranks = {label: rank for rank, label in enumerate(sorted(labels))}
    parts: dict[PhotoSplit, list[PhotoItem]] = defaultdict(list)
    for name, table in zip(params.files, tables, strict=True):
        rows = _Rows(Path(name).expanduser(), columns.image)
        names = table[columns.name].to_pylist() if columns.name else [""] * table.num_rows
        splits = table[columns.split].to_pylist() if columns.split else ["train"] * table.num_rows
        for row, (label, split) in enumerate(zip(table[columns.label].to_pylist(), splits, strict=True)):
            item = PhotoItem(
                name=f"{rows.path.name}#{row} {names[row] or ''}".rstrip(),
                label=ranks[label],
                read=partial(rows.read, row),
            )
            parts[_part(split, rows.path)].append(item)
    return tuple(str(label) for label in ranks), dict(parts)


def _part(name: Any, path: Path) -> PhotoSplit:
    if name not in PART_NAMES:
        raise BadInputError(
            f"{name!r} is not the name of a part of a photo set", where=path, remedy=f"use {', '.join(PART_NAMES)}"
        )
    return PART_NAMES[name]


def _read_small_columns(path: Path, columns: ParquetColumns) -> pa.Table:
    wanted = {key: value for key in ("label", "split", "name") if (value := getattr(columns, key)) is not None}
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = [name for name in (columns.image, *wanted.values()) if name not in schema.names]
            if missing:
                raise BadInputError(
                    f"{path} has no column {missing[0]!r}; it has {', '.join(schema.names)}",
                    where="params.yaml: generate_data.photos.columns",
                    remedy="name the columns of this file",
                )
            table = file.read(columns=sorted(set(wanted.values())))
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise BadInputError(
            f"{path} cannot be read as Parquet: {reason}", remedy="give a whole Parquet file"
        ) from error
    image = schema.field(columns.image).type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:
        image = image.field("bytes").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise BadInputError(
            f"column {columns.image} of {path} holds {image}, not encoded images",
            remedy="give a binary column, or a struct with the binary field `bytes`",
        )
    labels = table[columns.label]
    kind = labels.type.value_type if pa.types.is_dictionary(labels.type) else labels.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise BadInputError(f"column {columns.label} of {path} holds {kind}", remedy="give integers or strings")
    if labels.null_count:
        raise BadInputError(f"{path} has {labels.null_count} rows without a label", remedy="drop these rows")
    return table


class _Rows:
    """Gives the images of one file; the last row groups stay in memory."""

    def __init__(self, path: Path, column: str) -> None:
        self.path = path
        self._file, self._column, self._lock = pq.ParquetFile(path, memory_map=True), column, Lock()
        self._starts = [0]
        for group in range(self._file.metadata.num_row_groups):
            self._starts.append(self._starts[-1] + self._file.metadata.row_group(group).num_rows)
        self._groups: dict[int, pa.ChunkedArray] = {}

    def read(self, row: int) -> bytes:
        """Return an encoded image, empty where there is none."""
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            images = self._group(group)
        value = images[row - self._starts[group]].as_py()
        if isinstance(value, dict):
            value = value["bytes"]
        return value or b""

    def _group(self, group: int) -> pa.ChunkedArray:
        if group not in self._groups:
            while len(self._groups) >= _GROUPS_KEPT:
                del self._groups[next(iter(self._groups))]
            try:
                self._groups[group] = self._file.read_row_group(group, columns=[self._column])[self._column]
            except (pa.ArrowException, OSError) as error:
                raise RefusedError("missing or unreadable") from error
        return self._groups[group]
