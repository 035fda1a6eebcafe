"""A latency profile on disk: one Parquet file; reading checks that it is whole and that its numbers are possible."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import ValidationError

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_latency.plan import curves_of
from dcnas_latency.table import LookupTable
from dcnas_schema.genotype import parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import ENTRIES, Entry, LatencySetting, ProfileMetadata
from dcnas_schema.parquet import read_parquet, with_metadata, write_parquet
from dcnas_schema.space import OpName


def write_profile(path: Path, entries: Sequence[Entry], metadata: ProfileMetadata) -> None:
    """Write a profile atomically."""
    batch = pa.RecordBatch.from_pylist([entry.as_row() for entry in entries], schema=ENTRIES)
    write_parquet(path, with_metadata(ENTRIES, metadata), [batch])


def read_profile(path: Path) -> tuple[tuple[Entry, ...], ProfileMetadata]:
    """
    Read a profile that `write_profile` made.

    Raises:
        CorruptArtefactError: The file is missing, truncated or damaged, or an entry is impossible, missing or repeated.
    """
    table, metadata = read_parquet(path, ENTRIES, ProfileMetadata)
    entries = []
    for number, row in enumerate(table.to_pylist()):
        try:
            entries.append(Entry.from_row(row))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            value = f"{place} = {first['input']!r}: " if place else ""  # without a place it is about the row as a whole
            raise CorruptArtefactError(
                f"{path} has an impossible entry in row {number}: {value}{first['msg'].removeprefix('Value error, ')}",
                remedy="profile the device again",
            ) from error
    names = [(entry.key, entry.mid_channels) for entry in entries]
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise CorruptArtefactError(
            f"{path} has two entries for {repeated[0]}, width {repeated[1]}.", remedy="profile the device again"
        )
    found = (sum(entry.role == "plan" for entry in entries), sum(entry.role == "held_out" for entry in entries))
    if found != (metadata.plan.entries, metadata.plan.held_out):
        raise CorruptArtefactError(
            f"{path} has {found[0]} entries and {found[1]} held out, but says {metadata.plan.entries} and {metadata.plan.held_out}.",
            remedy="profile the device again",
        )
    return tuple(entries), metadata


def require_setting(path: Path, metadata: ProfileMetadata, wanted: LatencySetting) -> None:
    """
    Refuse a profile of another runtime, batch, precision, memory format, image size, number of classes or threads.

    Raises:
        BadInputError: Names every difference.
    """
    have, want = metadata.setting.model_dump(), wanted.model_dump()
    wrong = [f"{name} {have[name]!r}, not {want[name]!r}" for name in want if have[name] != want[name]]
    if wrong:
        raise BadInputError(
            f"{path} is the latency profile of another setting: {'; '.join(wrong)}.",
            remedy="profile that setting (dcnas profile, or dvc repro profile_latency), or change the parameters to the profile's",
        )


def require_space(
    entries: Sequence[Entry], metadata: ProfileMetadata, ops: Sequence[OpName], *, width_multiple: int | None = None
) -> None:
    """
    Refuse a profile that lacks a part of the space of `ops`, at its least or greatest width: a search would meet the hole late.

    Args:
        width_multiple: That of the search; `None` for the profile's own.

    Raises:
        LatencyKeyMissingError: Names the first part that is missing, or whose widths end too early.
    """
    setting, plan = metadata.setting, metadata.plan
    size = {"height": setting.height, "width": setting.width}
    curves = curves_of(ops, **size, width_multiple=width_multiple or plan.width_multiple)
    parts = parts_of(
        "dc_nas", uniform_genotype("k3_e3", 3), height=setting.height, width=setting.width, classes=setting.classes
    )
    table = LookupTable.of(entries, modulus=plan.modulus, stairs=plan.stairs)
    table.total([Part(curve.key, width) for curve in curves for width in {curve.widths[0], curve.widths[-1]}])
    table.total([part for part in parts if part.mid_channels is None])
