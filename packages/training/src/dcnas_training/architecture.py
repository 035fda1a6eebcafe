"""
The architecture parameters: alphas choose an op at each place, betas (sink-connecting search alone) a depth for each network stage.

Source: TF-NAS (Hu et al. 2020, arXiv:2008.05314); without betas the paper's search (arXiv:2409.08943, Sec. 4.1).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dcnas_schema.genotype import STAGE_DEPTHS, BlockChoice, Genotype
from dcnas_schema.search_params import ArchitectureParams
from dcnas_schema.space import PLACES, OpName
from dcnas_training.distributed import ALONE, Team
from dcnas_training.elasticity import ElasticBlock, elastic_bounds, scale_widths
from dcnas_training.optimizers import EagerAdam
from dcnas_training.search_latency import NetLatency


class Architecture:
    """
    Log-alphas, place x op, and log-betas, one vector a network stage; both start uniform and stay normalised.

    Args:
        places: Places with a choice; all 18 of the space but in tests.

        depths: Blocks of each network stage for which a depth is learned; `None`: depths are full (removed beta).
    """

    def __init__(
        self,
        places: int,
        ops: int,
        *,
        depths: Sequence[int] | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        uniform = torch.zeros((places, ops), device=device, dtype=dtype).log_softmax(1)
        self.log_alphas = uniform.requires_grad_()
        self.log_betas = [
            torch.zeros(depth, device=device, dtype=dtype).log_softmax(0).requires_grad_() for depth in depths or ()
        ]

    def parameters(self) -> list[Tensor]:
        """Return what an architecture step changes."""
        return [self.log_alphas, *self.log_betas]

    def depth_weights(self) -> list[Tensor] | None:
        """Return for each network stage the weight of each depth; `None` where depths are full."""
        return [log_beta.softmax(0) for log_beta in self.log_betas] or None

    def renormalise(self) -> None:
        """Replace log-alphas and log-betas by their log-softmax, which leaves the probabilities as they are."""
        with torch.no_grad():
            self.log_alphas.copy_(self.log_alphas.log_softmax(1))
            for log_beta in self.log_betas:
                log_beta.copy_(log_beta.log_softmax(0))

    def to_save(self) -> dict[str, Any]:
        """Return the values."""
        return {"log_alphas": self.log_alphas.detach(), "log_betas": [beta.detach() for beta in self.log_betas]}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take up what `to_save` gave; a missing part is a `KeyError`."""
        with torch.no_grad():
            self.log_alphas.copy_(saved["log_alphas"])
            for own, value in zip(self.log_betas, saved["log_betas"], strict=True):
                own.copy_(value)


class ArchitectureOptimizer:
    """
    Adam on the architecture parameters behind a clipped gradient; nothing else gets a gradient from its loss.

    Args:
        team: Those who take the same step, each with a loss of its own images: it goes downhill on the mean of their losses.
    """

    def __init__(self, architecture: Architecture, params: ArchitectureParams, *, team: Team = ALONE) -> None:
        self._architecture, self._clip, self._team = architecture, params.clip, team
        self._adam = EagerAdam(
            architecture.parameters(),
            lr=params.learning_rate,
            betas=(params.beta1, params.beta2),
            weight_decay=params.weight_decay,
            fused=True,
        )

    def step(self, loss: Float[Tensor, ""], told: Float[Tensor, "*any"] | None = None) -> Float[Tensor, "*any"]:
        """Take one step downhill on `loss`, and return the team's mean of `told`, or of the loss; asks the device for nothing."""
        parameters = self._architecture.parameters()
        self._adam.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)  # type: ignore[no-untyped-call] # torch gives it no types
        mean = self._team.average_gradients(parameters, loss if told is None else told)
        torch.nn.utils.clip_grad_norm_(parameters, self._clip, foreach=True)
        self._adam.step()
        self._architecture.renormalise()
        return mean


def chosen_ops(log_alphas: Float[Tensor, "place op"]) -> list[int]:
    """Return the number of the most likely op at each place."""
    return [int(op) for op in log_alphas.argmax(1).tolist()]


def chosen_depths(log_betas: Sequence[Float[Tensor, " _"]]) -> list[int]:
    """Return the depth of each network stage: the most likely one, or the full one where none is learned."""
    if not log_betas:
        return list(STAGE_DEPTHS)
    return [int(log_beta.argmax()) + 1 for log_beta in log_betas]


def kept_places(depths: Sequence[int]) -> list[int]:
    """Return the numbers of the places that remain at these depths of the network stages."""
    return [number for number, place in enumerate(PLACES) if place.block < depths[place.stage - 1]]


def derive(
    ops: Sequence[OpName], choices: Sequence[int], depths: Sequence[int], widths: Sequence[Sequence[int]]
) -> Genotype:
    """
    Return the genotype of the most likely architecture.

    Args:
        ops: Candidates, in the order of the alphas.

        choices: The number of the op at each place, kept or not.

        depths: Of each network stage; later blocks are dropped.

        widths: Mid channels of every candidate, place x op.
    """
    stages: list[list[BlockChoice]] = [[] for _ in STAGE_DEPTHS]
    for place in kept_places(depths):
        op = choices[place]
        stages[PLACES[place].stage - 1].append(BlockChoice(op=ops[op], mid_channels=widths[place][op]))
    return Genotype(stages=tuple(tuple(blocks) for blocks in stages))


def scale_to_target(
    net: NetLatency,
    ops: Sequence[OpName],
    choices: Sequence[int],
    depths: Sequence[int],
    widths: Sequence[Sequence[int]],
    *,
    target_ms: float,
    width_multiple: int,
) -> dict[int, tuple[int, int]]:
    """
    Scale the derived net's widths to the target, and return place -> (number of the op, its new width).

    Only the ops of the derived net are concerned, and only at places that the bounded net has.
    """
    places = [place for place in kept_places(depths) if place in net.places()]
    blocks = []
    for place in places:
        least, most = elastic_bounds(place, ops[choices[place]], width_multiple=width_multiple)
        width = widths[place][choices[place]]
        blocks.append(ElasticBlock(stage=PLACES[place].stage, width=width, least=least, most=most))

    def latency_ms(candidates: Sequence[int]) -> float:
        return net.total([(p, ops[choices[p]], width) for p, width in zip(places, candidates, strict=True)])

    found = scale_widths(blocks, latency_ms, target_ms=target_ms, width_multiple=width_multiple)
    return {place: (choices[place], width) for place, width in zip(places, found, strict=True)}
