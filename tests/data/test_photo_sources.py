"""Where pictures come from and which split they go to: folders, ImageNet-100, Parquet; errors name what is wrong before any work."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dcnas_data.photo_items import PhotoSource
from dcnas_data.photo_sources import imagenet100_classes, open_source
from dcnas_harness.errors import BadInputError
from dcnas_schema.params import SplitCounts
from dcnas_schema.photo_params import ParquetColumns, PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS

Make = Callable[..., PhotosParams]
Folder = Callable[..., Path]
PARTED = ParquetColumns(image="image", label="label", split="split", name="name")


def counts(source: PhotoSource) -> dict[str, list[int]]:
    """Return the pictures of each class in each split."""
    found = {}
    for split in PHOTO_SPLITS:
        labels = Counter(item.label for item in source.splits[split])
        found[split] = [labels[label] for label in range(len(source.classes))]
    return found


def names(source: PhotoSource) -> dict[str, list[str]]:
    """Return the names of each split, in order."""
    return {split: [item.name for item in source.splits[split]] for split in PHOTO_SPLITS}


def test_a_plain_folder_is_cut_by_class(tmp_path: Path, photos_params: Make, folder_of_classes: Folder) -> None:
    """A quarter of each class tests, a quarter of the rest validates, no picture stands twice, each label is its folder's rank."""
    root = folder_of_classes(tmp_path, dog=16, cat=8)
    source = open_source(photos_params(source="image_folder", root=str(root)))
    assert source.classes == ("cat", "dog")
    assert counts(source) == {"train": [4, 9], "validation": [2, 3], "test": [2, 4]}
    everything = [name for split in names(source).values() for name in split]
    assert sorted(everything) == sorted(path.relative_to(root).as_posix() for path in root.glob("*/*"))
    for split in PHOTO_SPLITS:
        assert all(item.name.startswith(source.classes[item.label] + "/") for item in source.splits[split])
        item = source.splits[split][0]
        assert item.read() == (root / item.name).read_bytes()


def test_the_cut_follows_the_seed(tmp_path: Path, photos_params: Make, folder_of_classes: Folder) -> None:
    """The same seed cuts alike, another one otherwise; a new class does not move the pictures of those before it."""
    root = folder_of_classes(tmp_path, ant=20, bee=20)
    first, again, other = (
        names(open_source(photos_params(source="image_folder", root=str(root), seed=seed))) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    folder_of_classes(root, cow=5)
    wider = names(open_source(photos_params(source="image_folder", root=str(root))))
    assert {s: [n for n in found if not n.startswith("cow")] for s, found in wider.items()} == first


def test_given_parts_stay(tmp_path: Path, photos_params: Make, folder_of_classes: Folder) -> None:
    """All three parts are used as they are; of train and one other, the other tests and validation is cut from train."""
    for part, count in (("train", 8), ("val", 3), ("test", 2)):
        folder_of_classes(tmp_path / "three" / part, a=count, b=count)
    three = open_source(photos_params(source="image_folder", root=str(tmp_path / "three")))
    assert counts(three) == {"train": [8, 8], "validation": [3, 3], "test": [2, 2]}
    for other in ("val", "test"):
        for part, count in (("train", 8), (other, 3)):
            folder_of_classes(tmp_path / other / part, a=count, b=count)
        two = open_source(photos_params(source="image_folder", root=str(tmp_path / other)))
        assert counts(two) == {"train": [6, 6], "validation": [2, 2], "test": [3, 3]}
        assert all(name.startswith(f"{other}/") for name in names(two)["test"])
        assert all(name.startswith("train/") for split in ("train", "validation") for name in names(two)[split])


def test_limits_on_classes_and_pictures(tmp_path: Path, photos_params: Make, folder_of_classes: Folder) -> None:
    """Only the first classes and at most so many pictures of each are taken; the limit takes part of what there would be."""
    root = folder_of_classes(tmp_path, a=16, b=16, c=16)
    base = {"source": "image_folder", "root": str(root), "most_classes": 2}
    everything = open_source(photos_params(**base))
    few = open_source(photos_params(**base, most=SplitCounts(train=3, validation=100, test=1)))
    assert few.classes == ("a", "b")
    assert counts(few) == {"train": [3, 3], "validation": [3, 3], "test": [1, 1]}
    for split in PHOTO_SPLITS:
        assert set(names(few)[split]) <= set(names(everything)[split])


def test_every_split_gets_one(tmp_path: Path, photos_params: Make, folder_of_classes: Folder) -> None:
    """Three pictures are one for each split, whatever the shares."""
    root = folder_of_classes(tmp_path, a=3, b=3)
    for share in (0.01, 0.99):
        params = photos_params(source="image_folder", root=str(root), validation_share=share, test_share=share)
        assert counts(open_source(params)) == {"train": [1, 1], "validation": [1, 1], "test": [1, 1]}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({}, "0 classes"),
        ({"only": 5}, "1 class;"),
        ({"a": 5, "b": 2}, "class b has 2 training pictures; it needs 3"),
        ({"a": 5, "b": 0}, "class b has 0 training pictures"),
    ],
)
def test_a_folder_that_cannot_do_is_refused(
    tmp_path: Path, photos_params: Make, folder_of_classes: Folder, made: dict[str, int], message: str
) -> None:
    """No class, one class, or too few pictures of one: said before any picture is read."""
    root = folder_of_classes(tmp_path, **made)
    with pytest.raises(BadInputError, match=message):
        open_source(photos_params(source="image_folder", root=str(root)))


