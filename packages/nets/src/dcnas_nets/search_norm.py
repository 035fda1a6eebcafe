"""Batch norm of the supernet: no scale, no shift, statistics of the batch always; with an activation it keeps one map less for backward."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import has_torch_function

from dcnas_schema.space import Activation

EPSILON = 1e-5
"""PyTorch's default, as in TF-NAS."""


def batch_norm(
    x_BCHW: Float[Tensor, "batch ch height width"], scale: Float[Tensor, " ch"] | None = None
) -> Float[Tensor, "batch ch height width"]:
    """
    Normalise each channel by the batch's own mean and variance.

    Args:
        scale: Factor of each channel behind the normalisation, differentiable; `None` is 1. A mixed op puts the op's weight here: no map
            is kept for the product's gradient, and no pass over the map is spent on it.
    """
    return F.batch_norm(x_BCHW, None, None, weight=scale, training=True, eps=EPSILON)


def norm_act(
    x_BCHW: Float[Tensor, "batch ch height width"], activation: Activation
) -> Float[Tensor, "batch ch height width"]:
    """Return the activation of the batch-normalised features."""
    if activation == "relu":
        return F.relu(batch_norm(x_BCHW), inplace=True)
    if has_torch_function(
        (x_BCHW,)
    ):  # somebody puts another batch norm in torch's place, which the one below would not meet
        return F.silu(batch_norm(x_BCHW), inplace=True)
    features: Tensor = _NormSwish.apply(x_BCHW)
    return features


def gradient_before_norm(gradient: Tensor, normalised: Tensor, inverse: Tensor) -> Tensor:
    """Return the gradient of what was normalised, from that of the normalised map and 1 / standard deviation of each channel."""
    mean, deviation = torch.zeros_like(inverse), torch.ones_like(inverse)  # of the normalised map itself
    found: Tensor = torch.ops.aten.native_batch_norm_backward(
        gradient, normalised, inverse, None, None, mean, deviation, True, EPSILON, [True, False, False]
    )[0]
    return found


def without_affine_norms(module: nn.Module) -> nn.Module:
    """Replace, in place, every batch norm below `module` by one without scale, shift and running statistics; return `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.num_features, affine=False, track_running_stats=False))
        else:
            without_affine_norms(child)
    return module


class _NormSwish(torch.autograd.Function):
    """
    x * sigmoid(x) of normalised features.

    Keeps the normalised map and a number a channel for backward, and not the map before, which the two ops alone would keep too: of the
    normalised map itself mean and deviation are 0 and 1, and what was divided out is a factor of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        normalised, _, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, EPSILON)
        ctx.save_for_backward(normalised, inverse)
        return F.silu(normalised)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        normalised, inverse = ctx.saved_tensors
        gradient = torch.ops.aten.silu_backward(gradients[0], normalised)
        return gradient_before_norm(gradient, normalised, inverse)
