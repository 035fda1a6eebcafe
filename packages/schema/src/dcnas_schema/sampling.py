"""Random genotypes: drawn so that nets from the smallest to the largest of the space occur. No torch, for an edge box may lack it."""

import math
from collections.abc import Sequence

import numpy as np

from dcnas_harness.errors import BadInputError
from dcnas_schema.genotype import BlockChoice, Genotype
from dcnas_schema.space import OPS, PLACES, OpName, Place, width_bounds


def random_genotype(
    generator: np.random.Generator, *, ops: Sequence[OpName], width_multiple: int = 8, spread: float = 0.2
) -> Genotype:
    """
    Draw a genotype of full depth.

    The net's size u is drawn first, uniform on [0, 1], so that nets from the smallest to the greatest of the space occur; drawing every
    block alone would give middling nets only. A block then has an e6 rather than an e3 op with probability u, one of those in `ops` with
    equal chance, and the width at position u of its bounds, plus noise.

    Args:
        generator: Its state decides everything.

        ops: Candidates to draw from.

        width_multiple: Every width is a multiple of this, in channels.

        spread: Standard deviation of the width's position in its bounds, which are 0 and 1.

    Raises:
        BadInputError: There are no ops, or no multiple of `width_multiple` lies inside the bounds of a block.
    """
    if not ops:
        raise BadInputError("no candidate ops to draw from", remedy=f"name some of {', '.join(OPS)}")
    size = generator.random()
    chosen: list[list[BlockChoice]] = [[] for _ in range(PLACES[-1].stage)]
    for place in PLACES:
        op = _random_op(generator, ops, size)
        position = min(max(size + spread * float(generator.standard_normal()), 0.0), 1.0)
        chosen[place.stage - 1].append(BlockChoice(op=op, mid_channels=_width_at(position, place, op, width_multiple)))
    return Genotype(stages=tuple(tuple(blocks) for blocks in chosen))


def _random_op(generator: np.random.Generator, ops: Sequence[OpName], size: float) -> OpName:
    """Return an op of the greater expand ratio with probability `size`; the same number of draws whatever `ops` are."""
    wide, pick = (float(value) for value in generator.random(2))
    ratios = sorted({OPS[op].expand_ratio for op in ops})
    ratio = ratios[-1] if wide < size else ratios[0]
    among = [op for op in ops if OPS[op].expand_ratio == ratio]
    return among[int(pick * len(among))]


def _width_at(position: float, place: Place, op: OpName, multiple: int) -> int:
    least, greatest = width_bounds(place.in_channels, OPS[op])
    low, high = math.ceil(least / multiple), greatest // multiple
    if low > high:
        raise BadInputError(
            f"no multiple of {multiple} lies between {least} and {greatest}, the widths of {op}",
            where=f"network stage {place.stage} block {place.block}",
            remedy="take a smaller width multiple",
        )
    return multiple * round(low + position * (high - low))
