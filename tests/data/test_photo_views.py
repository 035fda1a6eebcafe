"""What a net sees: torchvision's operations to rounding, torchvision's distributions, for whole batches of pictures of any size."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from dcnas_data.photo_views import (
    JITTERS,
    CentreView,
    RandomView,
    RawPhotos,
    crop_and_resize,
    draw_crops,
    draw_jitter,
    jitter_,
)
from dcnas_schema.photo_params import JitterParams, PhotoViewParams

EXACT = 1e-5
"""Largest difference from torchvision on float pixels in [0, 1]: 1/400 of a gray level, from filter centres rounded to float32."""
DRAWS = 4000
LEAST_P = 1e-4
"""A distribution differs where the test's p is below this; the seeds are fixed, so it always or never does."""


@pytest.fixture
def view_params() -> Callable[..., PhotoViewParams]:
    """A function that gives TF-NAS's settings at 24 pixels, with changes."""

    def make(**changes: Any) -> PhotoViewParams:
        jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}
        values = {
            "size": 24,
            "scale": (0.08, 1.0),
            "ratio": (3 / 4, 4 / 3),
            "flip": 0.5,
            "jitter": jitter,
            "centre_share": 0.875,
            "memory_mb": 100,
        }
        return PhotoViewParams.model_validate({**values, **changes})

    return make


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def raw(shapes: list[tuple[int, int]], seed: int = 0) -> RawPhotos:
    """Return random pictures of these sizes, padded with a value that must never show."""
    height, width = (max(extent) for extent in zip(*shapes, strict=True))
    pixels = torch.full((len(shapes), 3, height, width), 255, dtype=torch.uint8)
    for row, (h, w) in zip(pixels, shapes, strict=True):
        row[:, :h, :w] = torch.randint(0, 200, (3, h, w), generator=generator(seed + h * w), dtype=torch.uint8)
    return RawPhotos(pixels=pixels, sizes=torch.tensor(shapes).float())


def own(photos: RawPhotos, number: int) -> Tensor:
    """Return one picture without padding, in [0, 1]."""
    height, width = photos.sizes[number].int().tolist()
    return photos.pixels[number, :, :height, :width].float() / 255


SHAPES = [(32, 32), (32, 45), (50, 32), (96, 32), (33, 37)]


def test_a_crop_is_torchvisions_resized_crop() -> None:
    """Given boxes, up- and down-scaled, at edges and in corners: the same as `resized_crop` with antialiasing, and its mirror image."""
    photos = raw([(40, 56)] * 7)
    boxes = [
        (0, 0, 40, 56),
        (3, 5, 30, 11),
        (0, 45, 9, 11),
        (31, 0, 9, 40),
        (10, 10, 1, 1),
        (4, 4, 24, 24),
        (0, 0, 24, 48),
    ]
    flip = torch.tensor([i % 2 == 1 for i in range(7)])
    found = crop_and_resize(photos.pixels, torch.tensor(boxes).float(), flip, size=24)
    for number, (top, left, height, width) in enumerate(boxes):
        image = own(photos, number)
        expected = reference.resized_crop(image, top, left, height, width, [24, 24], antialias=True)
        if flip[number]:
            expected = reference.horizontal_flip(expected)
        assert (found[number] - expected).abs().max() < EXACT


@pytest.mark.parametrize(("size", "share"), [(24, 0.875), (24, 1.0), (20, 0.5), (64, 0.875)])
def test_the_centre_is_torchvisions_resize_and_centre_crop(
    view_params: Callable[..., PhotoViewParams], size: int, share: float
) -> None:
    """Wide, tall and square pictures: short side to size / share, then the centre, with torchvision's roundings."""
    photos = raw(SHAPES)
    found = CentreView(view_params(size=size, centre_share=share))(photos)
    assert found.shape == (len(SHAPES), 3, size, size)
    for number in range(len(SHAPES)):
        resized = reference.resize(own(photos, number), [round(size / share)], antialias=True)
        assert (found[number] - reference.center_crop(resized, [size, size])).abs().max() < EXACT


def test_a_centre_of_the_stored_size_is_the_picture_itself(view_params: Callable[..., PhotoViewParams]) -> None:
    """Where nothing is to be scaled, the pixels stay as they are."""
    photos = raw([(24, 24)] * 3)
    found = CentreView(view_params(size=24, centre_share=1.0))(photos)
    assert torch.equal((found * 255).round().byte(), photos.pixels)


def boxes_of_torchvision(height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """Return many of torchvision's own random crops, drawn from its global generator, which is put back."""
    image = torch.empty((3, height, width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    return torch.tensor(drawn)


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(64, 64, (0.08, 1.0)), (40, 100, (0.08, 1.0)), (100, 40, (0.5, 1.0))]
)
def test_crops_have_torchvisions_distribution(height: int, width: int, scale: tuple[float, float]) -> None:
    """Top, left, height, width, area and aspect pass a Kolmogorov-Smirnov test against torchvision's own draws, fallbacks included."""
    sizes = torch.tensor([[height, width]]).float().expand(DRAWS, 2)
    ours = draw_crops(sizes, scale=scale, ratio=(3 / 4, 4 / 3), generator=generator())
    theirs = boxes_of_torchvision(height, width, scale).float()
    assert torch.equal(ours, ours.round())
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= sizes).all()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy(), method="asymp").pvalue > LEAST_P
    for both in (
        (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),
        (ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]),
    ):
        assert stats.ks_2samp(both[0].numpy(), both[1].numpy(), method="asymp").pvalue > LEAST_P


