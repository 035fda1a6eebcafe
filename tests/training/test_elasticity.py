"""Elasticity-scaling against a naive one that keeps the net in a dict and walks it channel by channel."""

import random
from collections.abc import Sequence
from functools import partial

import pytest

from dcnas_harness.errors import BadInputError
from dcnas_schema.space import OP_SETS, PLACES
from dcnas_training.elasticity import (
    ElasticBlock,
    Switching,
    elastic_bounds,
    scale_widths,
    starting_widths,
    switch_ops,
)


class Naive:
    """The published procedure, written down as its description reads."""

    def __init__(self, blocks: list[ElasticBlock], costs: list[float], target: float, multiple: int) -> None:
        self.mid = {n: block.width for n, block in enumerate(blocks)}
        self.bounds = {n: (block.least, block.most) for n, block in enumerate(blocks)}
        self.stage = {n: block.stage for n, block in enumerate(blocks)}
        self.costs, self.target, self.multiple = costs, target, multiple

    def latency(self, mid: dict[int, int]) -> float:
        """Return the sum over blocks."""
        return 1.0 + sum(self.costs[n] * mid[n] for n in mid)

    def moved(self, listed: list[int], ratios: dict[int, int], sign: int) -> dict[int, int]:
        """Return the widths after one step of the listed blocks."""
        new = dict(self.mid)
        for n in listed:
            for _ in range(ratios[n] * self.multiple):
                if self.bounds[n][0] <= new[n] + sign <= self.bounds[n][1]:
                    new[n] += sign
        return new

    def ratios(self, listed: list[int]) -> dict[int, int]:
        """Return each listed block's width over the smallest of them, rounded."""
        return {n: round(self.mid[n] / min(self.mid[m] for m in listed)) for n in listed}

    def run(self) -> list[int]:
        """Shrink where needed, then expand network stage by network stage."""
        every = list(self.mid)
        begin = 1
        if self.latency(self.mid) > self.target:
            begin = 2
            ratios = self.ratios(every)
            while self.latency(self.mid) > self.target:
                before = self.mid
                self.mid = self.moved(every, ratios, -1)
                if before == self.mid:
                    break
        for first in range(begin, 7):
            listed = [n for n in every if self.stage[n] >= first]
            if not listed:
                continue
            ratios = self.ratios(listed)
            while True:
                new = self.moved(listed, ratios, +1)
                if self.latency(new) > self.target:
                    break
                if all(new[n] == self.bounds[n][1] for n in listed):
                    break
                self.mid = new
        return [self.mid[n] for n in every]


def random_blocks(chance: random.Random, multiple: int) -> list[ElasticBlock]:
    """Return a net of the space with random ops, widths and depths."""
    blocks = []
    depths = [chance.randint(1, sum(place.stage == stage for place in PLACES)) for stage in range(1, 7)]
    for number, place in enumerate(PLACES):
        if place.block < depths[place.stage - 1]:
            least, most = elastic_bounds(number, chance.choice(OP_SETS[8]), width_multiple=multiple)
            width = chance.randrange(least, most + 1, multiple)
            blocks.append(ElasticBlock(stage=place.stage, width=width, least=least, most=most))
    return blocks


def total(costs: Sequence[float], widths: Sequence[int]) -> float:
    """Return the latency of a net whose channels cost so much each."""
    return 1.0 + sum(cost * width for cost, width in zip(costs, widths, strict=True))


@pytest.mark.parametrize("multiple", [1, 8])
def test_scaling_is_the_naive_procedure(multiple: int) -> None:
    """For random nets, costs and targets, from unreachably fast to unreachably slow, every width is the naive one's."""
    chance = random.Random(multiple)
    for _ in range(30):
        blocks = random_blocks(chance, multiple)
        costs = [chance.uniform(0.001, 0.01) for _ in blocks]
        least, most = (1 + sum(c * w for c, w in zip(costs, ws, strict=True)) for ws in _ends(blocks))
        target = least + chance.uniform(-0.2, 1.2) * (most - least)

        latency = partial(total, costs)
        found = scale_widths(blocks, latency, target_ms=target, width_multiple=multiple)
        assert found == Naive(blocks, costs, target, multiple).run()


