"""
One training by several processes, a device each: every one takes its rows of each batch, and all hold the same weights at any time.

Gradients are averaged by one explicit all-reduce behind backward, not by torch's DistributedDataParallel. A supernet runs other
parameters at every step and gets new ones at every rescaling, through methods that are not `forward`, and the architecture parameters
belong to no module: the wrapper would have to be told of all this, and made anew every epoch. What it would gain, sending gradients
while others are computed, is small here: nets of this project have a few million weights, which one all-reduce sends in a few ms at most.

What couples the images of a batch beside the loss, batch norm and what dropout draws, is replaced in forward passes by
`Team.sharing`. Torch's SyncBatchNorm has no CPU form, and neither it nor its conversion reaches the functional calls of the supernet and
of timm.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.seat import Seat
from dcnas_training.checkpoints import CheckpointFolder, state_from_bytes, state_to_bytes
from dcnas_training.shared_batch import SharedBatch

_PATIENCE = timedelta(minutes=15)
"""Longest wait for the others: as long as the leader may time a net before a search. One that has died is noticed at once."""
_CPU = torch.device("cpu")


class Team:
    """The processes that train one model together. This class is the team of one, which does nothing but what a lone process does."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def sharing(self, images: int) -> AbstractContextManager[object]:
        """
        Return the context of a forward pass in training: the batch is then that of all processes.

        Args:
            images: This process's, as many as any other's.
        """
        del images
        return nullcontext()

    def average_gradients(self, parameters: Iterable[Tensor], told: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """
        Replace the gradients by their mean over all processes, and return that of `told`, a loss for instance, without gradient.

        Of losses that are means over equal shares of a batch, these are the gradients and the loss of the whole batch.

        Args:
            parameters: In the same order everywhere; those without a gradient lack it everywhere.
        """
        del parameters
        return told.detach()

    def total(self, values: Sequence[Float[Tensor, ""]]) -> float:
        """Return the sum of scalars over all processes; a process may have none."""
        return float(torch.stack(list(values)).sum())

    def mean(self, values: Sequence[Float[Tensor, "..."]]) -> float | None:
        """Return the mean of all elements, one tensor or several, over all processes; `None` where no process has any."""
        return float(torch.cat(list(values)).mean()) if values else None

    def from_leader(self, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """
        Return what `make` returns in the leader's process, where alone it is called.

        It is nested dicts and lists of tensors and JSON values, as in a checkpoint; elsewhere its tensors are on the CPU.
        """
        return make()

    def require_alike(self, tensors: Mapping[str, Tensor]) -> None:
        """
        Check that all processes hold the same bits.

        Raises:
            UnfitEnvironmentError: They do not; raised everywhere, and names the first tensor that differs.
        """
        del tensors


ALONE = Team()
"""The team of a process that trains by itself."""


def newest_of_leader(checkpoints: CheckpointFolder, team: Team) -> tuple[int, dict[str, Any]] | None:
    """Return what `checkpoints.newest()` gives the leader: the others' machines need not see its folder."""

    def read() -> dict[str, Any] | None:
        newest = checkpoints.newest()
        return None if newest is None else {"epoch": newest[0], "state": newest[1]}

    found = team.from_leader(read)
    return None if found is None else (found["epoch"], found["state"])


class ProcessTeam(Team):
    """Processes joined by torch.distributed; made by `joined`."""

    def __init__(self, seat: Seat, device: torch.device) -> None:
        self.rank, self.size = seat.rank, seat.size
        self._device = device

    def sharing(self, images: int) -> AbstractContextManager[object]:
        """See `Team`."""
        return SharedBatch(images=images, rank=self.rank, size=self.size, gather=self._gather, add_up=self._add_up)

    def average_gradients(self, parameters: Iterable[Tensor], told: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """See `Team`; one message."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([told.detach().flatten().float(), *(gradient.flatten() for gradient in gradients)])
        lengths = [told.numel(), *(gradient.numel() for gradient in gradients)]
        parts = torch.split(self._add_up(flat).div_(self.size), lengths)
        for gradient, part in zip(gradients, parts[1:], strict=True):
            gradient.copy_(part.view(gradient.shape))
        return parts[0].view(told.shape).clone()

    def total(self, values: Sequence[Float[Tensor, ""]]) -> float:
        """See `Team`; added up in float64."""
        return self._sums(values)[0]

    def mean(self, values: Sequence[Float[Tensor, "..."]]) -> float | None:
        """See `Team`; added up in float64."""
        total, count = self._sums(values)
        return total / count if count else None

    def from_leader(self, make: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """See `Team`; nothing is pickled."""
        made = make() if self.leads else None
        content = state_to_bytes({"made": made}) if self.leads else b""
        size = torch.tensor(len(content))
        self._send(size)
        sent = (
            torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if self.leads
            else torch.empty(int(size), dtype=torch.uint8)
        )
        self._send(sent)
        if self.leads:
            return made
        found: dict[str, Any] | None = state_from_bytes(sent.numpy().tobytes())["made"]
        return found

    def require_alike(self, tensors: Mapping[str, Tensor]) -> None:
        """See `Team`; compares a sum over each tensor's bits."""
        sums = torch.stack([_sum_of_bits(tensor) for tensor in tensors.values()])
        differing = (self._gather(sums) != sums).any(0)
        found = self._add_up(differing.to(torch.int64)).cpu().nonzero().flatten().tolist()
        if found:
            raise UnfitEnvironmentError(
                f"The {self.size} processes no longer hold the same weights: {list(tensors)[found[0]]} differs; no checkpoint of this "
                "epoch is written.",
                remedy="run the same command again; if it happens again, a device computes wrongly or the processes run different versions",
            )

    def _sums(self, values: Sequence[Tensor]) -> tuple[float, int]:
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for value in values:
            sums[0] += value.double().sum()
        sums[1] += sum(value.numel() for value in values)
        total, count = self._add_up(sums).tolist()
        return total, round(count)

    def _gather(self, values: Tensor) -> Tensor:
        """Return the values of all processes, process x ..."""
        every = [torch.empty_like(values) for _ in range(self.size)]
        with _others_watched():
            dist.all_gather(every, values)
        return torch.stack(every)

    def _add_up(self, values: Tensor) -> Tensor:
        """Add the others' values in place, and return them."""
        with _others_watched():
            dist.all_reduce(values)
        return values

    def _send(self, values: Tensor) -> None:
        """Have the leader's values, on the CPU, in place."""
        with _others_watched():
            dist.broadcast(values, src=0)


@contextmanager
def joined(seat: Seat, device: torch.device) -> Iterator[Team]:
    """
    Join the processes of a run while the block runs, by NCCL on CUDA and by gloo on a CPU, and wait for each other at its end.

    Args:
        device: That of this process.

    Raises:
        UnfitEnvironmentError: Another process does not come, has died, or keeps this one waiting for a quarter of an hour.
    """
    if seat.size == 1:
        yield ALONE
        return
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    with _others_watched():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            rank=seat.rank,
            world_size=seat.size,
            timeout=_PATIENCE,
            device_id=device if cuda else None,
        )
    team = ProcessTeam(seat, device)
    yield team
    with _others_watched():
        dist.barrier(device_ids=[device.index] if cuda else None)
    dist.destroy_process_group()


@contextmanager
def _others_watched() -> Iterator[None]:
    """Turn what torch says of a process that is gone into one message."""
    try:
        yield
    except RuntimeError as error:  # torch's own classes for this derive from it
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UnfitEnvironmentError(
            f"Another process of this training has ended, or does not answer: {str(error).splitlines()[0]}",
            remedy="see what it said; then start all of them again: they go on from the last checkpoint",
        ) from error


def _sum_of_bits(tensor: Tensor) -> Tensor:
    content = tensor.detach().contiguous()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[content.element_size()]
    return content.view(whole).sum(dtype=torch.int64)
