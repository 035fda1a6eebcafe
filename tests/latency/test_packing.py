"""Packing: every point to be measured stands in some valid joint net, and there are no more nets than needed."""

import math
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pytest

from dcnas_latency.packing import pack, whole_net
from dcnas_latency.plan import curves_of, first_points, held_out_points
from dcnas_latency.rig import Subject
from dcnas_schema.genotype import Genotype, block_key, parts_of
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.sampling import random_genotype
from dcnas_schema.space import NET_KINDS, OP_SETS, OPS, PLACES, NetKind, width_bounds

SIZE, CLASSES = 64, 10


def packed(points: Iterable[Part], ops: int = 8) -> list[Subject]:
    """Return the nets that hold the points."""
    return pack(list(points), ops=OP_SETS[ops], height=SIZE, width=SIZE, classes=CLASSES)


def plan(ops: int = 8) -> list[Part]:
    """Return the first points of a plan and some held-out ones, in an order that follows no place."""
    curves = curves_of(OP_SETS[ops], height=SIZE, width=SIZE, width_multiple=8)
    random = np.random.Generator(np.random.PCG64(0))
    points = first_points(curves, modulus=16)
    points += held_out_points(curves, dict.fromkeys(points, 0.0), count=30, generator=random)
    return [points[i] for i in random.permutation(len(points))]


def homes() -> dict[LatencyKey, set[int]]:
    """Return the places at which each key of the space may stand."""
    found: dict[LatencyKey, set[int]] = defaultdict(set)
    for number, place in enumerate(PLACES):
        for op in OPS:
            found[block_key(place, op, SIZE, SIZE)].add(number)
    return found


@pytest.mark.parametrize("ops", [4, 6, 8])
def test_every_point_stands_in_some_net(ops: int) -> None:
    """All points of a plan occur, and nothing else does where every place has points."""
    points = plan(ops)
    blocks = {part for net in packed(points, ops) for part in net.parts if part.mid_channels is not None}
    assert blocks == set(points)


@pytest.mark.parametrize("ops", [4, 6, 8])
def test_every_net_is_a_joint_net_of_the_space(ops: int) -> None:
    """Each has a valid genotype of full depth from the ops given, and the parts that such a net consists of."""
    for net in packed(plan(ops), ops):
        assert net.kind == "dc_nas"
        assert net.genotype is not None
        assert Genotype.model_validate(net.genotype.model_dump()) == net.genotype
        assert {choice.op for _, choice in net.genotype.placed()} <= set(OP_SETS[ops])
        assert net.parts == parts_of("dc_nas", net.genotype, height=SIZE, width=SIZE, classes=CLASSES)


def test_there_are_as_many_nets_as_the_fullest_place_needs() -> None:
    """Places that share a key share its points evenly; the place with the most decides."""
    points, where = plan(), homes()
    load: dict[frozenset[int], int] = defaultdict(int)
    for part in points:
        load[frozenset(where[part.key])] += 1
    assert len(packed(points)) == max(math.ceil(count / len(places)) for places, count in load.items())


def test_a_single_point_makes_a_single_net() -> None:
    """The places that have none of it are filled with the narrowest block, so that the net is whole."""
    point = Part(block_key(PLACES[-1], "k5_e6_se", SIZE, SIZE), 1024)
    (net,) = packed([point])
    assert net.parts.count(point) == 1
    assert net.genotype is not None
    *others, last = net.genotype.placed()
    assert last[1].mid_channels == 1024
    assert all(choice.mid_channels == width_bounds(place.in_channels, OPS["k3_e3"])[0] for place, choice in others)


def test_places_that_share_a_key_repeat_its_points() -> None:
    """One point of the three equal places of network stage 4 stands at each of them: more samples of it, not other parts."""
    point = Part(block_key(PLACES[10], "k3_e3", SIZE, SIZE), 240)
    (net,) = packed([point])
    assert net.parts.count(point) == 3


def test_nothing_to_measure_makes_no_net() -> None:
    """Without points there are no nets."""
    assert packed([]) == []


def test_points_of_a_shared_curve_get_an_op_that_allows_their_width() -> None:
    """The curve of e3 and e6 is one key: narrow points become e3, wide ones e6, and both bounds are met."""
    key = block_key(PLACES[0], "k3_e3", SIZE, SIZE)
    ops = {}
    for net in packed([Part(key, width) for width in (32, 56, 72, 128)]):
        assert net.genotype is not None
        choice = net.genotype.stages[0][0]
        ops[choice.mid_channels] = choice.op
    assert ops == {32: "k3_e3", 56: "k3_e3", 72: "k3_e6", 128: "k3_e6"}


@pytest.mark.parametrize("kind", NET_KINDS)
def test_a_whole_net_has_the_parts_of_its_kind(kind: NetKind) -> None:
    """A random genotype becomes a subject of each kind."""
    genotype = random_genotype(np.random.Generator(np.random.PCG64(1)), ops=OP_SETS[8])
    net = whole_net(genotype, kind, height=50, width=33, classes=7)
    assert (net.kind, net.genotype) == (kind, genotype)
    assert net.parts[0].key.height == 64
    assert net.parts[0].key.width == 48
    assert any(part.key.part == "decoder" for part in net.parts) == (kind != "c_nas")
    assert [part.key.out_channels for part in net.parts if part.key.part == "head"] == [7] * (kind != "d_nas")
