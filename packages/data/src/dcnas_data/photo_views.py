"""How a net sees photographs: random crop, flip and colour jitter in training, centre crop in testing; whole batches, on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dcnas_data.share import Rows
from dcnas_schema.photo_params import JitterParams, PhotoViewParams

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green, blue in [0, 1]: the customary figures of ImageNet's training images."""
JITTERS = ("brightness", "contrast", "saturation", "hue")
_ATTEMPTS = 10
_GRAY = (0.2989, 0.587, 0.114)
"""Share of red, green and blue in gray: torchvision's figures."""
_LEAST_CHROMA = 1e-12
"""Instead of a gray pixel's 0, which gives no hue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RawPhotos:
    """Stored pictures on the device."""

    pixels: Tensor
    """batch x 3 x height x width, uint8; beyond a picture's own size there is padding."""
    sizes: Tensor
    """batch x (height, width) of each picture, float32; of all pictures of a batch that several processes share."""
    rows: Rows | None = None
    """Which pictures of such a batch `pixels` holds; `None`: all."""

    def own(self, values: Tensor) -> Tensor:
        """Return of values for each picture of the batch those of the pictures here."""
        return values if self.rows is None else self.rows.of(values)


class View(Protocol):
    """What makes a net's input of stored pictures."""

    def __call__(self, raw: RawPhotos) -> Tensor:
        """Return batch x 3 x size x size, float32 in [0, 1], contiguous."""


class CentreView:
    """Resize so that the short side is size / centre_share, and crop the centre: what torchvision's Resize and CenterCrop give."""

    def __init__(self, params: PhotoViewParams) -> None:
        self._size, self._short = params.size, round(params.size / params.centre_share)

    def __call__(self, raw: RawPhotos) -> Tensor:
        """Return the centres; no random draw."""
        sizes = raw.own(raw.sizes)
        short = sizes.amin(1, keepdim=True)
        resized = torch.floor(sizes * self._short / short)
        scale = sizes / resized
        first = torch.round((resized - self._size) / 2) * scale
        return resample(raw.pixels, first=first, scale=scale, low=torch.zeros_like(first), high=sizes, size=self._size)


class RandomView:
    """
    A random resized crop, flipped at random, its colours jittered: the distributions of torchvision's RandomResizedCrop and ColorJitter.

    Every picture has its own crop, flip and factors. The four jitters come in one random order for the whole batch; torchvision draws
    it for each picture, which would take the batch apart.

    Args:
        draws: Lives on the device of the pictures.

        order: Lives on the CPU, so that the order of the jitters is known without waiting for a GPU.
    """

    def __init__(self, params: PhotoViewParams, *, draws: torch.Generator, order: torch.Generator) -> None:
        self._params, self._draws, self._order = params, draws, order

    def __call__(self, raw: RawPhotos) -> Tensor:
        """Return one random view of each picture."""
        params = self._params
        boxes = draw_crops(raw.sizes, scale=params.scale, ratio=params.ratio, generator=self._draws)
        flip = torch.rand(len(boxes), generator=self._draws, device=boxes.device) < params.flip
        image = crop_and_resize(raw.pixels, raw.own(boxes), raw.own(flip), size=params.size)
        factors = {
            name: raw.own(factor) for name, factor in draw_jitter(len(boxes), params.jitter, self._draws).items()
        }
        names = [JITTERS[i] for i in torch.randperm(len(JITTERS), generator=self._order).tolist()]
        return jitter_(image, factors, [name for name in names if getattr(params.jitter, name) > 0])


