"""Depthwise convolution where ours differs, on small maps and under wide kernels: PyTorch's results and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from dcnas_nets import depthwise
from dcnas_nets.depthwise import DepthwiseConv2d, depthwise_conv2d


def drawn(*shape: int, seed: int) -> Tensor:
    """Return float64 normal numbers that want a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def other_sums(out: Tensor) -> bool:
    """Whether `out` was computed by the form for small maps."""
    return "OtherSums" in str(out.grad_fn)


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


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    channels_last=st.booleans(),
)
def test_a_wide_kernel_is_trained_by_two_narrow_ones(
    same_function: Callable[..., Any], height: int, width: int, stride: int, padding: int, channels_last: bool
) -> None:
    """5x5 kernels on maps of any size: output and gradients are those of `functional.conv2d`, in float64."""
    x, weight = drawn(2, 6, height, width, seed=0), drawn(6, 1, 5, 5, seed=1)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depthwise, "_WORTH_TWO", 0)
        laid = x.contiguous(memory_format=memory_format)
        mine = depthwise_conv2d(laid, weight, stride=stride, padding=padding)
        wanted = functional.conv2d(x, weight, stride=stride, padding=padding, groups=6)
        small = min(mine.shape[2:]) < 5 and max(mine.shape[2:]) <= 8
        assert other_sums(mine) == (small or (channels_last and padding == 2))
        same_function(mine, wanted, [x, weight])


def test_two_narrow_ones_are_taken_where_that_pays() -> None:
    """On a large channels_last map of the usual padding, and with the gradients that are wanted alone."""
    x, weight = drawn(2, 32, 40, 40, seed=0), drawn(32, 1, 5, 5, seed=1)
    laid = x.detach().contiguous(memory_format=torch.channels_last)
    out = depthwise_conv2d(laid, weight, stride=1, padding=2)
    assert other_sums(out)
    assert not other_sums(depthwise_conv2d(laid[:, :, :8, :8].contiguous(), weight, stride=1, padding=2))
    (found,) = torch.autograd.grad(out.square().sum(), weight)
    (wanted,) = torch.autograd.grad(functional.conv2d(laid, weight, padding=2, groups=32).square().sum(), weight)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


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
    ("layer", "stands"),
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
def test_which_layers_it_stands_for(layer: nn.Module, stands: bool) -> None:
    """Depthwise, square, zero-padded and without dilation."""
    assert DepthwiseConv2d.stands_for(layer) == stands
