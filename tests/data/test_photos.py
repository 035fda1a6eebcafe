"""Photo splits on disk: what is in them, what was left out and why, the same bytes at every run; errors before anything is written."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dcnas_data.photo_files import decode_stored
from dcnas_data.photos import ordered_map, read_photos
from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_schema.parquet import write_parquet
from dcnas_schema.photo_params import ParquetColumns, PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS, PHOTOS, PhotosMetadata, PhotoSplit

Make = Callable[..., PhotosParams]
Folder = Callable[..., Path]
WriteSet = Callable[..., dict[PhotoSplit, PhotosMetadata]]
Encode = Callable[..., bytes]

DEMO = """
import sys
from pathlib import Path
from dcnas_generate_data.write_photos import write_photo_splits
from dcnas_schema.photo_params import PhotosParams
write_photo_splits(PhotosParams.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
"""


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir())}


def test_the_splits_say_what_they_are(demo_set: Path) -> None:
    """Counts, classes and sizes stand in the metadata and are true of the pictures."""
    assert sorted(path.name for path in demo_set.iterdir()) == sorted(f"{split}.parquet" for split in PHOTO_SPLITS)
    for split, count in (("train", 12), ("validation", 4), ("test", 6)):
        photos = read_photos(demo_set / f"{split}.parquet")
        found = photos.metadata
        assert (found.split, found.source, found.images, found.size, found.seed) == (split, "demo", 4 * count, 32, 0)
        assert found.classes == ("astronaut", "brick", "camera", "chelsea")
        assert found.per_class == (count,) * 4
        assert photos.labels.tolist() == [label for label in range(4) for _ in range(count)]
        assert found.refused == found.repaired == {}
        for number, name in enumerate(photos.names):
            assert decode_stored(photos.encoded(number)).shape == (32, 32, 3)
            assert name == f"skimage/data/{found.classes[photos.labels[number]]}.png"


def test_pictures_are_those_of_the_source(
    tmp_path: Path, photos_params: Make, folder_of_classes: Folder, write_set: WriteSet
) -> None:
    """A folder's picture, read back, is the file scaled; name and box tell which file, and sizes may differ."""
    root = folder_of_classes(tmp_path / "in", kind="PNG", a=6, b=6)
    write_set(photos_params(source="image_folder", root=str(root)), tmp_path / "out")
    photos = read_photos(tmp_path / "out" / "train.parquet")
    boxes = pq.read_table(tmp_path / "out" / "train.parquet")["box"].to_pylist()
    for number, name in enumerate(photos.names):
        with Image.open(root / name) as image:
            height, width = photos.sizes[number].tolist()
            expected = image.resize((width, height), Image.Resampling.BICUBIC)
            assert (height, width) == (32, image.width * 32 // image.height)
            assert boxes[number] == [0, 0, image.height, image.width]
        assert np.array_equal(decode_stored(photos.encoded(number)), np.asarray(expected))
    assert len({tuple(size) for size in photos.sizes.tolist()}) > 1


def test_bad_files_are_left_out_counted_and_named(
    tmp_path: Path,
    photos_params: Make,
    folder_of_classes: Folder,
    write_set: WriteSet,
    picture: Callable[..., Image.Image],
    encoded: Encode,
) -> None:
    """A folder full of trouble gives a whole set: each bad file stands in the metadata with its reason, each repair is counted."""
    for part, count, seed in (("train", 8, 100), ("validation", 2, 200), ("test", 2, 300)):
        folder_of_classes(tmp_path / "in" / part, first_seed=seed, a=count, b=count)
    trouble = tmp_path / "in" / "train" / "b"
    content = encoded(picture(seed=7), "JPEG")
    for name, data in {
        "empty.jpg": b"",
        "text.jpg": b"no picture at all",
        "half.jpg": content[: len(content) // 2],
        "tiny.png": encoded(picture(9, 9)),
        "real.tif": encoded(Image.fromarray(np.zeros((40, 40), np.float32)), "TIFF"),
        "leak.jpg": (tmp_path / "in" / "test" / "a" / "000.jpeg").read_bytes(),
        "gray.png": encoded(picture(seed=8).convert("L")),
        "cmyk.jpg": encoded(picture(seed=9).convert("CMYK"), "JPEG"),
        "small.png": encoded(picture(25, 20, seed=10)),
    }.items():
        (trouble / name).write_bytes(data)
    (trouble / "gone.jpg").symlink_to(tmp_path / "nowhere")
    params = photos_params(source="image_folder", root=str(tmp_path / "in"))
    found = write_set(params, tmp_path / "out")["train"]
    assert {file.name: file.reason for file in found.refused_files} == {
        "train/b/empty.jpg": "not an image",
        "train/b/text.jpg": "not an image",
        "train/b/half.jpg": "truncated",
        "train/b/tiny.png": "too small",
        "train/b/real.tif": "unsupported pixels",
        "train/b/leak.jpg": "in another split",
        "train/b/gone.jpg": "missing or unreadable",
    }
    assert found.refused == {
        "in another split": 1,
        "missing or unreadable": 1,
        "not an image": 2,
        "too small": 1,
        "truncated": 1,
        "unsupported pixels": 1,
    }
    assert found.repaired == {"cmyk": 1, "enlarged": 1, "gray": 1}
    assert found.per_class == (8, 11)
    photos = read_photos(tmp_path / "out" / "train.parquet")
    assert photos.metadata == found
    assert np.bincount(photos.labels).tolist() == [8, 11]


def test_a_class_without_a_usable_picture_stops_before_writing(
    tmp_path: Path, photos_params: Make, folder_of_classes: Folder, write_set: WriteSet
) -> None:
    """Class, split, count and reasons are told; the files of an earlier run stay as they were and nothing is left over."""
    root = folder_of_classes(tmp_path / "in", a=8, b=8)
    params = photos_params(source="image_folder", root=str(root))
    write_set(params, tmp_path / "out")
    before = hashes(tmp_path / "out")
    for path in (root / "b").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(
        BadInputError, match=r"class b has no usable picture for test; 2 were refused \(b/00\d.*: not an"
    ):
        write_set(params, tmp_path / "out")
    assert hashes(tmp_path / "out") == before


def test_one_thread_and_many_write_the_same_bytes(
    tmp_path: Path, photos_params: Make, folder_of_classes: Folder, write_set: WriteSet
) -> None:
    """Order and bytes do not depend on the number of threads, with refused files among them; nor do they change at a second run."""
    root = folder_of_classes(tmp_path / "in", a=30, b=30)
    for number in range(0, 30, 4):
        (root / "a" / f"{number:03}.jpeg").write_bytes(b"broken")
    params = photos_params(source="image_folder", root=str(root), encoding="jpeg")
    for name, threads in (("one", 1), ("again", 1), ("four", 4)):
        write_set(params, tmp_path / name, threads=threads)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "again") == hashes(tmp_path / "four")


def test_the_stage_writes_the_same_bytes_on_one_core_and_on_two(
    tmp_path: Path, photos_params: Make, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Two processes, one of them kept to a single core, make the same demo set."""
    params = photos_params(most={"train": 6, "validation": 2, "test": 2}, most_classes=3).model_dump_json()
    pin = f"import os\nos.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
    for name, before in (("one", pin), ("all", "")):
        done = python("-c", before + DEMO, params, tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "one") == hashes(tmp_path / "all")


def test_the_digest_of_the_source_sees_a_changed_picture(
    tmp_path: Path, photos_params: Make, folder_of_classes: Folder, write_set: WriteSet
) -> None:
    """One changed byte in one file changes that split's digest and no other's, even where the file is refused."""
    root = folder_of_classes(tmp_path / "in", a=8, b=8)
    params = photos_params(source="image_folder", root=str(root))
    before = write_set(params, tmp_path / "out")
    name = read_photos(tmp_path / "out" / "train.parquet").names[0]
    (root / name).write_bytes(b"broken")
    after = write_set(params, tmp_path / "out")
    assert after["train"].refused == {"not an image": 1}
    assert {split for split in PHOTO_SPLITS if before[split].content_sha256 != after[split].content_sha256} == {"train"}


def test_parquet_gives_the_same_set_as_the_files(
    tmp_path: Path,
    photos_params: Make,
    folder_of_classes: Folder,
    write_set: WriteSet,
    columns: ParquetColumns,
) -> None:
    """The same pictures from a folder and from a table make the same rows, names apart."""
    root = folder_of_classes(tmp_path / "in", a=8, b=8)
    paths = sorted(root.glob("*/*"))
    table = pa.table({"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]})
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=3)
    write_set(photos_params(source="image_folder", root=str(root)), tmp_path / "folder")
    files = (str(tmp_path / "all.parquet"),)
    write_set(photos_params(source="parquet", files=files, columns=columns), tmp_path / "table")
    for split in PHOTO_SPLITS:
        one, other = (pq.read_table(tmp_path / name / f"{split}.parquet") for name in ("folder", "table"))
        assert one.drop_columns("name").equals(other.drop_columns("name"))


def test_damage_and_other_tables_are_told_apart(tmp_path: Path, demo_set: Path, tiny_scenes: Path) -> None:
    """A missing file, a changed byte, a table of scenes: exit 4 with the file's name."""
    content = bytearray((demo_set / "test.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(content)
    for path, message in (
        (tmp_path / "none.parquet", "does not exist"),
        (damaged, "is damaged"),
        (tiny_scenes / "test.parquet", "not the expected table"),
    ):
        with pytest.raises(CorruptArtefactError, match=message) as caught:
            read_photos(path)
        assert path.name in str(caught.value)


def test_rows_that_contradict_the_metadata_are_refused(tmp_path: Path, demo_set: Path) -> None:
    """Fewer rows than the metadata say, or other labels, are no photo split."""
    table = pq.read_table(demo_set / "test.parquet")
    schema = PHOTOS.with_metadata(pq.ParquetFile(demo_set / "test.parquet").metadata.metadata)
    relabelled = table.set_column(1, PHOTOS.field("label"), pa.array([9] * table.num_rows, pa.int32()))
    for changed in (table.slice(0, 10), relabelled):
        path = tmp_path / "test.parquet"
        write_parquet(path, schema, changed.cast(schema).combine_chunks().to_batches())
        with pytest.raises(CorruptArtefactError, match="not what its metadata says"):
            read_photos(path)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_ordered_map_keeps_order_and_bounds_its_work(threads: int) -> None:
    """Results come in order, no more is begun than asked for ahead, and an error comes out where it belongs."""
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 50:
            raise ValueError("the fiftieth")
        return number * number

    results = ordered_map(work, iter(range(100)), threads=threads, ahead=5)
    assert [next(results) for _ in range(10)] == [number * number for number in range(10)]
    assert max(begun) < 10 + 5
    with pytest.raises(ValueError, match="the fiftieth"):
        list(results)
    assert max(begun) < 50 + 5


def test_the_metadata_are_plain_json(demo_set: Path) -> None:
    """Anyone may read them without this project."""
    raw = pq.ParquetFile(demo_set / "train.parquet").metadata.metadata[b"dcnas"]
    assert json.loads(raw)["per_class"] == [12, 12, 12, 12]