def test_where_nothing_fits_the_largest_centre_is_taken() -> None:
    """A strip admits no crop of its whole area: as torchvision, the centre within the range of aspects."""
    sizes = torch.tensor([[10.0, 100.0], [100.0, 10.0], [10.0, 10.0]])
    boxes = draw_crops(sizes, scale=(1.0, 1.0), ratio=(3 / 4, 4 / 3), generator=generator())
    assert boxes[0].tolist() == [0, 43, 10, 13]
    assert boxes[1].tolist() == [43, 0, 13, 10]
    for number, (height, width) in enumerate(((10, 100), (100, 10))):
        image = torch.empty((3, height, width))
        assert boxes[number].tolist() == list(RandomResizedCrop.get_params(image, [1.0, 1.0], [3 / 4, 4 / 3]))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("brightness", reference.adjust_brightness),
        ("contrast", reference.adjust_contrast),
        ("saturation", reference.adjust_saturation),
        ("hue", reference.adjust_hue),
    ],
)
def test_a_jitter_is_torchvisions(name: str, change: Callable[..., Tensor]) -> None:
    """Each picture by its own factor, from none to strong; grays, black, white and pure colours among the pixels."""
    values = [-0.5, -0.2, 0.0, 0.07, 0.5] if name == "hue" else [0.0, 0.6, 1.0, 1.3, 2.0]
    image = torch.rand((5, 3, 20, 20), generator=generator())
    image[:, :, 0, :8] = torch.tensor(
        [[0, 1, 0.5, 1, 0, 0, 1, 0.2], [0, 1, 0.5, 0, 1, 0, 1, 0.8], [0, 1, 0.5, 0, 0, 1, 0, 0.8]]
    )
    found = jitter_(image.clone(), {name: torch.tensor(values).view(-1, 1, 1, 1)}, [name])
    for number, value in enumerate(values):
        expected = change(image[number], value)
        assert (found[number] - expected).abs().max() < 1e-5


def test_jitters_follow_one_another() -> None:
    """In the given order, each on what the one before left: as torchvision's, one after the other."""
    image = torch.rand((2, 3, 8, 8), generator=generator())
    factors = {name: torch.full((2, 1, 1, 1), value) for name, value in zip(JITTERS, (1.4, 0.6, 1.3, 0.1), strict=True)}
    changes = {name: getattr(reference, f"adjust_{name}") for name in JITTERS}
    for order in (list(JITTERS), list(JITTERS)[::-1]):
        expected = image
        for name in order:
            expected = changes[name](expected, float(factors[name][0]))
        assert (jitter_(image.clone(), factors, order) - expected).abs().max() < 1e-5


def test_factors_are_uniform_and_of_their_own() -> None:
    """Factors lie on [1 - x, 1 + x], the hue's on [-x, x], evenly, and no two jitters share theirs."""
    params = JitterParams(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    factors = draw_jitter(DRAWS, params, generator())
    for name, low, reach in (
        ("brightness", 0.6, 0.8),
        ("contrast", 0.7, 0.6),
        ("saturation", 0.8, 0.4),
        ("hue", -0.1, 0.2),
    ):
        assert factors[name].shape == (DRAWS, 1, 1, 1)
        assert stats.kstest(factors[name].flatten().numpy(), "uniform", (low, reach)).pvalue > LEAST_P
    table = np.corrcoef([factors[name].flatten().numpy() for name in JITTERS])
    assert np.abs(table - np.eye(4)).max() < 0.06


def test_a_random_view_is_crop_flip_and_jitter_of_each_picture(view_params: Callable[..., PhotoViewParams]) -> None:
    """The whole view equals torchvision's functions with the same draws, picture by picture, whatever the padding holds."""
    params, photos = view_params(), raw(SHAPES)
    found = RandomView(params, draws=generator(3), order=generator(4))(photos)
    draws = generator(3)
    boxes = draw_crops(photos.sizes, scale=params.scale, ratio=params.ratio, generator=draws)
    flip = torch.rand(len(SHAPES), generator=draws) < 0.5
    factors = draw_jitter(len(SHAPES), params.jitter, draws)
    order = [JITTERS[i] for i in torch.randperm(4, generator=generator(4)).tolist()]
    for number in range(len(SHAPES)):
        box = boxes[number].int().tolist()
        image = reference.resized_crop(own(photos, number), *box, [24, 24], antialias=True).clamp(0, 1)
        image = reference.horizontal_flip(image) if flip[number] else image
        for name in order:
            image = getattr(reference, f"adjust_{name}")(image, float(factors[name][number]))
        assert (found[number] - image).abs().max() < 1e-5


def test_a_random_view_follows_its_generators(view_params: Callable[..., PhotoViewParams]) -> None:
    """The same states give the same view, a second call another one; padding never matters; half of them are mirrored."""
    photos = raw(SHAPES)
    padded = RawPhotos(pixels=torch.nn.functional.pad(photos.pixels, (0, 9, 0, 5), value=77), sizes=photos.sizes)
    views = [RandomView(view_params(), draws=generator(), order=generator()) for _ in range(2)]
    first, wider = views[0](photos), views[1](padded)
    assert torch.allclose(first, wider, atol=1e-6, rtol=0)
    assert not torch.allclose(first, views[0](photos), atol=0.01)
    assert first.is_contiguous()
    assert 0 <= first.min() < first.max() <= 1
    plain = view_params(scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=dict.fromkeys(JITTERS, 0.0))
    ramp = torch.arange(24, dtype=torch.uint8).expand(400, 3, 24, 24).contiguous()
    whole = RawPhotos(pixels=ramp, sizes=torch.full((400, 2), 24.0))
    seen = RandomView(plain, draws=generator(), order=generator())(whole)
    mirrored = seen[:, 0, 0, 0] > seen[:, 0, 0, -1]
    assert 160 < int(mirrored.sum()) < 240
    assert torch.allclose(seen[~mirrored] * 255, ramp[~mirrored].float(), atol=1e-3)
