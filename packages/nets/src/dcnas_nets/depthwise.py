"""
Depthwise convolution that trains fast on a CPU where oneDNN leaves its vectorised kernels for its reference ones.

It does so where the map is smaller than the kernel: the weights' gradient of 1152 kernels of 5x5 on 2x2 pixels, batch 32, took 35 ms,
thirty times what it costs here. Nets of the search space have such maps in their last two stages from 128 pixels down. And it does so for
the weights' gradient of kernels of more than 3 columns: that of 5x5 took five to ten times as long as that of 5x3, and two of those make it
(measured, torch 2.14, AVX2).
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LARGEST = 8
"""Most rows and columns of output of a small map; beyond, no depthwise kernel of a net is larger than the map."""
_WIDE, _FAST = 5, 3
"""Columns of the kernels whose weights' gradient is made of two, and columns of these."""
_WORTH_TWO = 100_000
"""Fewest numbers in a map for which two calls and a copy are faster than one slow call."""


def depthwise_conv2d(
    x_BCHW: Float[Tensor, "batch ch height width"],
    weight: Float[Tensor, "ch 1 kernel kernel"],
    bias: Float[Tensor, " ch"] | None = None,
    *,
    stride: int,
    padding: int,
) -> Float[Tensor, "batch ch h2 w2"]:
    """Return `F.conv2d` with as many groups as channels; where oneDNN is slow, by other sums of the same products."""
    usual = not _is_small(x_BCHW, weight, stride, padding) and not _is_wide(x_BCHW, weight, padding)
    if usual or not in_full_precision_on_a_cpu(x_BCHW, weight):
        return F.conv2d(x_BCHW, weight, bias, stride=stride, padding=padding, groups=len(weight))
    features = _OtherSums.apply(x_BCHW, weight, stride, padding)
    return cast(Tensor, features if bias is None else features + bias.view(1, -1, 1, 1))


def depthwise_features(
    x_BCHW: Float[Tensor, "batch ch height width"],
    weight: Float[Tensor, "ch 1 kernel kernel"],
    *,
    stride: int,
    padding: int,
) -> Float[Tensor, "batch ch h2 w2"]:
    """Return what `depthwise_conv2d` does, without a graph behind it, for fp32 or fp64 on a CPU."""
    if not _is_small(x_BCHW, weight, stride, padding):
        return F.conv2d(x_BCHW, weight, stride=stride, padding=padding, groups=len(weight))
    met, size, padding_2d = _met(x_BCHW, weight, stride, padding)
    if _is_scaling(x_BCHW, met):
        return x_BCHW * met.view(1, -1, 1, 1)
    features = F.conv2d(x_BCHW, met, stride=stride, padding=padding_2d, groups=len(weight))
    return features[..., : size[0], : size[1]].contiguous(memory_format=torch.channels_last)


def depthwise_gradients(
    gradient_BCHW: Float[Tensor, "batch ch h2 w2"],
    x_BCHW: Float[Tensor, "batch ch height width"],
    weight: Float[Tensor, "ch 1 kernel kernel"],
    *,
    stride: int,
    padding: int,
    of_x: bool,
    of_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """
    Return the gradients of map and kernels, each where it is wanted, for fp32 or fp64 on a CPU.

    Args:
        x_BCHW: Its values are used for the kernels' gradient alone.
    """
    if _is_small(x_BCHW, weight, stride, padding):
        return _small_gradients(gradient_BCHW, x_BCHW, weight, stride, padding, of_x=of_x, of_weight=of_weight)
    wide = of_weight and _is_wide(x_BCHW, weight, padding)
    found = _gradients(gradient_BCHW, x_BCHW, weight, stride, (padding, padding), [of_x, of_weight and not wide, False])
    return found[0], _wide_weight_gradient(gradient_BCHW, x_BCHW, weight, stride, padding) if wide else found[1]


def in_full_precision_on_a_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether the product of both is computed on a CPU in fp32 or fp64."""
    full = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return full and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with a group a channel, its forward pass `depthwise_conv2d`."""

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch ch h2 w2"]:
        """Convolve each channel with its own kernel."""
        return depthwise_conv2d(
            x_BCHW, self.weight, self.bias, stride=self.stride[0], padding=cast("tuple[int, int]", self.padding)[0]
        )

    @staticmethod
    def stands_for(layer: nn.Module) -> bool:
        """Whether `layer` is a depthwise convolution of square kernel, stride and zero padding."""
        if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
        depthwise = layer.groups == layer.in_channels == layer.out_channels > 1 and layer.dilation == (1, 1)
        return depthwise and all(len(set(pair)) == 1 for pair in (layer.kernel_size, layer.stride, layer.padding))


class _OtherSums(torch.autograd.Function):
    """Depthwise convolution by `depthwise_features` and `depthwise_gradients`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return depthwise_features(x, weight, stride=stride, padding=padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad[:2]
        found = depthwise_gradients(
            gradients[0], x, weight, stride=ctx.stride, padding=ctx.padding, of_x=of_x, of_weight=of_weight
        )
        return *found, None, None


def _out(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def _is_small(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    height, width = (_out(size, weight.shape[-1], stride, padding) for size in x.shape[2:])
    return min(height, width) < weight.shape[-1] and max(height, width) <= _LARGEST


def _is_wide(x: Tensor, weight: Tensor, padding: int) -> bool:
    fits = weight.shape[-1] == _WIDE and padding == _WIDE // 2 and x.numel() >= _WORTH_TWO
    return fits and x.is_contiguous(memory_format=torch.channels_last)


def _met(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    """Return the part of the kernels that meets pixels, the size of the output, and the padding that is left."""
    kernel = weight.shape[-1]
    height, width = (_out(size, kernel, stride, padding) for size in x.shape[2:])
    (top, rows), (left, columns) = (
        _taps(before, after, kernel, stride, padding)
        for before, after in zip(x.shape[2:], (height, width), strict=True)
    )
    met = weight[:, :, top : top + rows, left : left + columns]
    return met, (height, width), (padding - top, padding - left)


def _taps(before: int, after: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the first and the number of a kernel's taps, along one axis, that ever meet a pixel and not only padding."""
    first = max(0, padding - (after - 1) * stride)
    last = min(kernel - 1, padding + before - 1)
    return first, last - first + 1


def _is_scaling(x: Tensor, met: Tensor) -> bool:
    return x.shape[2:] == met.shape[2:] == (1, 1)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        gradient.contiguous(memory_format=torch.channels_last),
        x,
        weight,
        None,
        [stride] * 2,
        padding,
        [1, 1],
        False,
        [0, 0],
        len(weight),
        wanted,
    )
    return found


