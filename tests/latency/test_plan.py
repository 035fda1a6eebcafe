"""Which widths are measured: the curves of the space, the device's alignment, and the refinement where a line is not good enough."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from dcnas_latency.plan import (
    Alignment,
    Curve,
    classes_of,
    curves_of,
    detect_alignment,
    first_points,
    held_out_points,
    probe_runs,
    refine,
)
from dcnas_latency.table import LookupTable
from dcnas_schema.genotype import parts_of
from dcnas_schema.keys import Part
from dcnas_schema.sampling import random_genotype
from dcnas_schema.space import OP_SETS

Cost = Callable[[int], float]
KEY = curves_of(OP_SETS[4], height=64, width=64, width_multiple=8)[0].key
WIDE = Curve(key=KEY, widths=tuple(range(96, 193, 8)))


def space(ops: int = 8, width_multiple: int = 8) -> tuple[Curve, ...]:
    """Return the curves of a space for an image of 64 x 64 pixels."""
    return curves_of(OP_SETS[ops], height=64, width=64, width_multiple=width_multiple)


def generator(seed: int = 0) -> np.random.Generator:
    """Return the generator of a seed."""
    return np.random.Generator(np.random.PCG64(seed))


def measure(points: Sequence[Part], cost: Cost) -> dict[Part, float]:
    """Return what the points cost."""
    return {point: cost(point.mid_channels or 0) for point in points}


def planned(curve: Curve, cost: Cost, *, modulus: int, tolerance_pct: float) -> dict[Part, float]:
    """Return the points of one curve measured by a plan that ends of itself."""
    measured = measure(first_points([curve], modulus=modulus), cost)
    while more := refine([curve], measured, modulus=modulus, tolerance_pct=tolerance_pct, most=100):
        measured |= measure(more, cost)
    return measured


@pytest.mark.parametrize(("ops", "curves"), [(4, 22), (6, 44), (8, 66)])
def test_the_space_has_a_curve_for_each_key(ops: int, curves: int) -> None:
    """Eleven kinds of place, each with the ops that differ by more than their width: e3 and e6 without SE share a curve."""
    assert len(space(ops)) == curves


@pytest.mark.parametrize("ops", [4, 6, 8])
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_the_curves_hold_every_block_that_a_search_may_ask_for(ops: int, multiple: int) -> None:
    """Blocks of random nets of the space, at an image size that is padded, lie on a curve, at one of its widths."""
    widths = {curve.key: set(curve.widths) for curve in space(ops, multiple)}
    for seed in range(30):
        genotype = random_genotype(generator(seed), ops=OP_SETS[ops], width_multiple=multiple)
        for part in parts_of("dc_nas", genotype, height=63, width=50, classes=10):
            if part.mid_channels is not None:
                assert part.mid_channels in widths[part.key]


def test_the_published_recipe_has_2802_points() -> None:
    """Every eighth width of the eight-op space: what the adaptive plan saves is counted against this."""
    assert sum(len(curve.widths) for curve in space()) == 2802


def test_probes_are_runs_of_neighbours_spread_over_the_space() -> None:
    """Eight runs of nine neighbouring widths on eight curves, from the first to the last, not all at the narrow end."""
    curves = space()
    widths = {curve.key: curve.widths for curve in curves}
    runs = probe_runs(curves)
    assert [len(run) for run in runs] == [9] * 8
    keys = [run[0].key for run in runs]
    assert len(set(keys)) == 8
    starts = []
    for run in runs:
        assert {part.key for part in run} == {run[0].key}
        numbers = [widths[run[0].key].index(part.mid_channels or 0) for part in run]
        assert numbers == list(range(numbers[0], numbers[0] + 9))
        starts.append(numbers[0] / (len(widths[run[0].key]) - 9))
    assert min(starts) == 0.0
    assert max(starts) == 1.0


def detected(modulus: int | None, *, gain: float = 0.05, noise: float = 0.0, seed: int = 0) -> Alignment:
    """Return what the probes tell of a device whose multiples of `modulus` run faster by `gain`."""
    runs, random = probe_runs(space()), generator(seed)

    def cost(width: int) -> float:
        aligned = modulus is not None and width % modulus == 0
        return (0.1 + 0.004 * width) * (1 - gain * aligned) * math.exp(noise * random.standard_normal())

    measured = {part: cost(part.mid_channels or 0) for run in runs for part in run}
    return detect_alignment(runs, measured, width_multiple=8)


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("modulus", [16, 32, 64])
def test_a_favoured_modulus_is_found(modulus: int, noise: float) -> None:
    """Steps at multiples of 16, 32 or 64 are told apart, with noise of 1 % too, and their size is right."""
    for seed in range(10 if noise else 1):
        found = detected(modulus, noise=noise, seed=seed)
        assert found.modulus == modulus
        assert found.gain_pct == pytest.approx(5.0, abs=0.5 if noise == 0 else 1.5)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_no_modulus_is_found_where_there_is_none(noise: float) -> None:
    """A plain line, noisy or not, is not taken for steps; nor is a device taken that is slower at multiples."""
    for seed in range(40 if noise else 1):
        assert detected(None, noise=noise, seed=seed) == Alignment(modulus=8, gain_pct=0.0)
    assert detected(16, gain=-0.05).modulus == 8


def test_a_step_too_small_to_matter_is_left_alone() -> None:
    """A tenth of a per cent is not worth a class of its own."""
    assert detected(16, gain=0.001).modulus == 8


def test_a_plan_begins_with_ends_and_middle_of_each_class() -> None:
    """Widths 96 to 192: the multiples of 16 and the others have three points each; without an alignment there are three in all."""
    apart = [part.mid_channels for part in first_points([WIDE], modulus=16)]
    assert apart == [96, 144, 192, 104, 152, 184]
    assert [part.mid_channels for part in first_points([WIDE], modulus=8)] == [96, 144, 192]
    assert first_points([Curve(key=KEY, widths=(16,))], modulus=16) == [Part(KEY, 16)]


def kinked(width: int) -> float:
    """Cost that rises three times as steeply beyond 128 channels, with multiples of 16 running 5 % faster."""
    return (1.0 + 0.01 * (width - 96) + 0.02 * max(width - 128, 0)) * (0.95 if width % 16 == 0 else 1.0)


@pytest.mark.parametrize("tolerance_pct", [0.5, 2.0])
def test_a_kinked_curve_is_refined_until_it_is_good_enough(tolerance_pct: float) -> None:
    """Interpolated at every width, the table of the plan's points is off by no more than the tolerance."""
    curve = Curve(key=KEY, widths=tuple(range(96, 577, 8)))
    measured = planned(curve, kinked, modulus=16, tolerance_pct=tolerance_pct)
    table = LookupTable(measured, modulus=16)
    worst = max(abs(table.lookup(Part(KEY, width)) / kinked(width) - 1) for width in curve.widths)
    assert 100 * worst <= tolerance_pct
    assert len(measured) < len(curve.widths) / 2


