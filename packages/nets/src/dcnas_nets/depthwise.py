"""
Depthwise convolution that trains fast on a CPU where the map is smaller than the kernel.

There oneDNN leaves its vectorised kernels for its reference ones: the weights' gradient of 1152 kernels of 5x5 on 2x2 pixels, batch 32,
took 35 ms, thirty times what it costs here (measured, torch 2.14, AVX2). Nets of the search space have such maps in their last two stages
from 128 pixels down.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LARGEST = 8
"""Most rows and columns of output; beyond, no depthwise kernel of a net is larger than the map."""


def depthwise_conv2d(
    x_BCHW: Float[Tensor, "batch ch height width"],
    weight: Float[Tensor, "ch 1 kernel kernel"],
    bias: Float[Tensor, " ch"] | None = None,
    *,
    stride: int,
    padding: int,
) -> Float[Tensor, "batch ch h2 w2"]:
    """Return `F.conv2d` with as many groups as channels; where the map is small, by other sums of the same products."""
    channels, _, kernel, _ = weight.shape
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in x_BCHW.shape[2:])
    small = min(height, width) < kernel and max(height, width) <= _LARGEST
    if not small or not in_full_precision_on_a_cpu(x_BCHW, weight):
        return F.conv2d(x_BCHW, weight, bias, stride=stride, padding=padding, groups=channels)
    (top, rows), (left, columns) = (
        _taps(before, after, kernel, stride, padding)
        for before, after in zip(x_BCHW.shape[2:], (height, width), strict=True)
    )
    met = weight[:, :, top : top + rows, left : left + columns]
    features = _SmallMap.apply(x_BCHW, met, (height, width), stride, (padding - top, padding - left))
    return cast(Tensor, features if bias is None else features + bias.view(1, -1, 1, 1))


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


def _taps(before: int, after: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the first and the number of a kernel's taps, along one axis, that ever meet a pixel and not only padding."""
    first = max(0, padding - (after - 1) * stride)
    last = min(kernel - 1, padding + before - 1)
    return first, last - first + 1


class _SmallMap(torch.autograd.Function):
    """Depthwise convolution; the gradient of its weights is itself one, with the output's gradient as the kernel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, size: tuple[int, int], stride: int, padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        if _is_scaling(x, weight):
            return x * weight.view(1, -1, 1, 1)
        features = F.conv2d(x, weight, stride=stride, padding=padding, groups=len(weight))
        ctx.whole = features.shape
        return features[..., : size[0], : size[1]].contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (gradient,) = gradients
        if _is_scaling(x, weight):
            of_x = gradient * weight.view(1, -1, 1, 1)
            return of_x, (gradient * x).sum((0, 2, 3)).view_as(weight), None, None, None
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            below, right = (whole - own for whole, own in zip(ctx.whole[2:], gradient.shape[2:], strict=True))
            padded = F.pad(gradient, (0, right, 0, below)) if below or right else gradient
            of_x, _, _ = torch.ops.aten.convolution_backward(
                padded.contiguous(memory_format=torch.channels_last),
                x,
                weight,
                None,
                [ctx.stride] * 2,
                ctx.padding,
                [1, 1],
                False,
                [0, 0],
                len(weight),
                [True, False, False],
            )
        if ctx.needs_input_grad[1]:
            of_weight = _weight_gradient(x, gradient, weight.shape, ctx.stride, ctx.padding)
        return of_x, of_weight, None, None, None


def _is_scaling(x: Tensor, weight: Tensor) -> bool:
    return x.shape[2:] == weight.shape[2:] == (1, 1)


def _weight_gradient(x: Tensor, gradient: Tensor, shape: torch.Size, stride: int, padding: tuple[int, int]) -> Tensor:
    """Convolve every channel of every image with its gradient, the images as further channels, and sum over the images."""
    batch, channels = x.shape[:2]
    _, _, rows, columns = shape
    pixels = x.permute(2, 3, 0, 1).reshape(1, *x.shape[2:], batch * channels).permute(0, 3, 1, 2)
    kernels = gradient.permute(2, 3, 0, 1).reshape(1, *gradient.shape[2:], batch * channels).permute(3, 0, 1, 2)
    products = F.conv2d(pixels, kernels, padding=padding, dilation=stride, groups=batch * channels)
    sums = products[..., :rows, :columns].permute(0, 2, 3, 1).reshape(rows * columns, batch, channels).sum(1)
    return sums.t().reshape(shape)
