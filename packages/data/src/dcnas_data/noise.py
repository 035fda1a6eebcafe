"""Additive white Gaussian noise, in units of the [0, 1] pixel range."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dcnas_data.share import Rows, all_rows


def add_training_noise(
    clean: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator,
    clip: bool,
    memory_format: torch.memory_format,
    rows: Rows | None = None,
) -> Tensor:
    """
    Return noisy images: each of the batch gets one of `sigmas`, drawn uniformly, and its own noise in each of three channels.

    Everything happens on the device of `clean` with `generator`, which lives there too. The noise is drawn contiguously, whatever the net
    wants: a CPU draws into other memory formats at an eighth of the speed.

    Args:
        clean: batch x 1 x height x width, in [0, 1].

        sigmas: The noise levels.

        clip: Clamp the result to [0, 1].

        memory_format: Of the result.

        rows: Which images of a batch that several processes share these are: what is drawn is drawn for all of it.
    """
    rows = rows or all_rows(len(clean))
    _, _, height, width = clean.shape
    level = torch.randint(len(sigmas), (rows.whole,), generator=generator, device=clean.device)
    noise = torch.empty((rows.whole, 3, height, width), device=clean.device).normal_(generator=generator)
    noisy = rows.of(noise).mul_(sigmas[rows.of(level)].view(-1, 1, 1, 1)).add_(clean)
    return (noisy.clamp_(0, 1) if clip else noisy).contiguous(memory_format=memory_format)


def add_uniform_noise(
    clean: Tensor, highest: float, *, generator: torch.Generator, clip: bool, rows: Rows | None = None
) -> tuple[Tensor, Tensor]:
    """
    Return noisy photographs and the sigma of each: uniform on [0, `highest`], continuous (paper, Sec. 4: [0, 1]).

    Noise is added before any mean and standard deviation are taken off. Everything happens on the device of `clean` with `generator`, which
    lives there too, and contiguously, as in `add_training_noise`.

    Args:
        clean: batch x 3 x height x width, in [0, 1].

        clip: Clamp the result to [0, 1].

        rows: As for `add_training_noise`.
    """
    rows = rows or all_rows(len(clean))
    sigma = torch.rand((rows.whole, 1, 1, 1), generator=generator, device=clean.device).mul_(highest)
    noise = torch.empty((rows.whole, *clean.shape[1:]), device=clean.device).normal_(generator=generator)
    sigma, noise = rows.of(sigma), rows.of(noise)
    noisy = noise.mul_(sigma).add_(clean)
    return (noisy.clamp_(0, 1) if clip else noisy), sigma.flatten()


def evaluation_noise(shape: tuple[int, int, int], *, seed: int, images: Sequence[int], level: int) -> Tensor:
    """
    Return standard normal noise, len(images) x `shape`, float32, on the CPU.

    The noise of an image depends on (`seed`, image number, `level`) alone: not on the batch, its order, or the device. A counter-based
    generator (Philox) is keyed by the three.

    Args:
        shape: Channels, height, width.

        images: Numbers of the images within their split.

        level: Number of the noise level.
    """
    noise = np.empty((len(images), *shape), np.float32)
    for row, image in zip(noise, images, strict=True):
        key = np.random.SeedSequence([seed, level, image]).generate_state(2, np.uint64)
        np.random.Generator(np.random.Philox(key=key)).standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(noise)