def draw_crops(
    sizes: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """
    Return a random crop of each picture, batch x (top, left, height, width), whole numbers as float32.

    The area is a uniform share of the picture's, the aspect log-uniform; of ten attempts the first that fits inside is taken, and
    where none does, the largest centre crop within the range of aspects, as torchvision's RandomResizedCrop has it.

    Args:
        sizes: batch x (height, width).

        generator: Lives on the device of `sizes`.
    """
    height, width = sizes.unsqueeze(-1).unbind(1)
    uniform = torch.rand((4, len(sizes), _ATTEMPTS), generator=generator, device=sizes.device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * uniform[1])
    tried = torch.stack([torch.sqrt(area / aspect), torch.sqrt(area * aspect)], -1).round()
    fits = ((tried > 0) & (tried <= sizes.unsqueeze(1))).all(-1)
    first = fits.int().argmax(1)  # of equal values, the first
    chosen = tried[torch.arange(len(sizes), device=sizes.device), first]
    room = sizes - chosen
    corner = torch.minimum(torch.floor(uniform[2:, :, 0].T * (room + 1)), room)
    central = _largest_central(sizes, ratio)
    fallback = torch.cat([torch.floor((sizes - central) / 2), central], 1)
    return torch.where(fits.any(1, keepdim=True), torch.cat([corner, chosen], 1), fallback)


def crop_and_resize(pixels: Tensor, boxes: Tensor, flip: Tensor, *, size: int) -> Tensor:
    """
    Return the boxes scaled to `size` x `size`, in [0, 1]: bilinear with antialiasing, no pixel from outside a box.

    Args:
        pixels: batch x 3 x height x width, uint8.

        boxes: batch x (top, left, height, width).

        flip: batch, boolean: mirror these pictures.
    """
    first, extent = boxes[:, :2], boxes[:, 2:]
    return resample(
        pixels, first=first, scale=extent / size, low=first, high=first + extent, size=size, flip=flip.view(-1, 1, 1)
    )


def resample(
    pixels: Tensor, *, first: Tensor, scale: Tensor, low: Tensor, high: Tensor, size: int, flip: Tensor | None = None
) -> Tensor:
    """
    Return batch x 3 x size x size in [0, 1]: two matrix products a picture, each row of a matrix the triangle filter of one output pixel.

    Of output pixel i the filter's centre is first + scale * (i + 1/2), its reach one output pixel, or one input pixel where that is
    more; only pixels from `low` to `high` count. This is torch's `interpolate(mode="bilinear", antialias=True)` of the part between,
    at any offset.

    Args:
        first: batch x (vertical, horizontal), in pixels; so are `scale`, `low` and `high`.

        flip: batch x 1 x 1, boolean: mirror these pictures.
    """
    batch, channels, height, width = pixels.shape
    down, across = (
        _filters(first[:, d], scale[:, d], low[:, d], high[:, d], extent, size)
        for d, extent in ((0, height), (1, width))
    )
    if flip is not None:
        across = torch.where(flip, across.flip(1), across)
    rows = torch.empty((batch, height, channels * width), device=pixels.device)
    rows.view(batch, height, channels, width).copy_(pixels.transpose(1, 2))
    short = torch.bmm(down / 255, rows).view(batch, size * channels, width)
    small = torch.bmm(short, across.transpose(1, 2)).view(batch, size, channels, size)
    return small.transpose(1, 2).contiguous().clamp_(0, 1)


def _filters(first: Tensor, scale: Tensor, low: Tensor, high: Tensor, extent: int, size: int) -> Tensor:
    """Return batch x size x extent, rows summing to 1."""
    outputs = torch.arange(size, device=first.device) + 0.5
    inputs = torch.arange(extent, device=first.device) + 0.5
    centre = first.view(-1, 1, 1) + scale.view(-1, 1, 1) * outputs.view(1, -1, 1)
    weights = (inputs - centre).abs_().div_(scale.clamp(min=1).view(-1, 1, 1)).neg_().add_(1).clamp_(min=0)
    inside = (inputs > low.view(-1, 1)) & (inputs < high.view(-1, 1))
    weights.mul_(inside.unsqueeze(1))
    return weights.div_(weights.sum(-1, keepdim=True))


def _largest_central(sizes: Tensor, ratio: tuple[float, float]) -> Tensor:
    """Return batch x (height, width): all of a picture, or as much as the range of aspects allows."""
    height, width = sizes.unbind(1)
    tall = torch.minimum(height, torch.round(width / ratio[0]))
    wide = torch.minimum(width, torch.round(height * ratio[1]))
    return torch.stack([tall, wide], 1)


def draw_jitter(batch: int, params: JitterParams, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the factor of brightness, contrast and saturation and the shift of the hue (in turns) of each picture, batch x 1 x 1 x 1."""
    uniform = torch.rand((len(JITTERS), batch, 1, 1, 1), generator=generator, device=generator.device)
    factors = {}
    for name, value in zip(JITTERS, uniform, strict=True):
        reach, middle = getattr(params, name), 0.0 if name == "hue" else 1.0
        factors[name] = middle + reach * (2 * value - 1)
    return factors


def jitter_(image: Tensor, factors: dict[str, Tensor], order: Sequence[str]) -> Tensor:
    """
    Change the colours of a batch in [0, 1] in place, each picture by its own factors, one jitter after the other; return it.

    Each does what torchvision's `adjust_brightness`, `adjust_contrast`, `adjust_saturation` or `adjust_hue` does.
    """
    for name in order:
        factor = factors[name]
        if name == "hue":
            _shift_hue_(image, factor)
        elif name == "brightness":
            image.mul_(factor).clamp_(0, 1)
        else:
            gray = _gray(image)
            other = gray if name == "saturation" else gray.mean((1, 2, 3), keepdim=True)
            image.mul_(factor).add_((1 - factor) * other).clamp_(0, 1)
    return image


def _gray(image: Tensor) -> Tensor:
    red, green, blue = _channels(image)
    gray: Tensor = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return gray


def _shift_hue_(image: Tensor, turns: Tensor) -> None:
    """Turn the hue; value and chroma stay. A channel is the least one and a share of the chroma, which the hue gives."""
    red, green, blue = _channels(image)
    value, least = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    chroma = value - least
    below = torch.where(green == value, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    hue = torch.where(red == value, green - blue, below).div_(chroma.clamp(min=_LEAST_CHROMA))
    hue.add_(turns, alpha=6).remainder_(6)
    shares = (
        (hue - 3).abs_().sub_(1),
        (hue - 2).abs_().neg_().add_(2),
        (hue - 4).abs_().neg_().add_(2),
    )
    for channel, share in zip((red, green, blue), shares, strict=True):
        torch.addcmul(least, chroma, share.clamp_(0, 1), out=channel)


def _channels(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return image[:, 0:1], image[:, 1:2], image[:, 2:3]
