"""Random genotypes: drawn so that nets of all sizes and depths of the space occur. No torch, for an edge box may lack it."""

import math
from collections.abc import Sequence

import numpy as np

from dcnas_harness.errors import BadInputError
from dcnas_schema.genotype import STAGE_DEPTHS, BlockChoice, Genotype, is_full_depth
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


def random_nets(
    generator: np.random.Generator, count: int, *, ops: Sequence[OpName], width_multiple: int = 8
) -> tuple[Genotype, ...]:
    """
    Draw `count` genotypes by turns of full depth and of less, as searches find them: every second has been cut by `cut_depth`.

    Args:
        generator: Its state decides everything. `ops` and `width_multiple` as in `random_genotype`.
    """
    drawn = (random_genotype(generator, ops=ops, width_multiple=width_multiple) for _ in range(count))
    return tuple(cut_depth(generator, one) if number % 2 else one for number, one in enumerate(drawn))


def cut_depth(generator: np.random.Generator, genotype: Genotype, *, spread: float = 0.2) -> Genotype:
    """
    Return `genotype` with less depth: each network stage keeps its first blocks, at least one.

    The net's relative depth is drawn first, uniform on [0, 1], for the reason that sizes are; each network stage has it, plus noise of
    `spread`. Drawn anew until the encoder has lost a block, so that nets of every kind are shallower than `genotype`.

    Args:
        genotype: Of full depth.
    """
    while True:
        depth = generator.random()
        positions = np.clip(depth + spread * generator.standard_normal(len(STAGE_DEPTHS)), 0.0, 1.0)
        kept = [1 + round(float(at) * (most - 1)) for at, most in zip(positions, STAGE_DEPTHS, strict=True)]
        cut = Genotype(stages=tuple(blocks[:some] for blocks, some in zip(genotype.stages, kept, strict=True)))
        if not is_full_depth("d_nas", cut):
            return cut


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
