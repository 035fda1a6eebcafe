"""Batch norm's statistics computed anew for the weights that a short training ends with."""

from collections.abc import Callable, Iterable

import torch
from torch import nn


def recalibrate_norm(model: nn.Module, passes: Iterable[Callable[[], object]]) -> None:
    """
    Replace batch norm's running statistics by their mean over `passes`, the weights as they are.

    Running statistics average over the last steps, in which a short training at a high rate has changed the weights a lot: in eval mode
    the net then computes something that it never computed in training.

    Only batch norm is in training mode meanwhile: dropout and drop-connect are off, as in the net that will use the statistics, so that
    nothing is drawn from a generator. Afterwards the whole model is in training mode.

    Args:
        passes: Each runs the model forward once on training images; at least one.

    Source: "precise BN", Wu and Johnson 2021 (arXiv:2105.07576), Sec. 3.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all passes
        layer.train()
    try:
        with torch.no_grad():
            for run in passes:
                run()
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.train()