def test_a_reachable_target_is_met_from_below_and_nearly() -> None:
    """Whatever the start, the scaled net is not above a target inside its range, and at most one step of a block below."""
    blocks = [ElasticBlock(stage=place.stage, width=6 * 16, least=64, most=128) for place in PLACES]
    for target in (1 + 0.01 * 18 * width for width in range(66, 120, 7)):
        widths = scale_widths(blocks, lambda ws: 1 + 0.01 * sum(ws), target_ms=target, width_multiple=1)
        latency = 1 + 0.01 * sum(widths)
        assert target - 0.02 < latency <= target


def test_an_unreachable_target_leaves_the_nearest_net() -> None:
    """Below everything all blocks end at their least; above everything each at its greatest, or the step before, as published."""
    blocks = [ElasticBlock(stage=place.stage, width=96, least=64, most=128) for place in PLACES]
    assert scale_widths(blocks, lambda ws: float(sum(ws)), target_ms=1.0, width_multiple=8) == [64] * 18
    assert scale_widths(blocks, lambda ws: float(sum(ws)), target_ms=1e9, width_multiple=8) == [120] * 18


def test_narrow_blocks_change_less_than_wide_ones() -> None:
    """A block three times as wide as the narrowest moves three channels a step."""
    blocks = [ElasticBlock(stage=1, width=width, least=10, most=1000) for width in (100, 300, 149, 151)]
    assert scale_widths(blocks, lambda ws: float(ws[0]), target_ms=105.0, width_multiple=1) == [105, 315, 154, 161]


def test_starting_widths_are_three_quarters() -> None:
    """Every op starts at its expand ratio, which is 3/4 of the greatest width, in multiples inside its bounds."""
    for multiple in (1, 8):
        rows = starting_widths(OP_SETS[8], width_multiple=multiple)
        assert rows == [[place.in_channels * ratio for ratio in (3, 6) * 4] for place in PLACES]
    for number, row in enumerate(starting_widths(OP_SETS[4], width_multiple=32)):
        for op, width in zip(OP_SETS[4], row, strict=True):
            least, most = elastic_bounds(number, op, width_multiple=32)
            assert width % 32 == 0
            assert least <= width <= most


def test_a_width_multiple_that_fits_nowhere_is_refused() -> None:
    """Where no multiple lies between the bounds, the error names them and the place."""
    with pytest.raises(BadInputError, match=r"no multiple of 1000 lies between 32 and 64"):
        elastic_bounds(0, "k3_e3", width_multiple=1000)


def _ends(blocks: list[ElasticBlock]) -> tuple[list[int], list[int]]:
    return [block.least for block in blocks], [block.most for block in blocks]


def switching(log_alphas: list[list[float]], ms: list[list[float]]) -> Switching:
    """Return places whose ops cost `ms` at their least width, 8, and twice as much at 16."""
    return Switching(log_alphas=log_alphas, block_ms=lambda p, o, w: ms[p][o] * w / 8, least=lambda _p, _o: 8)


def test_ops_are_switched_where_that_gives_up_least_for_what_it_wins() -> None:
    """Of two places that may win 2 ms the one with the nearer second choice switches, and no more than are needed."""
    net = switching([[0.0, -1.0], [0.0, -3.0]], [[3.0, 1.0], [3.0, 1.0]])
    assert switch_ops(net, {0: (0, 8), 1: (0, 8)}, 6.0, target_ms=4.5) == ({0: (1, 8), 1: (0, 8)}, 4.0)
    assert switch_ops(net, {0: (0, 8), 1: (0, 8)}, 6.0, target_ms=2.0) == ({0: (1, 8), 1: (1, 8)}, 2.0)
    assert switch_ops(net, {0: (0, 8), 1: (0, 8)}, 6.0, target_ms=6.0) == ({0: (0, 8), 1: (0, 8)}, 6.0)


def test_where_no_op_is_cheaper_the_least_is_what_is_left() -> None:
    """A target below the space is not met: what is returned says by how much."""
    net = switching([[0.0, -1.0]], [[1.0, 2.0]])
    assert switch_ops(net, {0: (0, 8)}, 1.5, target_ms=1.0) == ({0: (0, 8)}, 1.5)
