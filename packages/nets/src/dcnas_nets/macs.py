"""Multiply-accumulates by the protocol: convolutions, transposed convolutions, linear layers, and one per bias output element."""

from typing import Any

import torch
from torch import Tensor, nn


def count_macs(model: nn.Module, *inputs: Tensor, bias: bool = True) -> int:
    """
    Count the MACs of one forward pass of `model` on `inputs`; for a batch of one, those of one image.

    Batch norm, activations, pooling and resampling are free. The paper's "FLOPs" are this figure (its own counter has no hook for
    transposed convolutions; ours counts them).

    Args:
        bias: Count the additions of biases too, as the protocol does; much of the literature does not.
    """
    total = 0

    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        total += _layer_macs(module, arguments[0], output, bias)

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    training = model.training
    try:
        model.eval()
        with torch.inference_mode():
            model(*inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return total


def count_parameters(model: nn.Module) -> int:
    """Count the trained values of `model`, batch norm's scale and shift included."""
    return sum(parameter.numel() for parameter in model.parameters())


def _layer_macs(layer: nn.Module, before: Tensor, after: Tensor, count_bias: bool) -> int:
    bias = after.numel() if count_bias and layer.bias is not None else 0
    if isinstance(layer, nn.Conv2d):
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        return after.numel() * (layer.in_channels // layer.groups) * kernel + bias
    if isinstance(layer, nn.ConvTranspose2d):
        kernel = layer.kernel_size[0] * layer.kernel_size[1]
        return before.numel() * (layer.out_channels // layer.groups) * kernel + bias
    assert isinstance(layer, nn.Linear)
    return after.numel() * layer.in_features + bias
