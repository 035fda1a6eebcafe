"""Adam, without the three seconds that torch's own takes to import the compiler in a process that compiles nothing."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_UNCOMPILED_STEP = inspect.unwrap(torch.optim.Adam.step)


class EagerAdam(torch.optim.Adam):
    """
    `torch.optim.Adam` for eager training; the same arithmetic, bit for bit.

    Torch's optimisers wrap their methods for its compiler and import it at the first call, about three seconds a process
    (torch 2.11 to 2.14: torch/optim/optimizer.py, torch/_compile.py). Here `step` runs without the wrapper, and the other methods carry
    the mark that the wrapper looks for. A torch without such wrappers is left as it is.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override] # torch declares overloads
        """Take one step; see `torch.optim.Adam.step`."""
        loss: Tensor | None = _UNCOMPILED_STEP(self, closure)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """
        Restore a state; each average gets its weight's memory format, because the fused step walks both in memory order.

        A state read from disk is contiguous, and beside a channels_last weight its averages would belong to other values.
        """
        super().load_state_dict(state_dict)
        for weight, averages in self.state.items():
            for name, value in averages.items():
                if value.shape == weight.shape:
                    averages[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _mark_as_uncompiled() -> None:
    for method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        inner = getattr(getattr(torch.optim.Optimizer, method, None), "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            inner.__dict__["__dynamo_disable"] = inner


_mark_as_uncompiled()
