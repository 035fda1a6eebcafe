"""The mean of pixels: the mean, and a gradient in the map's memory format."""

from typing import Any

import pytest
import torch

from dcnas_nets.pooling import mean_of_pixels


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (2, 5)])
def test_it_is_the_mean(same_function: Any, memory_format: torch.memory_format, size: tuple[int, int]) -> None:
    """Means and gradient are those over both axes."""
    x = torch.randn((2, 6, *size), dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()
    same_function(mean_of_pixels(x), x.mean((2, 3)), [x])


def test_its_gradient_is_channels_last() -> None:
    """What meets it beside a channels_last map finds the same strides."""
    x = torch.randn(2, 6, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(mean_of_pixels(x.sigmoid()).square().sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