def _small_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, *, of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    met, _, padding_2d = _met(x, weight, stride, padding)
    for_x = for_met = None
    if _is_scaling(x, met):
        for_x = gradient * met.view(1, -1, 1, 1) if of_x else None
        for_met = (gradient * x).sum((0, 2, 3)).view_as(met) if of_weight else None
    else:
        if of_x:
            kernel, pads = met.shape[2:], padding_2d
            whole = [(x.shape[2 + axis] + 2 * pads[axis] - kernel[axis]) // stride + 1 for axis in (0, 1)]
            below, right = (size - own for size, own in zip(whole, gradient.shape[2:], strict=True))
            padded = F.pad(gradient, (0, right, 0, below)) if below or right else gradient
            for_x = _gradients(padded, x, met, stride, padding_2d, [True, False, False])[0]
        if of_weight:
            for_met = _image_by_image(gradient, x, met.shape, stride, padding_2d)
    if for_met is None or for_met.shape == weight.shape:
        return for_x, for_met
    (top, left), (rows, columns) = (padding - padding_2d[0], padding - padding_2d[1]), met.shape[2:]
    for_weight = torch.zeros_like(weight)
    for_weight[:, :, top : top + rows, left : left + columns] = for_met
    return for_x, for_weight


def _image_by_image(gradient: Tensor, x: Tensor, shape: torch.Size, stride: int, padding: tuple[int, int]) -> Tensor:
    """Convolve every channel of every image with its gradient, the images as further channels, and sum over the images."""
    batch, channels = x.shape[:2]
    _, _, rows, columns = shape
    pixels = x.permute(2, 3, 0, 1).reshape(1, *x.shape[2:], batch * channels).permute(0, 3, 1, 2)
    kernels = gradient.permute(2, 3, 0, 1).reshape(1, *gradient.shape[2:], batch * channels).permute(3, 0, 1, 2)
    products = F.conv2d(pixels, kernels, padding=padding, dilation=stride, groups=batch * channels)
    sums = products[..., :rows, :columns].permute(0, 2, 3, 1).reshape(rows * columns, batch, channels).sum(1)
    return sums.t().reshape(shape)


def _wide_weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """
    Make the gradient of five columns of the kernels from two of three.

    Both read one copy of the map, whose rows stand `padding` zeros apart, so that the end of one is the beginning of the next; the second
    starts that many pixels later.
    """
    batch, channels, height, width = x.shape
    pitch, ahead = width + padding, padding * channels
    copy = x.new_empty(batch * height * pitch * channels + ahead)
    strides = (height * pitch * channels, 1, pitch * channels, channels)
    early, late = (copy.as_strided((batch, channels, height, pitch), strides, start) for start in (0, ahead))
    early[..., :padding] = 0
    early[..., padding:] = x
    copy[-ahead:] = 0
    three = weight[..., :_FAST]  # of its shape alone
    (_, first, _), (_, last, _) = (
        _gradients(gradient, part, three, stride, (padding, 0), [False, True, False]) for part in (early, late)
    )
    assert first is not None
    assert last is not None
    return torch.cat((first[..., : _WIDE - _FAST], last), dim=3)
