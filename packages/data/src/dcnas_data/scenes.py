"""Two-digit scenes (paper, Sec. 3): a constant gray background with two digits that do not overlap."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dcnas_data.sources import DigitSet
from dcnas_harness.errors import CorruptArtefactError
from dcnas_schema.parquet import read_parquet
from dcnas_schema.scenes import DIGIT_SIZE, DIGITS_PER_SCENE, SPLITS, ScenesMetadata, scenes_schema

_CHUNK = 2048
"""Scenes composed at a time, one row group: bounds the memory."""
_GREATEST_DIGIT = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenes:
    """All scenes of one split, in memory."""

    images: NDArray[np.uint8]
    """n x size x size gray values."""
    labels: NDArray[np.uint8]
    """n x 2 digits."""
    corners: NDArray[np.int16]
    """n x 2 x (top, left): first row and column of each digit's 28x28 box."""
    metadata: ScenesMetadata


def compose_scenes(
    digits: DigitSet, *, split: str, count: int, size: int, background: tuple[float, float], seed: int
) -> Iterator[pa.RecordBatch]:
    """
    Yield `count` scenes of `size` x `size` pixels in record batches of at most 2048.

    The content depends on the arguments alone: one generator per split, one thread.

    Args:
        background: Range of the constant gray, in [0, 1].

        seed: With `split`, seeds the generator.
    """
    generator = np.random.Generator(np.random.PCG64([seed, SPLITS.index(split)]))
    schema = scenes_schema(size)
    for start in range(0, count, _CHUNK):
        n = min(_CHUNK, count - start)
        chosen = generator.integers(len(digits.labels), size=(n, DIGITS_PER_SCENE))
        gray = np.rint(generator.uniform(*background, size=n) * 255).astype(np.uint8)
        corners = _place(generator, n, size)
        images = _paste(digits.images[chosen], gray, corners, size)
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(size * size), n, [None, pa.py_buffer(images)]),
            _pairs(digits.labels[chosen], pa.uint8()),
            _pairs(corners[:, :, 0], pa.int16()),
            _pairs(corners[:, :, 1], pa.int16()),
            _pairs(digits.indices[chosen], pa.int32()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def read_scenes(path: Path) -> Scenes:
    """
    Read one split, its pixels as one contiguous array.

    Raises:
        CorruptArtefactError: The file is missing, damaged, or not a table of scenes.
    """
    size = _size_of(path)
    table, metadata = read_parquet(path, scenes_schema(size), ScenesMetadata)
    if path.stem in SPLITS and metadata.split != path.stem:
        raise CorruptArtefactError(
            f"{path} holds the scenes of the split {metadata.split}.",
            remedy="run: dvc checkout, or dvc repro generate_data",
        )
    if table.num_rows != metadata.scenes:
        raise CorruptArtefactError(
            f"{path} holds {table.num_rows} scenes, its metadata says {metadata.scenes}.",
            remedy="run: dvc repro generate_data",
        )
    corners = np.stack([_pair_values(table["top"]), _pair_values(table["left"])], axis=-1)
    if corners.min() < 0 or corners.max() > size - DIGIT_SIZE:
        raise CorruptArtefactError(
            f"{path} has a digit's box outside its scene.", remedy="run: dvc repro generate_data"
        )
    labels = _pair_values(table["label"])
    if labels.max() > _GREATEST_DIGIT:
        raise CorruptArtefactError(
            f"{path} has a digit labelled {labels.max()}.", remedy="run: dvc repro generate_data"
        )
    return Scenes(images=_pixels(table["image"], size), labels=labels, corners=corners, metadata=metadata)


def _size_of(path: Path) -> int:
    import pyarrow.parquet as pq

    if not path.is_file():
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc repro generate_data (or dvc pull)")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptArtefactError(
            f"{path} is damaged: {reason}", remedy="delete it, then run: dvc repro generate_data"
        ) from error
    if "image" not in schema.names or not pa.types.is_fixed_size_binary(schema.field("image").type):
        raise CorruptArtefactError(f"{path} is not a table of scenes.", remedy="run: dvc repro generate_data")
    width: int = schema.field("image").type.byte_width
    return math.isqrt(width)


def _place(generator: np.random.Generator, n: int, size: int) -> NDArray[np.int16]:
    corners = np.empty((n, DIGITS_PER_SCENE, 2), np.int16)
    open_ = np.arange(n)
    while len(open_):
        corners[open_] = generator.integers(size - DIGIT_SIZE + 1, size=(len(open_), DIGITS_PER_SCENE, 2))
        distance = np.abs(corners[open_, 0] - corners[open_, 1])
        open_ = open_[(distance < DIGIT_SIZE).all(axis=1)]
    return corners


def _paste(
    digits: NDArray[np.uint8], gray: NDArray[np.uint8], corners: NDArray[np.int16], size: int
) -> NDArray[np.uint8]:
    n = len(gray)
    images = np.broadcast_to(gray[:, None, None], (n, size, size)).copy()
    windows = np.lib.stride_tricks.sliding_window_view(images, (DIGIT_SIZE, DIGIT_SIZE), axis=(1, 2), writeable=True)
    scene = np.arange(n)
    for k in range(DIGITS_PER_SCENE):
        top, left = corners[:, k, 0], corners[:, k, 1]
        windows[scene, top, left] = np.maximum(digits[:, k], gray[:, None, None])
    return images


def _pairs(values: NDArray[np.generic], item: pa.DataType) -> pa.Array:
    kind = pa.list_(pa.field("item", item, nullable=False), DIGITS_PER_SCENE)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel(), item), type=kind)


def _pair_values(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = pa.chunked_array([chunk.flatten() for chunk in column.chunks]).to_numpy().copy()
    return values.reshape(-1, DIGITS_PER_SCENE)


def _pixels(column: pa.ChunkedArray, size: int) -> NDArray[np.uint8]:
    images = np.empty((len(column), size, size), np.uint8)
    start = 0
    for chunk in column.chunks:  # one copy out of Arrow's buffers into the array that the loop indexes
        n, width = len(chunk), size * size
        data = np.frombuffer(chunk.buffers()[1], np.uint8, count=n * width, offset=chunk.offset * width)
        images[start : start + n] = data.reshape(n, size, size)
        start += n
    return images