def test_a_processor_that_computes_in_sixteens_needs_six_points_a_curve() -> None:
    """Where every begun sixteen costs a whole one, the modulus is found, and then both classes are straight."""

    def cost(width: int) -> float:
        return 0.1 + 0.004 * 16 * math.ceil(width / 16)

    runs = probe_runs(space())
    probes = measure([part for run in runs for part in run], cost)
    assert detect_alignment(runs, probes, width_multiple=8).modulus == 16
    measured = planned(WIDE, cost, modulus=16, tolerance_pct=0.1)
    assert len(measured) == 6
    table = LookupTable(measured, modulus=16)
    assert all(table.lookup(Part(KEY, width)) == pytest.approx(cost(width)) for width in WIDE.widths)


@pytest.mark.parametrize("noise", [0.0, 0.01])
@pytest.mark.parametrize("block", [32, 64])
def test_a_staircase_is_told_from_steps_at_multiples(block: int, noise: float) -> None:
    """Where every begun 32 or 64 costs a whole one, that is found, with noise of 1 % too, and then the steps are straight."""
    runs = probe_runs(space())
    for seed in range(10 if noise else 1):
        random = generator(seed)

        def cost(width: int, random: np.random.Generator = random) -> float:
            return (0.1 + 0.004 * block * math.ceil(width / block)) * math.exp(noise * random.standard_normal())

        probes = measure([part for run in runs for part in run], cost)
        found = detect_alignment(runs, probes, width_multiple=8)
        assert (found.stairs, found.modulus, found.gain_pct) == (True, block, 0.0)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_level_device_has_no_stairs(noise: float) -> None:
    """Where no width costs more than another, as where launches take all the time, no step is made up."""
    runs = probe_runs(space())
    for seed in range(40 if noise else 1):
        random = generator(seed)
        probes = {part: math.exp(noise * random.standard_normal()) for run in runs for part in run}
        assert detect_alignment(runs, probes, width_multiple=8) == Alignment(modulus=8, gain_pct=0.0)


