"""The demo set: crops of the real photographs that scikit-image and scikit-learn carry, one class a photograph."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import pairwise

import numpy as np
from PIL import Image

from dcnas_data.photo_files import Box, encode
from dcnas_data.photo_items import PhotoItem, PhotoSource
from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_schema.photo_params import DEMO_CLASSES, PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS, PhotoSplit

_JPEG_BLOCK = 16
"""Lines between regions lie on multiples of this: JPEG's colour blocks, else two regions would share what a block's coefficients say."""
_PITCH = 1.5
"""Side of a region over that of a stored crop, about."""
_LEAST_ROWS = 3
_LEAST_PITCH = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """A photograph in an installed package."""

    name: str
    package: str
    path: str
    field: Box | None = None
    """The part that shows something; `None`: all."""


_SKIMAGE = (
    ("astronaut", "astronaut.png"),
    ("brick", "brick.png"),
    ("camera", "camera.png"),
    ("chelsea", "chelsea.png"),
    ("coffee", "coffee.png"),
    ("coins", "coins.png"),
    ("grass", "grass.png"),
    ("gravel", "gravel.png"),
    ("hubble", "hubble_deep_field.jpg"),
    ("ihc", "ihc.png"),
    ("moon", "moon.png"),
    ("motorcycle", "motorcycle_left.png"),
    ("rocket", "rocket.jpg"),
)
PHOTOGRAPHS = tuple(
    sorted(
        [
            *(Photograph(name=name, package="skimage", path=f"data/{file}") for name, file in _SKIMAGE),
            Photograph(name="retina", package="skimage", path="data/retina.jpg", field=(256, 256, 896, 896)),
            Photograph(name="china", package="sklearn", path="datasets/images/china.jpg"),
            Photograph(name="flower", package="sklearn", path="datasets/images/flower.jpg"),
        ],
        key=lambda photograph: photograph.name,
    )
)
"""Photographs of free licence alone, each at least 300 pixels high; drawings, scans of text and near-empty pictures are left out."""
assert len(PHOTOGRAPHS) == DEMO_CLASSES


def demo_source(params: PhotosParams) -> PhotoSource:
    """
    Return the crops of every split.

    Each photograph is laid out in regions of about 1.5 times the stored side, at least three rows and columns. Every region belongs to one
    split, and every crop lies inside one region, so that no two splits share a pixel. A crop is as large as stored or larger, up to its
    whole region, and is enlarged only where a region is smaller than the stored side.

    Raises:
        UnfitEnvironmentError: A photograph is not installed.
    """
    assert params.most is not None, "checked with the parameters"
    photographs = PHOTOGRAPHS[: params.most_classes]
    splits: dict[PhotoSplit, list[PhotoItem]] = {split: [] for split in PHOTO_SPLITS}
    for label, photograph in enumerate(photographs):
        image = load_photograph(photograph)
        generator = np.random.Generator(np.random.PCG64([params.seed, label]))
        regions = _shared_out(_regions(image, photograph.field, params.size), params, generator)
        for split in PHOTO_SPLITS:
            for number in range(getattr(params.most, split)):
                box = _draw_box(regions[split][number % len(regions[split])], params.size, generator)
                item = PhotoItem(
                    name=f"{photograph.package}/{photograph.path}",
                    label=label,
                    read=partial(_crop, image, box, params.size),
                    box=box,
                )
                splits[split].append(item)
    return PhotoSource(classes=tuple(photograph.name for photograph in photographs), splits=splits)


def load_photograph(photograph: Photograph) -> Image.Image:
    """
    Return a photograph in RGB, from the installed package's own files: nothing is fetched.

    Raises:
        UnfitEnvironmentError: The file is not there.
    """
    try:
        content = files(photograph.package).joinpath(photograph.path).read_bytes()
    except (ModuleNotFoundError, OSError) as error:
        distribution = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[photograph.package]
        raise UnfitEnvironmentError(
            f"the demo photograph {photograph.path} is not in the installed {distribution}.",
            remedy=f"install {distribution} from its wheel (make setup), or take another generate_data.photos.source",
        ) from error
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as image:
        return image.convert("RGB")


def _regions(image: Image.Image, field: Box | None, size: int) -> list[Box]:
    top, left, height, width = field or (0, 0, image.height, image.width)
    rows, columns = (_lines(start, extent, size) for start, extent in ((top, height), (left, width)))
    return [
        (upper, begin, lower - upper, end - begin)
        for upper, lower in pairwise(rows)
        for begin, end in pairwise(columns)
    ]


def _lines(start: int, extent: int, size: int) -> list[int]:
    count = max(_LEAST_ROWS, round(extent / max(_PITCH * size, _LEAST_PITCH)))
    inner = [start + _JPEG_BLOCK * round(i * extent / count / _JPEG_BLOCK) for i in range(1, count)]
    return [start, *inner, start + extent]


def _shared_out(
    regions: Sequence[Box], params: PhotosParams, generator: np.random.Generator
) -> dict[PhotoSplit, list[Box]]:
    """Give every region to one split, by the shares of the parameters; at least one to each."""
    order = [regions[i] for i in generator.permutation(len(regions))]
    test = max(1, round(params.test_share * len(order)))
    validation = max(1, round(params.validation_share * (len(order) - test)))
    test, validation = min(test, len(order) - 2), min(validation, len(order) - 2)
    validation = min(validation, len(order) - test - 1)
    return {
        "test": order[:test],
        "validation": order[test : test + validation],
        "train": order[test + validation :],
    }


def _draw_box(region: Box, size: int, generator: np.random.Generator) -> Box:
    top, left, height, width = region
    most = min(height, width)
    side = int(generator.integers(min(size, most), most + 1))
    return (
        top + int(generator.integers(height - side + 1)),
        left + int(generator.integers(width - side + 1)),
        side,
        side,
    )


def _crop(image: Image.Image, box: Box, size: int) -> bytes:
    top, left, height, width = box
    crop = image.crop((left, top, left + width, top + height))  # cut first: the filter reaches no pixel outside
    return encode(crop if width == size else crop.resize((size, size), Image.Resampling.BICUBIC), "png")
