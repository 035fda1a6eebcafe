"""Tables on disk: damage is noticed when they are read, whatever it is, and never handed on as data."""

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, ConfigDict

from dcnas_harness.errors import CorruptArtefactError, UnfitEnvironmentError
from dcnas_schema.parquet import read_metadata, read_parquet, with_metadata, write_parquet

SCHEMA = pa.schema([pa.field("number", pa.int32(), nullable=False), pa.field("image", pa.binary(2000), nullable=False)])


class Label(BaseModel):
    """Metadata of the test's table."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    note: str


METADATA = Label(seed=31415926, note="σ in [0, 1]")


def batches(count: int = 3) -> list[pa.RecordBatch]:
    """Return record batches with random content that does not compress away."""
    generator = np.random.default_rng(0)
    rows = [[{"number": i, "image": generator.bytes(2000)} for i in range(10)] for _ in range(count)]
    return [pa.RecordBatch.from_pylist(row, schema=SCHEMA) for row in rows]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A whole table on disk."""
    path = tmp_path / "table.parquet"
    write_parquet(path, with_metadata(SCHEMA, METADATA), batches())
    return path


@pytest.fixture
def damaged(table: Path) -> Callable[[bytes], Path]:
    """A function that puts other bytes in the table's place (a new file: the old one may be mapped into memory)."""

    def replace(content: bytes) -> Path:
        table.unlink()
        table.write_bytes(content)
        return table

    return replace


def footer_start(content: bytes) -> int:
    """Return where a Parquet file's data ends and its footer begins."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def flipped(content: bytes, bit: int) -> bytes:
    """Return the content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_a_table_comes_back_with_its_metadata(table: Path) -> None:
    """What was written is read, batch after batch, in one table."""
    found, metadata = read_parquet(table, SCHEMA, Label)
    assert found.equals(pa.Table.from_batches(batches()))
    assert metadata == METADATA


def test_the_same_table_is_the_same_bytes(table: Path) -> None:
    """Writing the same batches again gives the same file."""
    again = table.with_name("again.parquet")
    write_parquet(again, with_metadata(SCHEMA, METADATA), batches())
    assert again.read_bytes() == table.read_bytes()


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    """A path such as `seed=3/` is a name, not a column."""
    path = tmp_path / "seed=3" / "table.parquet"
    write_parquet(path, with_metadata(SCHEMA, METADATA), batches())
    assert read_parquet(path, SCHEMA, Label)[0].schema.names == ["number", "image"]


def test_a_truncated_table_is_corrupt_at_any_length(table: Path, damaged: Callable[[bytes], Path]) -> None:
    """Cut off at any of twenty lengths, the file is refused by name with a remedy."""
    content = table.read_bytes()
    for length in np.linspace(0, len(content) - 1, 20).astype(int):
        with pytest.raises(CorruptArtefactError, match=r"(?s)table\.parquet is damaged.*dvc checkout"):
            read_parquet(damaged(content[:length]), SCHEMA, Label)


def test_a_flipped_bit_is_corrupt_wherever_it_falls(table: Path, damaged: Callable[[bytes], Path]) -> None:
    """Each of fifty single-bit changes in the data, fifty in the footer, one in the magic number and all of the seal's own is refused."""
    content = table.read_bytes()
    start, end, chance = 8 * footer_start(content), 8 * len(content), random.Random(0)
    at = 8 * content.index(b"dcnas_file_sha256")
    seal = range(at, at + 8 * (17 + 2 + 64))
    for bit in [0, end - 1, *chance.sample(range(start), 50), *chance.sample(range(start, end), 50), *seal]:
        with pytest.raises(CorruptArtefactError, match=r"table\.parquet is damaged"):
            read_parquet(damaged(flipped(content, bit)), SCHEMA, Label)


def test_a_table_of_before_there_were_seals_is_read(tmp_path: Path) -> None:
    """It has the SHA-256 of its JSON alone, which is checked; without any of the two a table is refused."""
    text = METADATA.model_dump_json().encode()
    for digest, readable in ((hashlib.sha256(text).hexdigest().encode(), True), (b"0" * 64, False), (None, False)):
        named = {b"dcnas": text} | ({} if digest is None else {b"dcnas_sha256": digest})
        batch = pa.Table.from_batches(batches()).replace_schema_metadata(named)
        pq.write_table(batch, tmp_path / "old.parquet", write_page_checksum=True)
        if readable:
            assert read_parquet(tmp_path / "old.parquet", SCHEMA, Label)[1] == METADATA
            assert read_metadata(tmp_path / "old.parquet", Label) == METADATA
            continue
        for read in (lambda path: read_parquet(path, SCHEMA, Label), lambda path: read_metadata(path, Label)):
            with pytest.raises(CorruptArtefactError, match="SHA-256"):
                read(tmp_path / "old.parquet")


def test_a_copied_schema_does_not_bring_its_seal(table: Path) -> None:
    """A table written with all that another one's footer holds has a seal of its own, and one only."""
    again = table.with_name("again.parquet")
    write_parquet(again, SCHEMA.with_metadata(pq.read_metadata(table).metadata), batches(2))
    assert read_parquet(again, SCHEMA, Label)[0].num_rows == 20
    assert again.read_bytes().count(b"dcnas_file_sha256") == 1


