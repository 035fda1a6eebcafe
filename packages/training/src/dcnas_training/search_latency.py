"""
Latency in the search: that of the supernet, differentiable, and that of a discrete architecture, both from arrays in ms.

Source: TF-NAS (Hu et al. 2020, arXiv:2008.05314), bi-sampling and latency loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dcnas_schema.genotype import STAGE_DEPTHS
from dcnas_schema.space import OPS, PLACES, OpName, width_bounds

BlockLatency = Callable[[int, OpName, int], float]
"""Latency in ms of an op of a width at the place of a number, calibrated: what the block adds to the net's prediction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetLatency:
    """
    The predicted latency of the net that the target bounds, taken apart: rest_ms plus the sum of its blocks.

    The predictor's calibration is applied already: its scale to each block, scale and overhead to the rest.
    """

    block_ms: BlockLatency
    rest_ms: float
    """All that no choice changes: stems, head, decoder, the call's overhead."""
    stages: int
    """The net has the blocks of the first so many network stages: 4 in a denoiser, else 6."""

    def places(self) -> range:
        """Return the numbers of the places that the net has."""
        return range(sum(STAGE_DEPTHS[: self.stages]))

    def table(self, ops: Sequence[OpName], widths: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return ms of every candidate at its width, place x op; 0 at places that the net does not have."""
        inside = self.places()
        return [
            [self.block_ms(place, op, width) if place in inside else 0.0 for op, width in zip(ops, row, strict=True)]
            for place, row in enumerate(widths)
        ]

    def total(self, blocks: Sequence[tuple[int, OpName, int]]) -> float:
        """Return ms of the net of these blocks: place, op, width; those at places that the net does not have cost nothing."""
        inside = self.places()
        return self.rest_ms + sum(self.block_ms(*block) for block in blocks if block[0] in inside)


def expected_latency_ms(
    weights: Float[Tensor, "place op"],
    block_ms: Float[Tensor, "place op"],
    rest_ms: float,
    depth_weights: Sequence[Float[Tensor, " _"]] | None = None,
) -> Float[Tensor, ""]:
    """
    Return the supernet's expected latency in ms, differentiable in both kinds of weights.

    Args:
        weights: Of the candidates; rows sum to 1.

        block_ms: Calibrated latency of each at its current width; 0 where the bounded net has no such place.

        rest_ms: See `NetLatency`.

        depth_weights: Of a sink-connecting search: a network stage costs their mean over its cumulated latencies. `None`: all blocks run.
    """
    expected = (weights * block_ms).sum(1)
    if depth_weights is None:
        return expected.sum() + rest_ms
    stages = torch.split(expected, list(STAGE_DEPTHS))
    return (
        sum_of([(stage.cumsum(0) * depth).sum() for stage, depth in zip(stages, depth_weights, strict=True)]) + rest_ms
    )


def latency_loss(expected_ms: Float[Tensor, ""], target_ms: float) -> Float[Tensor, ""]:
    """Return |expected / target - 1|."""
    return (expected_ms / target_ms - 1).abs()


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of scalars."""
    return torch.stack(list(terms)).sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """The latencies in ms between which nets of a space lie."""

    least_ms: float
    greatest_ms: float

    def holds(self, target_ms: float) -> bool:
        """Whether a net of `target_ms` may exist."""
        return self.least_ms <= target_ms <= self.greatest_ms


def reach(net: NetLatency, ops: Sequence[OpName], *, width_multiple: int, elastic_depth: bool) -> Reach:
    """
    Return what the fastest and the slowest net of the space take.

    Args:
        ops: Candidates at every place.

        width_multiple: Widths are multiples of this.

        elastic_depth: Network stages may end after their first block (sink-connecting search).
    """
    least, greatest, first = 0.0, 0.0, 0
    for depth in STAGE_DEPTHS[: net.stages]:
        ends = [_ends(net, place, ops, width_multiple) for place in range(first, first + depth)]
        least += ends[0][0] if elastic_depth else sum(end[0] for end in ends)
        greatest += sum(end[1] for end in ends)
        first += depth
    return Reach(least_ms=net.rest_ms + least, greatest_ms=net.rest_ms + greatest)


def _ends(net: NetLatency, place: int, ops: Sequence[OpName], multiple: int) -> tuple[float, float]:
    found = []
    for op in ops:
        least, most = width_bounds(PLACES[place].in_channels, OPS[op])
        widths = range(-(-least // multiple) * multiple, most + 1, multiple)
        found += [net.block_ms(place, op, width) for width in widths]
    return min(found), max(found)
