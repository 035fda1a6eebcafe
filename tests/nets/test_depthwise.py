"""Depthwise convolution on maps smaller than the kernel: PyTorch's results and gradients, whatever the size, stride and padding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dcnas_nets.depthwise import DepthwiseConv2d, depthwise_conv2d


def drawn(*shape: int, seed: int) -> Tensor:
    """Return float64 normal numbers that want a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def other_sums(out: Tensor) -> bool:
    """Whether `out` was computed by the form for small maps."""
    return "SmallMap" in str(out.grad_fn)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 10),
    width=st.integers(1, 10),
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.integers(1, 3),
    biased=st.booleans(),
    channels_last=st.booleans(),
)
def test_it_is_a_convolution(
    same_function: Callable[..., Any],
    height: int,
    width: int,
    kernel: int,
    stride: int,
    biased: bool,
    channels_last: bool,
) -> None:
    """Output and the gradients of map, kernels and bias are those of `functional.conv2d`, in float64."""
    x, weight, bias = drawn(2, 6, height, width, seed=0), drawn(6, 1, kernel, kernel, seed=1), drawn(6, seed=2)
    kept = bias if biased else None
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    mine = depthwise_conv2d(x.contiguous(memory_format=memory_format), weight, kept, stride=stride, padding=kernel // 2)
    wanted = functional.conv2d(x, weight, kept, stride=stride, padding=kernel // 2, groups=6)
    assert other_sums(mine) == (min(mine.shape[2:]) < kernel and max(mine.shape[2:]) <= 8) or kept is not None
    inputs = [x, weight, *([bias] if biased else [])]
    same_function(mine, wanted, inputs)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_only_gradients_that_are_wanted_are_computed(size: int) -> None:
    """Weights that are fixed, as in a step of the architecture, and an image that needs no gradient."""
    x, weight = drawn(3, 4, size, size, seed=0), drawn(4, 1, 5, 5, seed=1)
    for inputs in ((x, weight.detach()), (x.detach(), weight)):
        out = depthwise_conv2d(*inputs, stride=1, padding=2)
        assert other_sums(out)
        wanted = [one for one in inputs if one.requires_grad]
        true = functional.conv2d(*inputs, padding=2, groups=4)
        torch.testing.assert_close(
            torch.autograd.grad(out.sum(), wanted), torch.autograd.grad(true.sum(), wanted), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize(
    ("layer", "depthwise"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), True),
        (nn.Conv2d(8, 8, 5, stride=2, padding=2, groups=8, bias=False), True),
        (nn.Conv2d(8, 8, 3, padding=1), False),
        (nn.Conv2d(8, 16, 3, padding=1, groups=8), False),
        (nn.Conv2d(8, 8, 3, padding=1, groups=4), False),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), False),
        (nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8), False),
        (nn.Conv2d(8, 8, 3, padding="same", groups=8), False),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect"), False),
        (nn.Conv2d(1, 1, 3, padding=1), False),
        (nn.Linear(8, 8), False),
    ],
    ids=str,
)
def test_which_layers_it_stands_for(layer: nn.Module, depthwise: bool) -> None:
    """Depthwise, square, zero-padded and without dilation."""
    assert DepthwiseConv2d.stands_for(layer) == depthwise