def test_wrong_folders_are_named(tmp_path: Path, photos_params: Make, folder_of_classes: Folder) -> None:
    """A missing folder, a class that only the test part has, two names of one part."""
    with pytest.raises(BadInputError, match="nowhere is not a folder"):
        open_source(photos_params(source="image_folder", root=str(tmp_path / "nowhere")))
    folder_of_classes(tmp_path / "train", a=4, b=4)
    folder_of_classes(tmp_path / "test", a=4, b=4, owl=4)
    with pytest.raises(BadInputError, match=r"classes that .*train has not: owl"):
        open_source(photos_params(source="image_folder", root=str(tmp_path)))
    folder_of_classes(tmp_path / "val", a=4, b=4)
    folder_of_classes(tmp_path / "valid", a=4, b=4)
    with pytest.raises(BadInputError, match="two folders for one part"):
        open_source(photos_params(source="image_folder", root=str(tmp_path)))


def test_hidden_files_and_folders_are_passed_over(
    tmp_path: Path, photos_params: Make, folder_of_classes: Folder
) -> None:
    """What a file manager leaves behind is no picture; any other file is, until it is read."""
    root = folder_of_classes(tmp_path, a=4, b=4)
    (root / ".cache").mkdir()
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "a" / "inner").mkdir()
    (root / "a" / "notes.txt").write_bytes(b"x")
    (root / "licence.txt").write_bytes(b"x")
    source = open_source(photos_params(source="image_folder", root=str(root)))
    found = [name for split in names(source).values() for name in split]
    assert len(found) == 9
    assert "a/notes.txt" in found


def test_the_hundred_classes_are_sorted_synsets() -> None:
    """The published list: a hundred different synsets, a label being the rank."""
    classes = imagenet100_classes()
    assert len(set(classes)) == 100
    assert list(classes) == sorted(classes)
    assert (classes[0], classes[99]) == ("n01560419", "n13044778")


@pytest.fixture
def imagenet(tmp_path: Path, folder_of_classes: Folder) -> Path:
    """ImageNet's two folders, the first two of the hundred classes and one other."""
    first, second = imagenet100_classes()[:2]
    folder_of_classes(tmp_path / "train", **{first: 10, second: 10, "n00000001": 2})
    folder_of_classes(tmp_path / "val", **{first: 2, second: 2, "n00000001": 2})
    return tmp_path


def test_imagenet100_without_lists_is_cut_by_seed(imagenet: Path, photos_params: Make) -> None:
    """The official val pictures test; a share of each class's training pictures validates; other synsets are passed over."""
    params = photos_params(source="imagenet100", root=str(imagenet), most_classes=2, validation_share=0.2)
    source = open_source(params)
    assert counts(source) == {"train": [8, 8], "validation": [2, 2], "test": [2, 2]}
    assert all(name.startswith("val/") for name in names(source)["test"])
    with pytest.raises(BadInputError, match=r"lacks 98 of ImageNet-100's 100 folders, n01667114 the first"):
        open_source(photos_params(source="imagenet100", root=str(imagenet)))


def test_the_published_lists_decide(imagenet: Path, photos_params: Make) -> None:
    """Train and validation are what the lists say, in their order; classes beyond the limit are left out, a missing file is only listed."""
    first, second = imagenet100_classes()[:2]
    train, validation = imagenet / "train.txt", imagenet / "validation.txt"
    train.write_text(f"{second}/003.JPEG 1\n{first}/001.JPEG 0\n{imagenet100_classes()[7]}/x.JPEG 7\n")
    validation.write_text(f"{first}/absent.JPEG 0\n{second}/002.JPEG 1\n")
    lists = {"train_list": str(train), "validation_list": str(validation)}
    source = open_source(photos_params(source="imagenet100", root=str(imagenet), most_classes=2, **lists))
    assert names(source)["train"] == [f"train/{second}/003.JPEG", f"train/{first}/001.JPEG"]
    assert names(source)["validation"] == [f"train/{first}/absent.JPEG", f"train/{second}/002.JPEG"]
    assert counts(source)["test"] == [2, 2]


