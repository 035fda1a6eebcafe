"""Noise: white and Gaussian of the level asked for; in testing it belongs to the image, not to the batch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dcnas_data.noise import add_training_noise, add_uniform_noise, evaluation_noise

SIGMAS = (0.0, 0.25, 1.0)


def noisy(
    *, seed: int = 0, batch: int = 256, sigmas: tuple[float, ...] = SIGMAS, clip: bool = False, gray: float = 0.5
) -> Tensor:
    """Return training noise on constant scenes of 24x24."""
    return add_training_noise(
        torch.full((batch, 1, 24, 24), gray),
        torch.tensor(sigmas),
        generator=torch.Generator().manual_seed(seed),
        clip=clip,
        memory_format=torch.contiguous_format,
    )


def test_evaluation_noise_depends_on_seed_image_and_level_alone() -> None:
    """Whatever the batch and its order, an image gets the same noise; another seed, image or level gives another."""
    shape = (3, 9, 11)
    whole = evaluation_noise(shape, seed=7, images=range(6), level=2)
    singly = torch.cat([evaluation_noise(shape, seed=7, images=[i], level=2) for i in range(6)])
    backwards = evaluation_noise(shape, seed=7, images=[5, 4, 3, 2, 1, 0], level=2).flip(0)
    assert torch.equal(whole, singly)
    assert torch.equal(whole, backwards)
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002 # the global state is what must not matter
    assert torch.equal(whole, evaluation_noise(shape, seed=7, images=range(6), level=2))
    others = [
        evaluation_noise(shape, seed=8, images=[0], level=2)[0],
        evaluation_noise(shape, seed=7, images=[0], level=3)[0],
        evaluation_noise(shape, seed=2, images=[0], level=7)[0],
        *whole[1:],
    ]
    assert not any(torch.equal(whole[0], other) for other in others)


def test_no_two_of_seed_image_and_level_share_their_noise() -> None:
    """Over a grid of seeds, images and levels every noise is another: level 1 of image 2 is not level 2 of image 1."""
    grid = [(seed, level) for seed in range(4) for level in range(4)]
    drawn = [evaluation_noise((1, 1, 2), seed=seed, images=range(4), level=level) for seed, level in grid]
    assert len({tuple(noise.flatten().tolist()) for batch in drawn for noise in batch}) == 4 * 4 * 4


def test_evaluation_noise_leaves_the_global_generators_alone() -> None:
    """Drawing it changes neither torch's nor numpy's global state."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluation_noise((3, 8, 8), seed=0, images=range(3), level=1)
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_noise_is_standard_normal() -> None:
    """Over 400,000 draws mean, deviation, kurtosis and correlation of neighbours are white Gaussian noise's, within five sigma."""
    noise = evaluation_noise((3, 60, 60), seed=0, images=range(40), level=4).double()
    n = noise.numel()
    assert noise.mean().abs() < 5 / n**0.5
    assert (noise.std() - 1).abs() < 5 / (2 * n) ** 0.5
    assert ((noise**4).mean() - 3).abs() < 5 * (96 / n) ** 0.5
    for shifted in (noise.roll(1, 3), noise.roll(1, 1), noise.roll(1, 0)):
        assert (noise * shifted).mean().abs() < 5 / n**0.5


def test_training_noise_has_each_level_about_equally_often() -> None:
    """Every image has one of the levels as its deviation, each in a third of 256 images, give or take."""
    deviation = (noisy() - 0.5).flatten(1).std(1)
    nearest = (deviation[:, None] - torch.tensor(SIGMAS)).abs().argmin(1)
    counts = nearest.bincount(minlength=3)
    assert counts.min() > 256 / 3 - 5 * (256 * 2 / 9) ** 0.5
    expected = torch.tensor(SIGMAS)[nearest]
    assert torch.allclose(deviation, expected, rtol=5 / (2 * 3 * 24 * 24) ** 0.5, atol=1e-6)


def test_training_noise_is_centred_and_differs_between_channels() -> None:
    """Its mean is the clean value, and the three channels of the gray scene get noise of their own."""
    noise = noisy(sigmas=(0.5,)) - 0.5
    assert noise.mean().abs() < 5 * 0.5 / noise.numel() ** 0.5
    assert (noise[:, 0] * noise[:, 1]).mean().abs() < 5 * 0.25 / noise[:, 0].numel() ** 0.5
    assert (noise[0] * noise[1]).mean().abs() < 5 * 0.25 / noise[0].numel() ** 0.5


def test_level_zero_is_the_clean_scene() -> None:
    """Where sigma is 0 nothing is added."""
    assert torch.equal(noisy(sigmas=(0.0,)), torch.full((256, 3, 24, 24), 0.5))


def test_training_noise_depends_on_its_generator_alone() -> None:
    """The same generator state gives the same noise whatever the global one; the next draw is another."""
    torch.manual_seed(1)
    first = noisy()
    torch.manual_seed(2)
    assert torch.equal(noisy(), first)
    assert not torch.equal(noisy(seed=1), first)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_training_noise_comes_in_the_memory_format_asked_for(memory_format: torch.memory_format) -> None:
    """The network's input needs no further copy."""
    image = add_training_noise(
        torch.zeros(4, 1, 8, 8),
        torch.tensor([0.5]),
        generator=torch.Generator().manual_seed(0),
        clip=False,
        memory_format=memory_format,
    )
    assert image.is_contiguous(memory_format=memory_format)


def test_clipping_keeps_the_range_and_its_absence_does_not() -> None:
    """With `clip` no value leaves [0, 1], and inside it nothing changes; without, the noise goes beyond on both sides."""
    free, clipped = noisy(), noisy(clip=True)
    assert free.min() < 0
    assert free.max() > 1
    assert torch.equal(clipped, free.clamp(0, 1))


def photographs(**changes: object) -> tuple[Tensor, Tensor]:
    """Return noisy gray photographs of 16x16 and their sigmas."""
    how = {
        "generator": torch.Generator().manual_seed(0),
        "clip": False,
        **changes,
    }
    return add_uniform_noise(torch.full((600, 3, 16, 16), 0.5), 0.8, **how)  # type: ignore[arg-type] # as named


def test_photographs_get_a_level_each_from_a_continuum() -> None:
    """Sigma is uniform on [0, highest], of each picture its own, and the noise has that deviation, in every channel its own."""
    noisy, sigma = photographs()
    assert 0 <= sigma.min() < 0.02
    assert 0.78 < sigma.max() < 0.8
    assert abs(float(sigma.mean()) - 0.4) < 0.03
    assert len(set(sigma.tolist())) > 590
    spread = (noisy - 0.5).flatten(1).std(1)
    assert ((spread / sigma - 1).abs() < 0.15).float().mean() > 0.99
    assert not torch.equal(noisy[:, 0], noisy[:, 1])


def test_noise_on_photographs_follows_its_generator_and_may_be_clipped() -> None:
    """The same state gives the same noise; clipping only cuts what lies outside [0, 1]."""
    first, again = photographs(), photographs()
    assert torch.equal(first[0], again[0])
    clipped, sigma = photographs(clip=True)
    assert torch.equal(sigma, first[1])
    assert torch.equal(clipped, first[0].clamp(0, 1))