def test_a_zeroed_block_is_corrupt(table: Path, damaged: Callable[[bytes], Path]) -> None:
    """Four KiB of zeros, as a lost disk page leaves them, are refused wherever they fall in the data."""
    content = table.read_bytes()
    for start in range(0, footer_start(content) - 4096, 9973):
        with pytest.raises(CorruptArtefactError, match="damaged"):
            read_parquet(damaged(content[:start] + bytes(4096) + content[start + 4096 :]), SCHEMA, Label)


def test_a_changed_digit_in_the_metadata_is_noticed(table: Path, damaged: Callable[[bytes], Path]) -> None:
    """The footer has no checksum of Parquet's own: a seed that reads 31415927 for 31415926 must be caught by ours."""
    content = table.read_bytes()
    assert content.count(b"31415926") == 1
    with pytest.raises(CorruptArtefactError, match=r"table\.parquet"):
        read_parquet(damaged(content.replace(b"31415926", b"31415927")), SCHEMA, Label)


def test_a_changed_digit_is_noticed_by_whoever_reads_the_metadata_alone(
    table: Path, damaged: Callable[[bytes], Path]
) -> None:
    """Reading no rows is no reason to believe a footer that does not have its SHA-256."""
    content = table.read_bytes()
    assert read_metadata(table, Label) == METADATA
    with pytest.raises(CorruptArtefactError, match=r"table\.parquet .* do not have the SHA-256"):
        read_metadata(damaged(content.replace(b"31415926", b"31415927")), Label)


@pytest.mark.parametrize(
    "schema",
    [
        pa.schema([*SCHEMA, pa.field("more", pa.int32())]),
        pa.schema([SCHEMA.field(1), SCHEMA.field(0)]),
        pa.schema([pa.field("number", pa.int64(), nullable=False), SCHEMA.field(1)]),
        pa.schema([pa.field("number", pa.int32()), SCHEMA.field(1)]),
        pa.schema([pa.field("n", pa.int32(), nullable=False), SCHEMA.field(1)]),
    ],
    ids=["column missing", "other order", "other type", "nullable", "other name"],
)
def test_a_table_of_another_kind_is_corrupt(table: Path, schema: pa.Schema) -> None:
    """A file whose columns are not the expected ones is refused, and its columns are named."""
    with pytest.raises(CorruptArtefactError, match="columns number, image"):
        read_parquet(table, schema, Label)


def test_a_table_without_our_metadata_is_corrupt(tmp_path: Path) -> None:
    """A Parquet file of another program is refused, even with the right columns."""
    path = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_batches(batches()), path)
    with pytest.raises(CorruptArtefactError, match=r"table\.parquet is not the expected table"):
        read_parquet(path, SCHEMA, Label)


def test_metadata_of_another_version_is_corrupt(tmp_path: Path) -> None:
    """Metadata with an unknown or a missing field is refused, naming the field."""
    path = tmp_path / "table.parquet"
    write_parquet(path, SCHEMA.with_metadata({b"dcnas": b'{"seed": 3, "notes": ""}'}), batches())
    with pytest.raises(CorruptArtefactError, match=r"(?s)cannot read.*note"):
        read_parquet(path, SCHEMA, Label)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 3, b"not a table at all" * 100])
def test_a_file_that_is_no_parquet_is_corrupt(tmp_path: Path, content: bytes) -> None:
    """An empty file, a bare magic number or any other bytes are refused by name."""
    path = tmp_path / "table.parquet"
    path.write_bytes(content)
    with pytest.raises(CorruptArtefactError, match=r"table\.parquet is damaged"):
        read_parquet(path, SCHEMA, Label)


def test_a_missing_table_says_how_to_get_it(tmp_path: Path) -> None:
    """No file, or a folder in its place, is a corrupt artefact with the command that makes it."""
    (tmp_path / "folder").mkdir()
    for name in ("absent", "folder"):
        with pytest.raises(CorruptArtefactError, match=rf"(?s){name} does not exist.*dvc repro"):
            read_parquet(tmp_path / name, SCHEMA, Label)


def test_a_full_disk_keeps_the_old_table(small_disk: Path) -> None:
    """A table that does not fit leaves the old one whole and nothing beside it."""
    path = small_disk / "table.parquet"
    write_parquet(path, with_metadata(SCHEMA, METADATA), batches())
    with pytest.raises(UnfitEnvironmentError, match="No space left"):
        write_parquet(path, with_metadata(SCHEMA, METADATA), batches(count=80))
    assert read_parquet(path, SCHEMA, Label)[0].num_rows == 30
    assert [file.name for file in small_disk.iterdir()] == ["table.parquet"]


def test_a_failing_source_leaves_no_part(table: Path) -> None:
    """When the batches themselves fail half-way, the old table stays."""

    def two_then_fail() -> object:
        yield from batches(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_parquet(table, with_metadata(SCHEMA, METADATA), two_then_fail())  # type: ignore[arg-type] # a generator stands in for the list
    assert read_parquet(table, SCHEMA, Label)[0].num_rows == 30
    assert [file.name for file in table.parent.iterdir()] == ["table.parquet"]
