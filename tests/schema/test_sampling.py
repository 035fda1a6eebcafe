"""Random genotypes: what they reach of the space, and what decides them."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dcnas_harness.errors import BadInputError
from dcnas_schema.genotype import STAGE_DEPTHS, Genotype, is_full_depth
from dcnas_schema.sampling import cut_depth, random_genotype, random_nets
from dcnas_schema.space import NET_KINDS, OP_SETS, OPS, OpName, width_bounds

MIXED: tuple[OpName, ...] = ("k3_e3", "k5_e6_se")
SUBSETS: list[tuple[OpName, ...]] = [*OP_SETS.values(), ("k3_e3",), ("k5_e6_se",), ("k3_e3_se", "k5_e3"), MIXED]


def drawn(seed: int = 0, ops: tuple[OpName, ...] = MIXED, **keywords: Any) -> Genotype:
    """Return the random genotype of a seed."""
    return random_genotype(np.random.Generator(np.random.PCG64(seed)), ops=ops, **keywords)


def size_of(genotype: Genotype, ops: tuple[OpName, ...]) -> float:
    """Return where the sum of a genotype's widths lies between the least and the greatest of the space: 0 to 1."""
    least = greatest = total = 0
    for place, choice in genotype.placed():
        bounds = [width_bounds(place.in_channels, OPS[op]) for op in ops]
        least += min(low for low, _ in bounds)
        greatest += max(high for _, high in bounds)
        total += choice.mid_channels
    return (total - least) / (greatest - least)


@pytest.mark.parametrize("ops", SUBSETS, ids="+".join)
def test_random_genotypes_fill_the_space_from_end_to_end(ops: tuple[OpName, ...]) -> None:
    """Nets near the smallest, near the greatest and in each quarter between occur, from the given ops, all of which occur."""
    genotypes = [drawn(seed, ops) for seed in range(150)]
    assert {choice.op for genotype in genotypes for _, choice in genotype.placed()} == set(ops)
    assert all(tuple(map(len, genotype.stages)) == STAGE_DEPTHS for genotype in genotypes)
    sizes = [size_of(genotype, ops) for genotype in genotypes]
    assert min(sizes) < 0.1
    assert max(sizes) > 0.9
    for quarter in range(4):
        assert sum(quarter <= 4 * size <= quarter + 1 for size in sizes) > 15


@pytest.mark.parametrize("multiple", [1, 7, 8, 32])
def test_random_widths_are_multiples_inside_the_bounds(multiple: int) -> None:
    """Widths are multiples of what was asked for and reach the outermost multiples inside the bounds, which differ from them for 7."""
    genotypes = [drawn(seed, ("k3_e3",), width_multiple=multiple, spread=0.5) for seed in range(60)]
    for number, (place, _) in enumerate(genotypes[0].placed()):
        widths = [genotype.placed()[number][1].mid_channels for genotype in genotypes]
        least, greatest = width_bounds(place.in_channels, OPS["k3_e3"])
        assert all(width % multiple == 0 for width in widths)
        assert least <= min(widths) < least + multiple
        assert greatest - multiple < max(widths) <= greatest


def test_a_random_genotype_depends_on_the_generator_alone() -> None:
    """The same generator state gives the same genotype; drawing on gives another."""
    generator = np.random.Generator(np.random.PCG64(3))
    first, second = (random_genotype(generator, ops=MIXED) for _ in range(2))
    assert first == drawn(3)
    assert first != second


def test_blocks_of_one_random_genotype_differ_in_their_relative_width() -> None:
    """The spread makes widths vary from block to block; without it all blocks of a net lie at one position."""

    def positions(genotype: Genotype) -> list[float]:
        return [choice.mid_channels / place.in_channels for place, choice in genotype.placed()]

    level = positions(drawn(4, ("k3_e3",), width_multiple=1, spread=0.0))
    spread = positions(drawn(4, ("k3_e3",), width_multiple=1))
    assert max(level) - min(level) < 0.1
    assert max(spread) - min(spread) > 0.3


def depths_of(genotype: Genotype) -> tuple[int, ...]:
    """Return how many blocks each network stage has."""
    return tuple(map(len, genotype.stages))


def test_every_second_net_has_less_depth() -> None:
    """Full depth and less come by turns, as many nets as asked for; the latter lack a block of the encoder, so of every kind of net."""
    nets = random_nets(np.random.Generator(np.random.PCG64(0)), 9, ops=MIXED)
    for kind in NET_KINDS:
        assert [is_full_depth(kind, net) for net in nets] == [True, False] * 4 + [True]


def test_cut_nets_reach_every_depth_of_the_space() -> None:
    """From one block a network stage to a single block less than all, every number of blocks occurs, and no network stage is spared."""
    generator = np.random.Generator(np.random.PCG64(1))
    depths = [depths_of(cut_depth(generator, drawn(seed))) for seed in range(600)]
    assert {sum(found) for found in depths} == set(range(len(STAGE_DEPTHS), sum(STAGE_DEPTHS)))
    for number, most in enumerate(STAGE_DEPTHS):
        assert {found[number] for found in depths} == set(range(1, most + 1))


def test_a_cut_net_keeps_the_first_blocks_of_each_network_stage() -> None:
    """What a search with learned depth leaves out are the last ones; the blocks kept are those of the net that was cut."""
    whole = drawn(5)
    for seed in range(20):
        cut = cut_depth(np.random.Generator(np.random.PCG64(seed)), whole)
        assert cut != whole
        assert all(
            blocks == all_of_it[: len(blocks)] for blocks, all_of_it in zip(cut.stages, whole.stages, strict=True)
        )


def test_random_nets_depend_on_the_generator_alone() -> None:
    """The same state gives the same nets; drawing on gives others."""
    generator = np.random.Generator(np.random.PCG64(3))
    first, second = (random_nets(generator, 4, ops=MIXED) for _ in range(2))
    assert first == random_nets(np.random.Generator(np.random.PCG64(3)), 4, ops=MIXED)
    assert first != second


def test_depth_is_full_for_what_a_kind_of_net_has() -> None:
    """A genotype that lacks a block of network stage 5 alone is cut for classifiers and joint nets, whole for denoisers."""
    whole = drawn(0)
    cut = Genotype(stages=(*whole.stages[:4], whole.stages[4][:3], whole.stages[5]))
    assert [is_full_depth(kind, cut) for kind in NET_KINDS] == [False, True, False]


def test_an_impossible_draw_is_refused() -> None:
    """No ops, and a multiple that fits in no block's bounds, are refused with what is wrong."""
    with pytest.raises(BadInputError, match="no candidate ops"):
        drawn(0, ())
    with pytest.raises(BadInputError, match=r"no multiple of 100 lies between 32 and 64.*\n.*network stage 1 block 0"):
        drawn(0, ("k3_e3",), width_multiple=100)


def test_drawing_needs_no_torch() -> None:
    """An edge box draws its nets without torch."""
    code = "import sys, dcnas_schema.sampling; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
