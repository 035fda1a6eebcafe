"""Shared by the tests of photographs: parameters, pictures made by hand, a set written from a folder of them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcnas_data.photo_sources import open_source
from dcnas_data.photos import write_photos
from dcnas_schema.photo_params import ParquetColumns, PhotosParams
from dcnas_schema.photos import PhotosMetadata, PhotoSplit


@pytest.fixture(scope="session")
def photos_params() -> Callable[..., PhotosParams]:
    """A function that gives parameters of a small demo set, with changes."""

    def make(**changes: Any) -> PhotosParams:
        values: dict[str, Any] = {
            "source": "demo",
            "root": None,
            "files": (),
            "columns": None,
            "train_list": None,
            "validation_list": None,
            "size": 32,
            "encoding": "png",
            "validation_share": 0.25,
            "test_share": 0.25,
            "most": None,
            "most_classes": None,
            "seed": 0,
        }
        return PhotosParams.model_validate({**values, **changes})

    return make


@pytest.fixture(scope="session")
def columns() -> ParquetColumns:
    """Columns of a user's Parquet file without parts or names."""
    return ParquetColumns(image="image", label="label", split=None, name=None)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """A function that gives a picture of smooth colours with some noise, different for each seed."""

    def make(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
        generator = np.random.Generator(np.random.PCG64(seed))
        y, x = np.mgrid[0:height, 0:width] / max(width, height)
        waves = [np.sin(4 * (a * x + b * y) + c) for a, b, c in generator.uniform(0, 3, (3, 3))]
        values = 128 + 80 * np.stack(waves, -1) + generator.normal(0, 4, (height, width, 3))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """A function that gives a picture as the bytes of a file."""

    def make(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def folder_of_classes(picture: Callable[..., Image.Image], encoded: Callable[..., bytes]) -> Callable[..., Path]:
    """A function that writes one folder a class with so many pictures each."""

    def write(root: Path, *, first_seed: int = 0, kind: str = "JPEG", **counts: int) -> Path:
        seed = first_seed
        for name, count in counts.items():
            (root / name).mkdir(parents=True)
            for number in range(count):
                content = encoded(picture(width=48 + number % 3, seed=seed), kind)
                (root / name / f"{number:03}.{kind.lower()}").write_bytes(content)
                seed += 1
        return root

    return write


@pytest.fixture(scope="session")
def write_set() -> Callable[..., dict[PhotoSplit, PhotosMetadata]]:
    """A function that makes the three splits in a folder."""

    def write(params: PhotosParams, out: Path, threads: int = 1) -> dict[PhotoSplit, PhotosMetadata]:
        source = open_source(params)
        return write_photos(source, params, out, threads=threads, report=lambda _done, _note: None)

    return write


@pytest.fixture(scope="session")
def demo_set(
    photos_params: Callable[..., PhotosParams],
    write_set: Callable[..., dict[PhotoSplit, PhotosMetadata]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the splits of four photographs, 32 pixels; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("demo")
    most = {"train": 12, "validation": 4, "test": 6}
    write_set(photos_params(most=most, most_classes=4), folder)
    return folder
