"""What tests of layers share."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Watch(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="session")
def watching() -> Callable[[bool], AbstractContextManager[object]]:
    """The function that returns a context in which, if told so, somebody sees torch's functions and lets them pass."""
    return lambda watched: _Watch() if watched else nullcontext()


@pytest.fixture(scope="session")
def same_function() -> Callable[[Tensor, Tensor, Sequence[Tensor]], None]:
    """The function that requires two outputs, and their gradients with respect to `inputs`, to be equal to float64's rounding."""

    def require(mine: Tensor, wanted: Tensor, inputs: Sequence[Tensor]) -> None:
        pull = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        gradients = (torch.autograd.grad(out, list(inputs), pull) for out in (mine, wanted))
        for found, true in zip((mine, *next(gradients)), (wanted, *next(gradients)), strict=True):
            torch.testing.assert_close(found, true, rtol=1e-10, atol=1e-10)

    return require
