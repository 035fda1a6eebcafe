"""
Chance in the search: Gumbel noise, soft weights of the candidates, sampled paths.

Paths are drawn on the host, where the log-alphas are known, so that no step asks the device which op it wants to run.
Source: TF-NAS (Hu et al. 2020, arXiv:2008.05314), bi-sampling.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Path = list[int]
"""The number of an op at each place."""


def temperature(epoch: int, *, start: float, decay: float, warmup_epochs: int) -> float:
    """Return the softmax's temperature in `epoch`, counted from 0: `start`, times `decay` after each epoch behind the warm-up."""
    return float(start * decay ** max(epoch - warmup_epochs, 0))


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "..."]:
    """Return standard Gumbel noise, float32, on the generator's device."""
    noise = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    return noise.log_().neg_()


def soft_weights(
    log_alphas: Float[Tensor, "place op"], noise: Float[Tensor, "place op"], temperature: Float[Tensor, ""] | float
) -> Float[Tensor, "place op"]:
    """Return the weights of the candidates in an architecture step: softmax((log_alphas + noise) / temperature)."""
    return torch.softmax((log_alphas + noise) / temperature, dim=1)


class PathSampler:
    """
    Draws the paths of weight steps.

    Args:
        generator: On the CPU; its state decides every path that follows.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def first(self, log_alphas: Float[Tensor, "place op"]) -> Path:
        """Return at each place the op whose log-alpha plus Gumbel noise is the greatest: op k with probability alpha_k."""
        noise = gumbel_noise(tuple(log_alphas.shape), self._generator)
        return [int(op) for op in (log_alphas + noise).argmax(1).tolist()]

    def second(self, first: Path, ops: int) -> Path:
        """Return at each place one of the other `ops` - 1 ops, all with equal chance."""
        drawn = torch.randint(ops - 1, (len(first),), generator=self._generator).tolist()
        return [int(op) + (op >= taken) for op, taken in zip(drawn, first, strict=True)]


class HostCopy:
    """
    A small tensor of the device on the host, fetched without waiting until it is read.

    On a CPU it is the tensor itself.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._source = tensor.detach()
        self._on_device = tensor.device.type == "cuda"
        self._host = torch.empty(tensor.shape, pin_memory=True) if self._on_device else self._source
        self._arrived = torch.cuda.Event() if self._on_device else None  # type: ignore[no-untyped-call] # torch gives it no types
        self.refresh()

    def refresh(self) -> None:
        """Have the device send what it then holds."""
        if self._arrived is not None:
            self._host.copy_(self._source, non_blocking=True)
            self._arrived.record()

    def read(self) -> Tensor:
        """Return the values of the last `refresh`; waits for their arrival alone."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