@pytest.mark.parametrize(
    "line",
    ["n01560419/a.JPEG 1", "n01560419/a.JPEG", "n00000001/a.JPEG 0", "../n01560419/a.JPEG 0", "", "n01560419/.. 0"],
)
def test_a_wrong_line_of_a_list_is_named(imagenet: Path, photos_params: Make, line: str) -> None:
    """A wrong rank, no label, another synset, a way out of the folder, an empty line: file and number are told."""
    path = imagenet / "list.txt"
    path.write_text(f"n01560419/000.JPEG 0\n{line}\n")
    lists = {"train_list": str(path), "validation_list": str(path)}
    with pytest.raises(BadInputError, match=r"list\.txt, line 2"):
        open_source(photos_params(source="imagenet100", root=str(imagenet), most_classes=2, **lists))
    lists["train_list"] = str(imagenet / "none.txt")
    with pytest.raises(BadInputError, match=r"none\.txt cannot be read"):
        open_source(photos_params(source="imagenet100", root=str(imagenet), most_classes=2, **lists))


@pytest.fixture
def rows(picture: Callable[..., Image.Image], encoded: Callable[..., bytes]) -> list[bytes]:
    """Twelve encoded pictures."""
    return [encoded(picture(seed=seed), "JPEG") for seed in range(12)]


def write(path: Path, group: int = 5, **values: object) -> str:
    """Write a Parquet file and return its name."""
    pq.write_table(pa.table(values), path, row_group_size=group)
    return str(path)


def test_parquet_without_parts_is_cut(
    tmp_path: Path, photos_params: Make, columns: ParquetColumns, rows: list[bytes]
) -> None:
    """Labels are ranks of the values, numbers in their order; rows of several files and row groups give their own bytes."""
    files = (
        write(tmp_path / "a.parquet", image=rows[:8], label=[10, 9] * 4),
        write(tmp_path / "b.parquet", image=rows[8:], label=[9, 10] * 2),
    )
    source = open_source(photos_params(source="parquet", files=files, columns=columns))
    assert source.classes == ("9", "10")
    assert counts(source) == {"train": [3, 3], "validation": [1, 1], "test": [2, 2]}
    everything = {item.name: item for split in PHOTO_SPLITS for item in source.splits[split]}
    expected = [f"a.parquet#{row}" for row in range(8)] + [f"b.parquet#{row}" for row in range(4)]
    assert sorted(everything) == sorted(expected)
    assert [everything[name].read() for name in expected] == rows
    assert everything["a.parquet#0"].label == 1


def test_parquet_with_parts_names_and_a_struct(tmp_path: Path, photos_params: Make, rows: list[bytes]) -> None:
    """Parts by any usual name, labels as dictionary of strings, images as a struct of bytes and path; an absent image reads as empty."""
    images = [{"bytes": row, "path": "x"} for row in rows]
    images[11] = {"bytes": None, "path": "x"}
    file = write(
        tmp_path / "c.parquet",
        image=images,
        label=pa.array(["dog", "cat"] * 6).dictionary_encode(),
        split=["train"] * 8 + ["val"] * 4,
        name=[f"p{row}" for row in range(12)],
    )
    source = open_source(photos_params(source="parquet", files=(file,), columns=PARTED))
    assert source.classes == ("cat", "dog")
    assert counts(source) == {"train": [3, 3], "validation": [1, 1], "test": [2, 2]}
    assert [item.name for item in source.splits["test"]] == [f"c.parquet#{row} p{row}" for row in range(8, 12)]
    assert [item.read() for item in source.splits["test"]] == [*rows[8:11], b""]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": [0, 1]}, "has no column 'image'; it has label"),
        ({"image": ["a", "b"], "label": [0, 1]}, "column image of .* holds string, not encoded images"),
        ({"image": [b"a", b"b"], "label": [0, None]}, "1 rows without a label"),
        ({"image": [b"a", b"b"], "label": [0.5, 1.5]}, "column label of .* holds double"),
    ],
)
def test_a_wrong_table_is_refused(
    tmp_path: Path, photos_params: Make, columns: ParquetColumns, values: dict[str, object], message: str
) -> None:
    """A missing column, images that are none, rows without label, labels that are measures."""
    file = write(tmp_path / "a.parquet", **values)
    with pytest.raises(BadInputError, match=message):
        open_source(photos_params(source="parquet", files=(file,), columns=columns))


def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, photos_params: Make, columns: ParquetColumns, rows: list[bytes]
) -> None:
    """No file, no Parquet, labels of two kinds, parts of unknown name or without train."""
    numbers = write(tmp_path / "a.parquet", image=rows[:2], label=[0, 1])
    words = write(tmp_path / "b.parquet", image=rows[:2], label=["a", "b"])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and nothing more")
    for files, message in (
        ((str(tmp_path / "none.parquet"),), r"none\.parquet cannot be read as Parquet"),
        ((str(tmp_path / "c.parquet"),), r"c\.parquet cannot be read as Parquet"),
        ((numbers, words), "numbers in one file and strings in another"),
    ):
        with pytest.raises(BadInputError, match=message):
            open_source(photos_params(source="parquet", files=files, columns=columns))
    for split, message in (
        ("holdout", "'holdout' is not the name of a part"),
        ("val", "parts validation and no train"),
    ):
        file = write(tmp_path / "d.parquet", image=rows[:4], label=[0, 0, 1, 1], split=[split] * 4, name=["x"] * 4)
        with pytest.raises(BadInputError, match=message):
            open_source(photos_params(source="parquet", files=(file,), columns=PARTED))
