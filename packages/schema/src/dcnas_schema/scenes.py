"""The table of two-digit scenes: data/generate_data/digits/{train,validation,test}.parquet."""

from typing import Literal

import pyarrow as pa

from dcnas_schema.provenance import Record

DIGIT_SIZE = 28
"""Height and width of a digit, in pixels."""
DIGITS_PER_SCENE = 2
SPLITS = ("train", "validation", "test")


class ScenesMetadata(Record):
    """
    What the table of scenes says of itself: nothing that the same parameters and code would not give again.

    Commit and machine stand in provenance.json beside it: here they would change the bytes, and with them all that is made of the scenes.
    """

    version: Literal[2] = 2
    split: Literal["train", "validation", "test"]
    source: Literal["mnist", "optdigits"]
    source_digits: int
    """Digits of the source that this split may draw from; disjoint from those of the other splits."""
    scenes: int
    size: int
    seed: int
    background: tuple[float, float]


def scenes_schema(size: int) -> pa.Schema:
    """
    Return the columns of a table of scenes of `size` x `size` pixels.

    `image`: gray, uint8, row-major, one byte a pixel (the three channels of a scene are equal, one is stored).
    `label`: the two digits. `top`, `left`: first row and column of each digit's 28x28 box. `source_index`: the source digit.
    """
    pair = DIGITS_PER_SCENE
    return pa.schema(
        [
            pa.field("image", pa.binary(size * size), nullable=False),
            pa.field("label", pa.list_(pa.field("item", pa.uint8(), nullable=False), pair), nullable=False),
            pa.field("top", pa.list_(pa.field("item", pa.int16(), nullable=False), pair), nullable=False),
            pa.field("left", pa.list_(pa.field("item", pa.int16(), nullable=False), pair), nullable=False),
            pa.field("source_index", pa.list_(pa.field("item", pa.int32(), nullable=False), pair), nullable=False),
        ]
    )