def test_a_staircase_has_one_point_a_step() -> None:
    """The greatest width of each step stands for it, the last step cut off by the range too; what lies in line is not refined."""
    assert classes_of(WIDE, 64, stairs=True) == [[128, 192]]
    curve = Curve(key=KEY, widths=tuple(range(96, 361, 8)))
    assert classes_of(curve, 64, stairs=True) == [[128, 192, 256, 320, 360]]
    assert [part.mid_channels for part in first_points([curve], modulus=64, stairs=True)] == [128, 256, 360]
    level = measure([Part(KEY, width) for width in (128, 256, 360)], lambda width: 1.0 + math.ceil(width / 64))
    assert refine([curve], level, modulus=64, stairs=True, tolerance_pct=0.1, most=9) == []
    level[Part(KEY, 256)] *= 1.2
    wanted = refine([curve], level, modulus=64, stairs=True, tolerance_pct=0.1, most=9)
    assert sorted(part.mid_channels or 0 for part in wanted) == [192, 320]


def test_a_straight_curve_is_not_refined() -> None:
    """The ends and the middle of each class were enough."""
    points = measure(first_points([WIDE], modulus=16), lambda width: 1.0 + 0.01 * width)
    assert refine([WIDE], points, modulus=16, tolerance_pct=0.1, most=100) == []


def test_refinement_adds_points_beside_the_kink_only() -> None:
    """Both gaps beside a point that lies off its line are halved, within its class; the class that is straight gets none."""
    points = measure([Part(KEY, width) for width in (96, 144, 192)], kinked)
    points |= measure([Part(KEY, width) for width in (104, 152, 184)], lambda width: width / 100)
    wanted = refine([WIDE], points, modulus=16, tolerance_pct=1.0, most=100)
    assert sorted(part.mid_channels or 0 for part in wanted) == [112, 160]


def test_the_worst_gaps_come_first_when_points_are_few() -> None:
    """Of two curves the one further off is refined; a spent plan gets nothing, not even when it is overdrawn."""
    other = Curve(key=space()[-1].key, widths=WIDE.widths)
    points = {}
    for curve, bend in ((WIDE, 0.1), (other, 0.2)):
        points |= {Part(curve.key, width): 1.0 + bend * (width == 144) for width in (96, 144, 192)}
    wanted = refine([WIDE, other], points, modulus=8, tolerance_pct=1.0, most=2)
    assert [part.key for part in wanted] == [other.key] * 2
    assert refine([WIDE, other], points, modulus=8, tolerance_pct=1.0, most=0) == []
    assert refine([WIDE, other], points, modulus=8, tolerance_pct=1.0, most=-1) == []


def test_held_out_points_are_none_of_the_plan() -> None:
    """They are new, distinct, spread over the curves, as many as asked for, and decided by the generator alone."""
    curves = space()
    plan = dict.fromkeys(first_points(curves, modulus=16), 0.0)
    points = held_out_points(curves, plan, count=60, generator=generator())
    assert len(set(points)) == len(points) == 60
    assert not set(points) & set(plan)
    assert len({part.key for part in points}) == 60
    widths = {curve.key: curve.widths for curve in curves}
    assert all(part.mid_channels in widths[part.key] for part in points)
    assert points == held_out_points(curves, plan, count=60, generator=generator())
    assert points != held_out_points(curves, plan, count=60, generator=generator(1))


@pytest.mark.parametrize(("left", "expected"), [(0, 0), (3, 3)])
def test_fewer_points_are_held_out_where_fewer_are_left(left: int, expected: int) -> None:
    """When the plan measured nearly all widths, what is left is held out, and nothing where nothing is."""
    plan = {Part(KEY, width): 1.0 for width in WIDE.widths[left:]}
    points = held_out_points([WIDE], plan, count=50, generator=generator())
    assert len(points) == expected


def test_every_width_is_in_one_class() -> None:
    """The classes of a curve part its widths; one that would be empty is left out."""
    aligned, others = classes_of(WIDE, 16)
    assert sorted(aligned + others) == list(WIDE.widths)
    assert all(width % 16 == 0 for width in aligned)
    assert classes_of(WIDE, 8) == [list(WIDE.widths)]
