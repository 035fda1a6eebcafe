"""The demo set: real photographs, one class each, whose splits share no pixel."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dcnas_data import photo_demo
from dcnas_data.photo_demo import PHOTOGRAPHS, Photograph, demo_source, load_photograph
from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_schema.photo_params import PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS

MOST = {"train": 30, "validation": 10, "test": 10}


def test_there_are_at_least_twelve_real_photographs() -> None:
    """Each class is one photograph of its own, large enough, in sorted order; all of them come with the installed packages."""
    assert len({photograph.path for photograph in PHOTOGRAPHS}) == len(PHOTOGRAPHS) >= 12
    assert [photograph.name for photograph in PHOTOGRAPHS] == sorted(photograph.name for photograph in PHOTOGRAPHS)
    for photograph in PHOTOGRAPHS:
        image = load_photograph(photograph)
        assert image.mode == "RGB"
        assert min(image.size) >= 300
        assert np.unique(np.asarray(image.convert("L"))).size > 100, "a drawing has few gray values"


@pytest.mark.parametrize("size", [8, 32, 64, 224])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_pixel_stands_in_two_splits(photos_params: Callable[..., PhotosParams], size: int, seed: int) -> None:
    """Pixel by pixel: what the boxes of one split cover, those of the others do not; nor do they share a block of a JPEG."""
    source = demo_source(photos_params(most=MOST, size=size, seed=seed))
    for label, photograph in enumerate(PHOTOGRAPHS):
        image = load_photograph(photograph)
        covered = {split: np.zeros((image.height, image.width), bool) for split in PHOTO_SPLITS}
        for split in PHOTO_SPLITS:
            boxes = [item.box for item in source.splits[split] if item.label == label]
            assert len(boxes) == MOST[split]
            for box in boxes:
                assert box is not None
                top, left, height, width = box
                assert 0 <= top < top + height <= image.height
                assert 0 <= left < left + width <= image.width
                covered[split][top : top + height, left : left + width] = True
        assert not (covered["train"] & covered["validation"]).any()
        assert not (covered["train"] & covered["test"]).any()
        assert not (covered["validation"] & covered["test"]).any()
        if photograph.path.endswith(".jpg"):
            blocks = [whole_blocks(covered[split]) for split in PHOTO_SPLITS]
            assert (np.sum(blocks, axis=0) <= 1).all()


def whole_blocks(covered: np.ndarray) -> np.ndarray:
    """Return which blocks of 16x16 pixels are touched."""
    padded = np.pad(covered, [(0, -extent % 16) for extent in covered.shape])
    rows, columns = (extent // 16 for extent in padded.shape)
    touched: np.ndarray = padded.reshape(rows, 16, columns, 16).any((1, 3))
    return touched


def test_a_crop_shows_what_its_box_says(photos_params: Callable[..., PhotosParams]) -> None:
    """The picture is the part of the photograph in the box, square, scaled by no pixel from outside it."""
    source = demo_source(photos_params(most={"train": 3, "validation": 1, "test": 1}, size=64))
    for item in source.splits["train"]:
        assert item.box is not None
        top, left, height, width = item.box
        photograph = load_photograph(PHOTOGRAPHS[item.label])
        part = photograph.crop((left, top, left + width, top + height)).resize((64, 64), Image.Resampling.BICUBIC)
        with Image.open(io.BytesIO(item.read())) as crop:
            assert np.array_equal(np.asarray(crop), np.asarray(part))
        assert height == width >= 64


def test_crops_are_never_enlarged_where_there_is_room(photos_params: Callable[..., PhotosParams]) -> None:
    """At 64 pixels every region holds a crop of that size; at 224 the smallest photographs give smaller ones."""
    for size, least in ((32, 32), (64, 64), (224, 90)):
        source = demo_source(photos_params(most=MOST, size=size))
        sides = [item.box[2] for split in PHOTO_SPLITS for item in source.splits[split] if item.box]
        assert least <= min(sides) < max(sides)


def test_another_seed_gives_other_regions(photos_params: Callable[..., PhotosParams]) -> None:
    """The seed decides which region tests; fewer classes are the first ones and leave the rest as it is."""
    boxes = [
        [item.box for item in demo_source(photos_params(most=MOST, **change)).splits["test"]]
        for change in ({}, {"seed": 1}, {"most_classes": 3})
    ]
    assert boxes[0] != boxes[1]
    assert boxes[2] == boxes[0][: len(boxes[2])]
    assert len(boxes[2]) == 3 * MOST["test"]


def test_a_missing_photograph_is_named(
    monkeypatch: pytest.MonkeyPatch, photos_params: Callable[..., PhotosParams]
) -> None:
    """A scikit-image without the file is an unfit environment, with the remedy; nothing is fetched."""
    lacking = (Photograph(name="absent", package="skimage", path="data/absent.png"), *PHOTOGRAPHS[1:])
    monkeypatch.setattr(photo_demo, "PHOTOGRAPHS", lacking)
    with pytest.raises(UnfitEnvironmentError, match=r"absent\.png is not in the installed scikit-image"):
        demo_source(photos_params(most=MOST))
