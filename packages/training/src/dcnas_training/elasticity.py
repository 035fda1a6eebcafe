"""
Elasticity-scaling: the widths of the derived net follow the target latency, network stage by network stage. Pure, no torch.

Source: TF-NAS (Hu et al. 2020, arXiv:2008.05314), as its published code does it. Two points are ours: widths move in multiples of
`width_multiple`, and a block's step is fixed at the beginning of each phase (its code is not explicit to us on the second).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcnas_harness.errors import BadInputError
from dcnas_schema.space import OPS, PLACES, OpName, width_bounds

Latency = Callable[[Sequence[int]], float]
"""Latency in ms of the net whose elastic blocks have these widths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ElasticBlock:
    """A block of the derived net whose width may change."""

    stage: int
    """Network stage, from 1."""
    width: int
    least: int
    most: int


def elastic_bounds(place: int, op: OpName, *, width_multiple: int) -> tuple[int, int]:
    """
    Return the least and greatest width of an op at a place that are multiples of `width_multiple`.

    Raises:
        BadInputError: There is none.
    """
    least, most = width_bounds(PLACES[place].in_channels, OPS[op])
    low, high = -(-least // width_multiple) * width_multiple, most // width_multiple * width_multiple
    if low > high:
        raise BadInputError(
            f"no multiple of {width_multiple} lies between {least} and {most}, the widths of {op} at place {place}",
            remedy="take a smaller width_multiple",
        )
    return low, high


def starting_widths(ops: Sequence[OpName], *, width_multiple: int) -> list[list[int]]:
    """Return the width of every candidate at the start, place x op: three quarters of the greatest, to the nearest multiple."""
    return [[_start(place, op, width_multiple) for op in ops] for place in range(len(PLACES))]


def scale_widths(
    blocks: Sequence[ElasticBlock], latency_ms: Latency, *, target_ms: float, width_multiple: int
) -> list[int]:
    """
    Return the blocks' new widths.

    Above the target all shrink together until the net is fast enough, or all are at their least. Then, or at once where the net is not
    above it, blocks grow as long as the net is not above the target: those of all network stages (only where nothing had to shrink), of
    all but the first, and so on to those of the last alone.

    Args:
        blocks: In the order of the forward pass.

        latency_ms: Of the net with these widths.
    """
    widths = [block.width for block in blocks]
    stages = sorted({block.stage for block in blocks})
    if latency_ms(widths) > target_ms:
        widths = _shrink(blocks, widths, latency_ms, target_ms, width_multiple)
        stages = stages[1:]
    for first in stages:
        widths = _expand(blocks, widths, first, latency_ms, target_ms, width_multiple)
    return widths


@dataclass(frozen=True, kw_only=True, slots=True)
class Switching:
    """The derived net whose ops may be switched: by numbers of places and candidates."""

    log_alphas: Sequence[Sequence[float]]
    """Place x op."""
    block_ms: Callable[[int, int, int], float]
    """Latency in ms of an op of a width at a place."""
    least: Callable[[int, int], int]
    """Least width of an op at a place."""


def switch_ops(
    net: Switching, blocks: dict[int, tuple[int, int]], total_ms: float, *, target_ms: float
) -> tuple[dict[int, tuple[int, int]], float]:
    """
    Return blocks of cheaper ops, and their net's latency in ms: at most the target, or the least that this finds.

    For a net that is above the target though its blocks are at their least widths. Step by step one place takes another op, at that op's
    least width: the one that gives up least log alpha for each ms that it wins. Ours; TF-NAS leaves such a net as it is.

    Args:
        blocks: Place -> op and width, of the places that the net has.

        total_ms: Latency of their net.
    """
    found, left = dict(blocks), total_ms
    while left > target_ms:
        steps = [
            (loss / won, won, place, op) for place in found for op, won, loss in _cheaper(net, place, *found[place])
        ]
        if not steps:
            break
        _, won, place, op = min(steps)
        found[place] = (op, net.least(place, op))
        left -= won
    return found, left


def _cheaper(net: Switching, place: int, op: int, width: int) -> list[tuple[int, float, float]]:
    """Return every op that is cheaper at its least width than `op` at `width`: its number, ms won and log alpha lost."""
    row, now = net.log_alphas[place], net.block_ms(place, op, width)
    wins = [(other, now - net.block_ms(place, other, net.least(place, other))) for other in range(len(row))]
    return [(other, won, row[op] - row[other]) for other, won in wins if won > 0]


def _shrink(
    blocks: Sequence[ElasticBlock], widths: list[int], latency_ms: Latency, target_ms: float, multiple: int
) -> list[int]:
    steps = _steps(widths, multiple)
    while latency_ms(widths) > target_ms and any(
        width > block.least for width, block in zip(widths, blocks, strict=True)
    ):
        widths = [max(width - step, block.least) for width, step, block in zip(widths, steps, blocks, strict=True)]
    return widths


def _expand(
    blocks: Sequence[ElasticBlock], widths: list[int], first: int, latency_ms: Latency, target_ms: float, multiple: int
) -> list[int]:
    """Grow the blocks of the network stages from `first` on; where all reach their bound the setting before is kept, as published."""
    growing = [number for number, block in enumerate(blocks) if block.stage >= first]
    steps = dict(zip(growing, _steps([widths[number] for number in growing], multiple), strict=True))
    while True:
        wider = [
            min(width + steps.get(number, 0), blocks[number].most) if number in steps else width
            for number, width in enumerate(widths)
        ]
        if latency_ms(wider) > target_ms or all(wider[number] == blocks[number].most for number in growing):
            return widths
        widths = wider


def _steps(widths: Sequence[int], multiple: int) -> list[int]:
    """Return each block's step: its width over the smallest, rounded, times the multiple."""
    smallest = min(widths)
    return [multiple * round(width / smallest) for width in widths]


def _start(place: int, op: OpName, multiple: int) -> int:
    least, most = elastic_bounds(place, op, width_multiple=multiple)
    _, greatest = width_bounds(PLACES[place].in_channels, OPS[op])
    return min(max(multiple * round(greatest * 3 / 4 / multiple), least), most)
