"""The two steps of the search: one trains weights on sampled paths, the other the architecture on all candidates at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dcnas_data.photo_loader import PhotoBatch
from dcnas_data.photo_views import IMAGENET_MEAN, IMAGENET_STD
from dcnas_nets.space import SpaceOutput
from dcnas_nets.supernet import Supernet
from dcnas_schema.photo_training import PhotoLossParams
from dcnas_schema.search_params import SearchSupernetParams
from dcnas_training.architecture import Architecture, ArchitectureOptimizer
from dcnas_training.distributed import ALONE, Team
from dcnas_training.execution import Execution
from dcnas_training.optimizers import EagerSGD
from dcnas_training.photo_losses import photo_loss
from dcnas_training.search_latency import expected_latency_ms, latency_loss
from dcnas_training.search_sampling import Path, soft_weights
from dcnas_training.side_by_side import side_by_side

_CLIP_EPSILON = 1e-6
"""Torch's, in `clip_grad_norm_`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """What a step sees."""

    network_input: Tensor
    """batch x 3 x size x size, noise added where the search is noisy, normalised, in the execution's memory format."""
    clean: Tensor
    """The same pictures in [0, 1] without noise."""
    labels: Tensor


class Normaliser:
    """ImageNet's normalisation with its figures already on the device: a step sends nothing there but the batch."""

    def __init__(self, execution: Execution) -> None:
        self._format = execution.torch_format
        values = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=execution.device)
        self._mean, self._std = (value.view(1, 3, 1, 1) for value in values)

    def __call__(self, noisy: Tensor, batch: PhotoBatch) -> Images:
        """Return what the net sees of `noisy`, beside the clean batch."""
        image = ((noisy - self._mean) / self._std).contiguous(memory_format=self._format)
        return Images(network_input=image, clean=batch.clean, labels=batch.labels)


class WeightSteps:
    """
    SGD on the paths of one epoch: clipped gradients, momentum from nothing, as TF-NAS, which makes its optimisers anew every epoch.

    A candidate that no path of a step ran has no gradient then and stays as it is, momentum included.

    Args:
        team: Those who take the same step, on the same paths, each with images of its own.
    """

    def __init__(
        self, net: Supernet, execution: Execution, params: SearchSupernetParams, *, rate: float, team: Team = ALONE
    ) -> None:
        self._net, self._execution, self._clip, self._loss = net, execution, params.clip, params.loss
        self._team = team
        self._parameters = list(net.parameters())
        self._optimizer = EagerSGD(
            self._parameters, lr=rate, momentum=params.momentum, weight_decay=params.weight_decay, fused=True
        )

    def step(self, images: Images, paths: Sequence[Path], depth_weights: Sequence[Tensor] | None) -> Tensor:
        """Take one step downhill on the sum of the paths' losses, and return their mean, still on the device."""
        self._optimizer.zero_grad(set_to_none=True)
        descend = self._descend_side_by_side if self._parts_with(paths) else self._descend
        mean = self._team.average_gradients(self._parameters, descend(images, paths, depth_weights).mean())
        self._optimizer.grad_scale = self._excess()
        self._give_momentum()
        self._optimizer.step()
        return mean

    def _parts_with(self, paths: Sequence[Path]) -> bool:
        """Whether two paths run side by side: on a CPU, where nothing that is set for this thread alone changes what they compute."""
        cpu = self._execution.device.type == "cpu" and self._execution.precision == "fp32"
        return cpu and self._team.size == 1 and len(paths) == 2 and torch.get_num_threads() >= 2

    def _descend(self, images: Images, paths: Sequence[Path], depth_weights: Sequence[Tensor] | None) -> Tensor:
        """Give the weights the gradients of the paths' losses, and return those."""
        with self._team.sharing(len(images.labels)), self._execution.autocast():
            outputs = self._net.paths(images.network_input, paths, depth_weights)
        losses = torch.stack([task_loss(output, images, self._loss) for output in outputs])
        losses.sum().backward()  # type: ignore[no-untyped-call] # torch gives it no types
        return losses

    def _descend_side_by_side(
        self, images: Images, paths: Sequence[Path], depth_weights: Sequence[Tensor] | None
    ) -> Tensor:
        """
        Do the same, each path from the stem's output and back to it in a thread of its own.

        A weight of two paths gets the sum of two gradients, which has no order.
        """
        stem = self._net.through_stem(images.network_input)
        starts = [stem.detach().requires_grad_() for _ in paths]
        depths = None if depth_weights is None else [weights.detach() for weights in depth_weights]
        size = (images.network_input.shape[2], images.network_input.shape[3])

        def descend(start: Tensor, path: Path) -> Tensor:
            loss = task_loss(self._net.path_from(start, path, depths, size), images, self._loss)
            loss.backward()  # type: ignore[no-untyped-call] # torch gives it no types
            return loss.detach()

        losses = side_by_side([partial(descend, start, path) for start, path in zip(starts, paths, strict=True)])
        stem.backward(torch.stack([start.grad for start in starts if start.grad is not None]).sum(0))  # type: ignore[no-untyped-call] # torch gives it no types
        return torch.stack(losses)

    def _excess(self) -> Tensor:
        """Return what the optimizer divides gradients by to clip them as `clip_grad_norm_` does, which spends a pass over them all."""
        gradients = [weight.grad for weight in self._parameters if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        return norm.add(_CLIP_EPSILON).div_(self._clip).clamp_(min=1)

    def _give_momentum(self) -> None:
        """Start at zero what a weight lacks that has its first gradient: torch's fused step wants all of them to have it, or none."""
        for weight in self._parameters:
            state = self._optimizer.state[weight]
            if weight.grad is not None and not state:
                state["momentum_buffer"] = torch.zeros_like(weight)


class ArchitectureSteps:
    """
    Adam on the architecture parameters of one epoch.

    Args:
        block_ms: Calibrated latency of every candidate at this epoch's widths, place x op, on the device.

        team: As for `WeightSteps`.
    """

    def __init__(
        self,
        net: Supernet,
        architecture: Architecture,
        execution: Execution,
        params: SearchSupernetParams,
        *,
        block_ms: Tensor,
        rest_ms: float,
        target_ms: float,
        team: Team = ALONE,
    ) -> None:
        self._net, self._architecture, self._execution = net, architecture, execution
        self._latency_weight, self._loss = params.latency_weight, params.loss
        self._block_ms, self._rest_ms, self._target_ms = block_ms, rest_ms, target_ms
        self._team = team
        self._optimizer = ArchitectureOptimizer(architecture, params.architecture, team=team)

    def step(self, images: Images, noise: Tensor, heat: float) -> Tensor:
        """
        Take one step downhill, and return task loss, latency loss and expected latency in ms, still on the device.

        Args:
            noise: Gumbel noise, place x op.

            heat: Temperature of the softmax.
        """
        weights = soft_weights(self._architecture.log_alphas, noise, heat)
        depths = self._architecture.depth_weights()
        with self._team.sharing(len(images.labels)), self._execution.autocast():
            output = self._net.mixed(images.network_input, weights, depths)
        task = task_loss(output, images, self._loss)
        expected = expected_latency_ms(weights, self._block_ms, self._rest_ms, depths)
        latency = latency_loss(expected, self._target_ms)
        told = torch.stack([task.detach(), latency.detach(), expected.detach()])
        return self._optimizer.step(task + self._latency_weight * latency, told)


def task_loss(output: SpaceOutput, images: Images, params: PhotoLossParams) -> Tensor:
    """Return the cross-entropy of a classifier, or L_Both where a decoder is attached."""
    return photo_loss(output.restored, output.logits, images.clean, images.labels, params)
