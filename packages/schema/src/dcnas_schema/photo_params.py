"""Parameters of photographs: which pictures make the splits, and how a net sees them in training and in testing."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dcnas_schema.digit_params import SplitCounts
from dcnas_schema.photos import SourceName
from dcnas_schema.section import Count, Fraction, Section, Seed

DEMO_CLASSES = 16
"""Photographs of the demo set, one class each."""
Side = Annotated[int, Field(ge=8, le=4096)]


class ParquetColumns(Section):
    """Columns of the user's own Parquet files."""

    image: str
    """Encoded images: binary, or a struct with the field `bytes`."""
    label: str
    """Integers or strings; a class's number is the rank of its label."""
    split: str | None
    """Strings train, validation (or val, valid) and test; `null` where the files have no parts."""
    name: str | None
    """Names of the images; `null` where they have none."""


class PhotosParams(Section):
    """The photo set (paper, Sec. 4: ImageNet-100). Nothing is ever downloaded."""

    source: SourceName
    """
    `demo`: crops of the photographs that scikit-image and scikit-learn carry, one class a photograph.

    `image_folder`: `root` holds one folder a class; or parts `train`, `validation` (or `val`) and `test`, each with one folder a class.

    `imagenet100`: `root` holds ImageNet's `train` and `val`, each with one folder a synset; 100 of the synsets are taken.

    `parquet`: `files` hold encoded images with labels.
    """
    root: str | None
    """Folder of `image_folder` and `imagenet100`."""
    files: tuple[str, ...]
    """Files of `parquet`."""
    columns: ParquetColumns | None
    """Columns of `parquet`."""
    train_list: str | None
    """The published list of `imagenet100`, lines `synset/file.JPEG label`; with `null` the split is our own, seeded."""
    validation_list: str | None
    size: Side
    """Short side of the stored pictures in pixels; of a crop of `demo`, both sides. A net's input may be smaller."""
    encoding: Literal["png", "jpeg"]
    """Of pictures that do not stay as they are: PNG loses nothing, JPEG of quality 95 takes a fifth."""
    validation_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    """Share of each class's training pictures that become `validation` (TF-NAS: 0.2), unless the source has both other parts."""
    test_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
    """Share of each class's pictures that become `test`, where the source has no part to test on."""
    most: SplitCounts | None
    """Most pictures of a class in each split; for `demo`, which needs it, how many crops. `null`: all."""
    most_classes: Annotated[int, Field(ge=2, le=100_000)] | None
    """Only the first classes, in sorted order; `null`: all."""
    seed: Seed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needs = {
            "image_folder": ("root",),
            "imagenet100": ("root",),
            "parquet": ("files", "columns"),
            "demo": ("most",),
        }
        for key in needs[self.source]:
            if not getattr(self, key):
                raise ValueError(f"{key} is empty: source {self.source} needs it")
        if (self.train_list is None) != (self.validation_list is None):
            raise ValueError("train_list and validation_list: give both or neither")
        if self.train_list is not None and self.source != "imagenet100":
            raise ValueError(f"train_list belongs to source imagenet100, not {self.source}")
        if self.source == "demo" and self.most_classes is not None and self.most_classes > DEMO_CLASSES:
            raise ValueError(f"most_classes is {self.most_classes}: the demo set has {DEMO_CLASSES} photographs")
        return self


class JitterParams(Section):
    """Colour jitter: the factor of each is uniform on [1 - x, 1 + x], the shift of the hue on [-x, x] of a turn; 0 leaves it out."""

    brightness: Fraction
    contrast: Fraction
    saturation: Fraction
    hue: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)]


class PhotoViewParams(Section):
    """How a net sees the pictures (TF-NAS: 224, random resized crop, flip, jitter 0.4/0.4/0.4/0.2; test: resize 256, centre crop 224)."""

    size: Side
    """Height and width of a net's input in pixels."""
    scale: tuple[Fraction, Fraction]
    """Range of the area of a random crop, as a share of the picture's (torchvision: 0.08 to 1)."""
    ratio: tuple[Annotated[float, Field(gt=0, le=100)], Annotated[float, Field(gt=0, le=100)]]
    """Range of width over height of a random crop, uniform in its logarithm (torchvision: 3/4 to 4/3)."""
    flip: Fraction
    """Probability of a horizontal flip."""
    jitter: JitterParams
    centre_share: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
    """In testing: side of the centre crop over the resized picture's short side (TF-NAS: 224/256)."""
    memory_mb: Count
    """Most memory for decoded pictures on the device; beyond it they are decoded by threads, ahead of time."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for key, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                raise ValueError(f"{key} is not a range above 0: {[low, high]}")
        return self
