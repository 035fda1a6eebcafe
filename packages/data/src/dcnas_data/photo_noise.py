"""Additive white Gaussian noise on photos, in units of the [0, 1] pixel range, its level from a continuous range."""

import torch
from torch import Tensor


def add_photo_noise(
    clean: Tensor,
    sigma_range: tuple[float, float],
    *,
    generator: torch.Generator,
    clip: bool,
    memory_format: torch.memory_format,
) -> Tensor:
    """
    Return noisy photos: each of the batch gets its own noise and a level drawn uniformly from `sigma_range`.

    Everything happens on the device of `clean` with `generator`, which lives there too.

    Args:
        clean: batch x 3 x height x width, float32 in [0, 1].

        clip: Clamp the result to [0, 1].
    """
    low, high = sigma_range
    sigma = torch.rand((len(clean), 1, 1, 1), generator=generator, device=clean.device).mul_(high - low).add_(low)
    noise = torch.empty(clean.shape, device=clean.device, memory_format=memory_format)
    noise.normal_(generator=generator)
    noisy = noise.mul_(sigma).add_(clean)
    return noisy.clamp_(0, 1) if clip else noisy


def validation_noise(shape: torch.Size, *, sigmas: tuple[float, ...], first: int, generator: torch.Generator) -> Tensor:
    """
    Return noise for a batch of validation photos, whose levels take turns; the same where `generator` comes fresh from one seed.

    Args:
        shape: batch x 3 x height x width.

        sigmas: Photo number i has level i modulo their number.

        first: Number of the batch's first photo.
    """
    device = generator.device
    levels = torch.tensor([sigmas[number % len(sigmas)] for number in range(first, first + shape[0])], device=device)
    return torch.empty(shape, device=device).normal_(generator=generator) * levels.view(-1, 1, 1, 1)
