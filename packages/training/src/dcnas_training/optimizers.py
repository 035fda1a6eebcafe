"""Adam and SGD, without the three seconds that torch's own take to import the compiler in a process that compiles nothing."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_UNCOMPILED_STEP = inspect.unwrap(torch.optim.Adam.step)
_UNCOMPILED_SGD_STEP = inspect.unwrap(torch.optim.SGD.step)


class EagerAdam(torch.optim.Adam):
    """
    `torch.optim.Adam` for eager training; the same arithmetic, bit for bit.

    Torch's optimisers wrap their methods for its compiler and import it at the first call, about three seconds a process
    (torch 2.11 to 2.14: torch/optim/optimizer.py, torch/_compile.py). Here `step` runs without the wrapper, and the other methods carry
    the mark that the wrapper looks for. A torch without such wrappers is left as it is.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override] # torch declares overloads, of which one form suffices here
        """Take one step; see `torch.optim.Adam.step`."""
        loss: Tensor | None = _UNCOMPILED_STEP(self, closure)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Restore a state; each average gets its weight's memory format, because the fused step walks both in memory order.

        A state read from disk is contiguous, and beside a channels_last weight its averages would belong to other values.
        """
        super().load_state_dict(state_dict)
        _give_weights_format(self)


class EagerSGD(torch.optim.SGD):
    """`torch.optim.SGD` for eager training; the same arithmetic, bit for bit: see `EagerAdam`."""

    grad_scale: Tensor | None = None
    """What the fused step divides gradients by."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override] # torch declares overloads, of which one form suffices here
        """Take one step; see `torch.optim.SGD.step`."""
        loss: Tensor | None = _UNCOMPILED_SGD_STEP(self, closure)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; each momentum gets its weight's memory format, as in `EagerAdam`."""
        super().load_state_dict(state_dict)
        _give_weights_format(self)


def _give_weights_format(optimizer: torch.optim.Optimizer) -> None:
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:  # SGD without momentum keeps a None
                state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _mark_as_uncompiled() -> None:
    for method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        inner = getattr(getattr(torch.optim.Optimizer, method, None), "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            inner.__dict__["__dynamo_disable"] = inner


_mark_as_uncompiled()
