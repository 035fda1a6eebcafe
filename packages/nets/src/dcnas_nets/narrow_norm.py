"""
Batch norm for maps of few channels on several CPU threads.

PyTorch's channels_last kernels keep one row of sums a thread. Of fewer than 16 channels several rows share a cache line, and the threads
take it from each other: with 8 channels, two threads took longer than one (measured, torch 2.14). Here consecutive pixels are read as one
row of many channels, whose statistics are then combined; memory and mathematics stay the same.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import has_torch_function

_CACHE_LINE = 16
"""fp32 numbers of 64 bytes."""
_ROW = 256
"""About as many numbers a row as is fastest; more gave nothing (measured)."""


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`: the same parameters, buffers and results up to rounding, fast for few channels too."""

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch ch height width"]:
        """Normalise by the batch's statistics in training, by the running ones else."""
        pixels = _pixels_a_row(x_BCHW) if self.training and self.affine and self.track_running_stats else 1
        if pixels == 1:
            return super().forward(x_BCHW)
        normalised, mean, variance = _RowsNorm.apply(x_BCHW, self.weight, self.bias, pixels, self.eps)
        with torch.no_grad():
            self._remember(mean, variance, x_BCHW.numel() // x_BCHW.shape[1])
        return cast(Tensor, normalised)

    def _remember(self, mean: Tensor, variance: Tensor, values: int) -> None:
        """Move the running statistics as `nn.BatchNorm2d` does: by `momentum`, or to the mean over all batches where that is `None`."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (values / (values - 1)), share)


def _pixels_a_row(x: Tensor) -> int:
    """Return how many consecutive pixels make a row; 1 where PyTorch's own kernel is as fast or the rows would not come out even."""
    channels = x.shape[1]
    fits = x.device.type == "cpu" and x.dtype == torch.float32 and channels < _CACHE_LINE
    replaced = has_torch_function((x,))  # somebody puts another batch norm in torch's place, which rows would not meet
    if replaced or not fits or torch.get_num_threads() == 1 or not x.is_contiguous(memory_format=torch.channels_last):
        return 1
    rows, pixels = x.numel() // channels, 1
    while pixels * channels < _ROW and rows % (2 * pixels) == 0:
        pixels *= 2
    return pixels if pixels * channels >= _CACHE_LINE and rows > pixels else 1


def _rows(x: Tensor, pixels: int) -> Tensor:
    return x.permute(0, 2, 3, 1).view(-1, pixels * x.shape[1])


class _RowsNorm(torch.autograd.Function):
    """Batch norm with scale and shift; returns the normalised map, the mean and the biased variance of each channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pixels: int, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, shape = _rows(x, pixels), (pixels, -1)
        means, variances = (s.view(shape).double() for s in torch.batch_norm_update_stats(rows, None, None, 0.0))
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(
            0, correction=0
        )  # within and between columns: exact, as many values in each
        inverse = (variance + epsilon).rsqrt()
        scale = weight * inverse
        out = torch.empty_like(x)
        torch.addcmul(_tiled(bias - mean * scale, pixels), rows, _tiled(scale, pixels), out=_rows(out, pixels))
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.pixels = pixels
        statistics = mean.float(), variance.float()
        ctx.mark_non_differentiable(*statistics)
        return out, *statistics

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        pixels, shape = ctx.pixels, (ctx.pixels, -1)
        rows = _rows(x, pixels)
        gradient = _rows(gradients[0].contiguous(memory_format=torch.channels_last), pixels)
        one = torch.ones(rows.shape[1])
        # in eval mode with variance 1 the kernel gives the two sums of every column: of gradient * (x - mean), and of the gradient
        _, sums_x, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, rows, one, _tiled(mean, pixels), one, None, None, False, 0.0, [False, True, True]
        )
        bias_gradient = sums.view(shape).double().sum(0)
        weight_gradient = sums_x.view(shape).double().sum(0) * inverse
        values = rows.numel() // len(mean)
        of_gradient = weight * inverse
        of_x = -of_gradient * inverse * weight_gradient / values
        constant = -of_gradient * bias_gradient / values - of_x * mean
        x_gradient = torch.empty_like(x)
        out = torch.addcmul(_tiled(constant, pixels), rows, _tiled(of_x, pixels), out=_rows(x_gradient, pixels))
        out.addcmul_(gradient, _tiled(of_gradient, pixels))
        return x_gradient, weight_gradient.float(), bias_gradient.float(), None, None


def _tiled(per_channel: Tensor, pixels: int) -> Tensor:
    return per_channel.float().repeat(pixels)
