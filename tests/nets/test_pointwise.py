"""1x1 convolution as a matrix product: PyTorch's results and gradients, wherever it is at work."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dcnas_nets.pointwise import PointwiseConv2d, pointwise_conv2d


def drawn(*shape: int, seed: int) -> Tensor:
    """Return float64 normal numbers that want a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def is_product(out: Tensor) -> bool:
    """Whether `out` was computed as a matrix product."""
    return "Convolution" not in str(out.grad_fn)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 4),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    biased=st.booleans(),
    channels_last=st.booleans(),
)
def test_it_is_a_convolution(
    same_function: Callable[..., Any], batch: int, height: int, width: int, biased: bool, channels_last: bool
) -> None:
    """Output, its order in memory and the gradients of map, kernels and bias are those of `functional.conv2d`, in float64."""
    image, weight, bias = drawn(batch, 5, height, width, seed=0), drawn(7, 5, 1, 1, seed=1), drawn(7, seed=2)
    kept = bias if biased else None
    x = image.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    mine, wanted = pointwise_conv2d(x, weight, kept), functional.conv2d(x, weight, kept)
    few = batch * height * width <= 1024
    assert is_product(mine) == (few and x.is_contiguous(memory_format=torch.channels_last))
    assert mine.is_contiguous(memory_format=torch.channels_last) or not is_product(mine)
    inputs = [image, weight, *([bias] if biased else [])]
    same_function(mine, wanted, inputs)


def test_half_precision_is_left_to_pytorch() -> None:
    """bf16, itself or by autocast, is computed by PyTorch's convolution."""
    x = drawn(2, 4, 2, 2, seed=0).float().contiguous(memory_format=torch.channels_last)
    weight = drawn(3, 4, 1, 1, seed=1).float()
    assert is_product(pointwise_conv2d(x, weight))
    assert not is_product(pointwise_conv2d(x.bfloat16(), weight.bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        assert pointwise_conv2d(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layer", "stands"),
    [
        (nn.Conv2d(4, 6, 1), True),
        (nn.Conv2d(4, 6, 1, bias=False), True),
        (nn.Conv2d(4, 6, 3, padding=1), False),
        (nn.Conv2d(4, 6, 1, stride=2), False),
        (nn.Conv2d(4, 6, 1, padding=1), False),
        (nn.Conv2d(4, 6, 1, groups=2), False),
        (nn.Conv2d(4, 6, 1, padding="same"), False),
        (PointwiseConv2d(4, 6, 1), False),
    ],
)
def test_it_stands_for_plain_1x1_convolutions(layer: nn.Module, stands: bool) -> None:
    """Not for larger kernels, strides, padding or groups, nor for what has its own forward pass already."""
    assert PointwiseConv2d.stands_for(layer) is stands
