"""Forward passes over a batch that several processes share: batch norm takes the statistics of all of it, dropout draws for all of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SharedBatch(TorchFunctionMode):
    """
    While it is entered, whatever calls torch's `batch_norm`, `dropout` or `bernoulli_` computes what one process would on all images.

    At torch's functions, not at modules: torchvision's, timm's and our own nets call them from modules, from modules of their own and from
    plain functions. Other functions pass through, at some microseconds each.

    Args:
        images: In this process, as many as in any other; of random numbers that nets draw, the first axis is theirs.

        gather: Returns the values of all processes, process x ...

        add_up: Adds the values of the others in place, and returns them.
    """

    def __init__(
        self,
        *,
        images: int,
        rank: int,
        size: int,
        gather: Callable[[Tensor], Tensor],
        add_up: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self._images, self._rank, self._size = images, rank, size
        self._processes = _Processes(size=size, gather=gather, add_up=add_up)
        self._ours: dict[Any, Callable[..., Tensor]] = {
            F.batch_norm: self._batch_norm,
            F.dropout: self._dropout,
            Tensor.bernoulli_: self._bernoulli_,
            **dict.fromkeys(_UNKNOWN, _refuse),
        }

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call what takes the function's place, or the function."""
        del types
        called: Callable[..., Any] = self._ours.get(func, func)
        return called(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        normalised: Tensor
        normalised, mean, variance = _SharedNorm.apply(input, weight, bias, eps, self._processes)
        if running_mean is not None and running_var is not None:
            values = input.numel() // input.shape[1] * self._size
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * (values / (values - 1))).to(running_var.dtype), momentum)
        return normalised

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        factors = self._mine(F.dropout(self._whole(input).fill_(1), p, training=True, inplace=False))
        return input.mul_(factors) if inplace else input * factors

    def _bernoulli_(self, input: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
        return input.copy_(self._mine(self._whole(input).bernoulli_(p, generator=generator)))

    def _whole(self, input: Tensor) -> Tensor:
        assert len(input) == self._images, f"{tuple(input.shape)} has no row for each of {self._images} images"
        whole = input.new_empty((len(input) * self._size, *input.shape[1:]))
        flat = input.ndim == 4 and not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
        return whole.to(memory_format=torch.channels_last) if flat else whole

    def _mine(self, whole: Tensor) -> Tensor:
        return whole[self._rank * self._images : (self._rank + 1) * self._images]


_UNKNOWN = (
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.batch_norm,
    torch.native_batch_norm,
    torch.batch_norm_update_stats,
    torch.dropout,
    torch.bernoulli,
)
"""What would pass by the three, and draw or normalise for one process's images alone."""


def _refuse(*_: Any, **__: Any) -> Tensor:
    raise NotImplementedError("a net draws or normalises by a function that several processes cannot share yet")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Processes:
    size: int
    gather: Callable[[Tensor], Tensor]
    add_up: Callable[[Tensor], Tensor]


class _SharedNorm(torch.autograd.Function):
    """
    Batch norm over the images of all processes; returns mean and biased variance of each channel, too.

    Its gradients are those of this process's own loss, which sees the others' images by the statistics: the mean over all processes of
    the parameters' gradients is that of one process with all images.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, processes: _Processes
    ) -> tuple[Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        own_variance, own_mean = torch.var_mean(x.float(), axes, correction=0)
        means, variances = processes.gather(torch.stack([own_mean, own_variance])).unbind(1)
        mean = means.mean(0)  # all have as many images
        variance = (variances + (means - mean).square()).mean(0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.processes, ctx.eps, ctx.has_bias = processes, eps, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, mean, inverse = ctx.saved_tensors
        gradient = gradients[0]
        factor = inverse if weight is None else inverse * weight
        _, by_scale, by_shift = torch.ops.aten.native_batch_norm_backward(
            gradient, x, torch.ones_like(mean), None, None, mean, inverse, True, ctx.eps, [False, True, True]
        )
        own = torch.stack([by_scale, by_shift])
        for_weight = own[0].clone() if weight is not None else None
        for_bias = own[1].clone() if ctx.has_bias else None
        sums = ctx.processes.add_up(own)
        if not ctx.needs_input_grad[0]:
            return None, for_weight, for_bias, None, None
        values = x.numel() // x.shape[1] * ctx.processes.size
        shape = [1, -1, *[1] * (x.ndim - 2)]
        slope = -factor * inverse * sums[0] / values
        level = -factor * sums[1] / values - slope * mean
        back = torch.addcmul(level.view(shape), x, slope.view(shape)).addcmul_(gradient, factor.view(shape))
        return back.to(x.dtype), for_weight, for_bias, None, None
