"""Two-digit scenes: what their pixels, labels and boxes say is true, and the same seed gives the same ones."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dcnas_data.scenes import compose_scenes, read_scenes
from dcnas_data.sources import DigitSet, load_digits
from dcnas_harness.errors import CorruptArtefactError
from dcnas_schema.params import Params
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.scenes import SPLITS, ScenesMetadata, scenes_schema

COUNT = 300

COMPOSE = """
import hashlib, json, sys
from pathlib import Path
from dcnas_generate_data.write import write_splits
from dcnas_schema.params import DigitsParams
out = Path(sys.argv[2])
write_splits(DigitsParams.model_validate_json(sys.argv[1]), out)
print(json.dumps({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}))
"""


@pytest.fixture(scope="module")
def sources(tiny_params: Callable[..., Params]) -> dict[str, DigitSet]:
    """The source digits of the three splits."""
    return load_digits(tiny_params().generate_data.digits)


def columns(batch: pa.RecordBatch, size: int) -> dict[str, Any]:
    """Return the columns of composed scenes as arrays."""
    table = pa.Table.from_batches([batch])
    pairs = {name: np.array(table[name].to_pylist()) for name in ("label", "top", "left", "source_index")}
    pixels = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8)
    return {"image": pixels.reshape(-1, size, size), **pairs}


def compose(sources: dict[str, DigitSet], **changes: Any) -> dict[str, Any]:
    """Return scenes of the training split."""
    arguments = {"split": "train", "count": COUNT, "size": 72, "background": (0.1, 0.3), "seed": 0, **changes}
    (batch,) = compose_scenes(sources[arguments["split"]], **arguments)
    return columns(batch, arguments["size"])


def boxes(scene: dict[str, Any], i: int) -> list[tuple[slice, slice]]:
    """Return the two digit boxes of scene `i`."""
    corners = zip(scene["top"][i], scene["left"][i], strict=True)
    return [(slice(top, top + 28), slice(left, left + 28)) for top, left in corners]


@pytest.mark.parametrize("size", [56, 57, 72, 96])
def test_digits_lie_inside_and_never_overlap(sources: dict[str, DigitSet], size: int) -> None:
    """Both 28x28 boxes lie wholly in the scene and share no pixel, down to the least size that holds two."""
    scene = compose(sources, size=size)
    for name in ("top", "left"):
        assert scene[name].min() >= 0
        assert scene[name].max() <= size - 28
    for i in range(COUNT):
        covered = np.zeros((size, size), int)
        for box in boxes(scene, i):
            covered[box] += 1
        assert covered.max() == 1
        assert covered.sum() == 2 * 28 * 28


def test_digits_stand_at_many_places(sources: dict[str, DigitSet]) -> None:
    """Rows and columns are drawn over the whole range, edges included, and neither digit is always the upper one."""
    scene = compose(sources)
    for name in ("top", "left"):
        assert scene[name].min() <= 1
        assert scene[name].max() >= 72 - 28 - 1
        assert 0.4 < (scene[name][:, 0] < scene[name][:, 1]).mean() < 0.6


def test_pixels_are_the_digit_over_the_background(sources: dict[str, DigitSet]) -> None:
    """Inside a box a pixel is the greater of the source digit and the background; outside it is the background."""
    scene = compose(sources)
    rows = {index: row for row, index in enumerate(sources["train"].indices)}
    for i in range(COUNT):
        outside = np.ones((72, 72), bool)
        for box in boxes(scene, i):
            outside[box] = False
        (gray,) = set(scene["image"][i][outside].tolist())
        for box, index in zip(boxes(scene, i), scene["source_index"][i], strict=True):
            digit = sources["train"].images[rows[index]]
            np.testing.assert_array_equal(scene["image"][i][box], np.maximum(digit, gray))


def test_labels_are_those_of_the_source_digits(sources: dict[str, DigitSet]) -> None:
    """The label of each digit is the one that its source has."""
    scene = compose(sources)
    labels = dict(zip(sources["train"].indices.tolist(), sources["train"].labels.tolist(), strict=True))
    assert [[labels[index] for index in pair] for pair in scene["source_index"]] == scene["label"].tolist()
    assert set(scene["label"].ravel()) == set(range(10))


@pytest.mark.parametrize("background", [(0.1, 0.3), (0.0, 0.0), (0.5, 1.0)])
def test_the_background_lies_in_its_range(sources: dict[str, DigitSet], background: tuple[float, float]) -> None:
    """The constant gray of a scene lies in the range asked for, to half a gray level, and fills it."""
    scene = compose(sources, background=background)
    gray = scene["image"].min((1, 2)) / 255
    low, high = background
    assert gray.min() >= low - 0.5 / 255
    assert gray.max() <= high + 0.5 / 255
    assert gray.max() - gray.min() >= 0.9 * (high - low)


def test_the_same_seed_gives_the_same_scenes_and_another_does_not(sources: dict[str, DigitSet]) -> None:
    """Seed and split decide a scene, alone."""
    first = compose(sources)
    for name, values in compose(sources).items():
        np.testing.assert_array_equal(values, first[name])
    assert not np.array_equal(compose(sources, seed=1)["top"], first["top"])
    validation = dict.fromkeys(SPLITS, sources["train"])
    assert not np.array_equal(compose(validation, split="validation")["top"], first["top"])


def test_splits_draw_from_disjoint_source_digits(sources: dict[str, DigitSet]) -> None:
    """No source digit stands in two splits, and every split has all ten classes."""
    used = [set(sources[split].indices.tolist()) for split in SPLITS]
    assert sum(map(len, used)) == len(set.union(*used)) == 1797
    for split in SPLITS:
        drawn = compose(sources, split=split)
        assert set(drawn["source_index"].ravel().tolist()) <= set(sources[split].indices.tolist())
        assert set(sources[split].labels.tolist()) == set(range(10))


def test_files_are_byte_identical_on_one_core_or_two(
    tiny_params: Callable[..., Params], tmp_path: Path, python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Two processes with one and with two threads write tables and provenance of the same bytes."""
    hashes = []
    params = tiny_params().generate_data.digits.model_dump_json()
    for threads in ("1", "2"):
        variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"), threads)
        done = python("-c", COMPOSE, params, tmp_path / threads, cwd=tmp_path, **variables)
        assert done.returncode == 0, done.stderr
        hashes.append(json.loads(done.stdout.splitlines()[-1]))
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0].values())) == len(hashes[0]) == 4


