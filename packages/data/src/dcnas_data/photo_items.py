"""The pictures of a source before they are read, and what users call the parts of a set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dcnas_data.photo_files import Box
from dcnas_schema.photos import PhotoSplit

PART_NAMES: dict[str, PhotoSplit] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""What users call the parts of a set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoItem:
    """One picture of a source, not read yet."""

    name: str
    label: int
    read: Callable[[], bytes]
    """Gives the encoded picture; raises `RefusedError` where it cannot be read."""
    box: Box | None = None
    """Where in its photograph the picture was cut, if it was: top, left, height, width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSource:
    """The pictures of each split, in a fixed order; no picture stands in two splits."""

    classes: tuple[str, ...]
    splits: Mapping[PhotoSplit, Sequence[PhotoItem]]
