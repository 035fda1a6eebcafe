"""The table of a photo split: data/generate_data/photos/{train,validation,test}.parquet."""

from typing import Literal

import pyarrow as pa

from dcnas_schema.provenance import Record

PhotoSplit = Literal["train", "validation", "test"]
PHOTO_SPLITS: tuple[PhotoSplit, ...] = ("train", "validation", "test")
"""`train` trains weights, `validation` is the architecture split of the search, both together retrain, `test` evaluates."""
SourceName = Literal["demo", "image_folder", "imagenet100", "parquet"]

Refusal = Literal[
    "missing or unreadable",
    "not an image",
    "corrupt",
    "truncated",
    "too large",
    "too small",
    "unsupported pixels",
    "in another split",
]
"""
Why a file was left out.

`not an image`: none of the formats that are read (JPEG, PNG, WebP, TIFF, BMP, GIF, PPM, JPEG 2000), an empty file included. `too
large`: more pixels than a decompression bomb's limit. `too small`: shorter than half the stored side. `unsupported pixels`: 32-bit or
floating-point values, whose range is unknown. `in another split`: the same bytes stand in `test` or `validation`, and would leak from
training into it.
"""

Repair = Literal[
    "gray", "cmyk", "16-bit", "palette", "transparent", "colour space", "animated", "rotated", "trimmed", "enlarged"
]
"""
What was done to a picture that was kept, beside making it as small as asked for.

`gray`: one channel repeated. `cmyk`, `colour space`: converted to RGB without a colour profile. `16-bit`: the upper eight bits kept.
`transparent`: laid on white. `animated`: the first frame. `rotated`: turned upright as its EXIF says. `trimmed`: the middle of a
picture more than three times as long as wide. `enlarged`: its short side was less than the stored one, but at least half of it.
"""


class RefusedFile(Record):
    """One file that was left out."""

    name: str
    reason: Refusal


class PhotosMetadata(Record):
    """What the table of photographs says of itself."""

    version: Literal[1] = 1
    split: PhotoSplit
    source: SourceName
    classes: tuple[str, ...]
    """Class names; a label is the number of its class here."""
    images: int
    per_class: tuple[int, ...]
    """Images of each class."""
    size: int
    """Short side of every image in pixels; the long side is at most three times as long."""
    seed: int
    refused: dict[Refusal, int]
    """Files left out, by reason."""
    repaired: dict[Repair, int]
    """Files kept that needed more than scaling, by what was done; a file may count twice."""
    refused_files: tuple[RefusedFile, ...]
    """Which ones: the first thousand."""
    content_sha256: str
    """SHA-256 over name and bytes of every source file of this split, in the order of the table, refused ones included."""


PHOTOS = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("box", pa.list_(pa.field("item", pa.int32(), nullable=False), 4), nullable=False),
    ]
)
"""
Columns of a photo split.

`image`: an encoded RGB picture, JPEG or PNG, of `height` x `width` pixels. `name`: the file it came from, relative to the source's root, or
row number and name within a Parquet file. `box`: top, left, height, width of what was taken, in pixels of the upright source picture.
"""