def test_scenes_of_more_than_one_chunk_are_all_different(sources: dict[str, DigitSet]) -> None:
    """More than 2048 scenes come in several batches, which do not repeat each other."""
    made = list(compose_scenes(sources["train"], split="train", count=2100, size=56, background=(0.1, 0.3), seed=0))
    assert [batch.num_rows for batch in made] == [2048, 52]
    assert made[0].slice(0, 52).to_pylist() != made[1].to_pylist()


@pytest.fixture
def metadata() -> Callable[[int], ScenesMetadata]:
    """A function that makes the metadata of a number of scenes."""
    return lambda scenes: ScenesMetadata(
        split="train",
        source="optdigits",
        source_digits=100,
        scenes=scenes,
        size=72,
        seed=0,
        background=(0.1, 0.3),
    )


def test_another_splits_scenes_are_refused(tiny_scenes: Path, tmp_path: Path) -> None:
    """The training scenes under the name of the test scenes are named, not scored."""
    shutil.copyfile(tiny_scenes / "train.parquet", tmp_path / "test.parquet")
    with pytest.raises(CorruptArtefactError, match=r"test\.parquet holds the scenes of the split train"):
        read_scenes(tmp_path / "test.parquet")


def test_a_label_beyond_nine_is_refused(
    sources: dict[str, DigitSet], tmp_path: Path, metadata: Callable[[int], ScenesMetadata]
) -> None:
    """A class that no model has is found when the scenes are read, not within a loss."""
    wrong = replace(sources["train"], labels=np.full_like(sources["train"].labels, 10))
    made = compose_scenes(wrong, split="train", count=3, size=72, background=(0.1, 0.3), seed=0)
    write_parquet(tmp_path / "train.parquet", with_metadata(scenes_schema(72), metadata(3)), made)
    with pytest.raises(CorruptArtefactError, match="a digit labelled 10"):
        read_scenes(tmp_path / "train.parquet")


def test_reading_gives_what_was_composed(
    sources: dict[str, DigitSet], tmp_path: Path, metadata: Callable[[int], ScenesMetadata]
) -> None:
    """Pixels, labels and corners come back as they were, over several row groups."""
    made = list(compose_scenes(sources["train"], split="train", count=2100, size=72, background=(0.1, 0.3), seed=0))
    write_parquet(tmp_path / "train.parquet", with_metadata(scenes_schema(72), metadata(2100)), made)
    read = read_scenes(tmp_path / "train.parquet")
    written = [columns(batch, 72) for batch in made]
    for name, values in (("image", read.images), ("label", read.labels)):
        np.testing.assert_array_equal(values, np.concatenate([batch[name] for batch in written]))
    for axis, name in enumerate(("top", "left")):
        np.testing.assert_array_equal(read.corners[:, :, axis], np.concatenate([batch[name] for batch in written]))
    assert read.images.flags.c_contiguous
    assert read.metadata.scenes == 2100


def test_a_count_that_does_not_match_is_corrupt(
    sources: dict[str, DigitSet], tmp_path: Path, metadata: Callable[[int], ScenesMetadata]
) -> None:
    """A table with fewer scenes than its metadata says is refused with both counts."""
    made = list(compose_scenes(sources["train"], split="train", count=3, size=72, background=(0.1, 0.3), seed=0))
    write_parquet(tmp_path / "train.parquet", with_metadata(scenes_schema(72), metadata(4)), made)
    with pytest.raises(CorruptArtefactError, match=r"holds 3 scenes, its metadata says 4"):
        read_scenes(tmp_path / "train.parquet")


def test_a_box_outside_its_scene_is_corrupt(tmp_path: Path, metadata: Callable[[int], ScenesMetadata]) -> None:
    """A corner from which a digit would stick out is refused, not clamped."""
    row = {"image": bytes(72 * 72), "label": [1, 2], "top": [0, 45], "left": [0, 0], "source_index": [0, 1]}
    batch = pa.RecordBatch.from_pylist([row], schema=scenes_schema(72))
    write_parquet(tmp_path / "train.parquet", with_metadata(scenes_schema(72), metadata(1)), [batch])
    with pytest.raises(CorruptArtefactError, match="outside its scene"):
        read_scenes(tmp_path / "train.parquet")


def test_missing_damaged_or_foreign_scenes_are_corrupt(tmp_path: Path, tiny_scenes: Path) -> None:
    """No file, a cut one and a table of something else are refused by name with the stage that makes it."""
    path = tmp_path / "train.parquet"
    with pytest.raises(CorruptArtefactError, match=r"(?s)train\.parquet does not exist.*generate_data"):
        read_scenes(path)
    path.write_bytes((tiny_scenes / "train.parquet").read_bytes()[:-100])
    with pytest.raises(CorruptArtefactError, match=r"train\.parquet is damaged"):
        read_scenes(path)
    path.unlink()
    write_parquet(path, pa.schema([("x", pa.int8())]), [])
    with pytest.raises(CorruptArtefactError, match=r"train\.parquet is not a table of scenes"):
        read_scenes(path)
