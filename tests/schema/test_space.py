"""The search space: its places, ops and widths are those of the layer table, and its tables agree with one another."""

import itertools

import pytest

from dcnas_schema.space import (
    DECODER_CHANNELS,
    OP_SETS,
    OPS,
    PLACES,
    SECOND_STEM_CHANNELS,
    SHARED_STAGES,
    SKIP_CHANNELS,
    SMALLEST_INPUT,
    STRIDE,
    Place,
    padded,
    se_channels,
    width_bounds,
)

# TF-NAS's layer table: network stage, blocks, channels before and after, stride, activation, pixels of a 224-pixel image before.
TABLE = [
    (1, 2, 16, 24, 2, "relu", 112),
    (2, 3, 24, 40, 2, "swish", 56),
    (3, 4, 40, 80, 2, "swish", 28),
    (4, 4, 80, 112, 1, "swish", 14),
    (5, 4, 112, 192, 2, "swish", 14),
    (6, 1, 192, 320, 1, "swish", 7),
]
# Ops in the order of their index: kernel, starting expand ratio, squeeze.
OP_TABLE = [
    *((3, 3, False), (3, 6, False), (5, 3, False), (5, 6, False)),
    *((3, 3, True), (3, 6, True), (5, 3, True), (5, 6, True)),
]


def test_the_places_are_those_of_the_layer_table() -> None:
    """18 places in order; the first of a network stage changes channels and resolution, the others keep both."""
    expected = []
    for stage, blocks, before, after, stride, activation, pixels in TABLE:
        expected.append((stage, 0, before, after, stride, activation, pixels))
        expected += [(stage, block, after, after, 1, activation, pixels // stride) for block in range(1, blocks)]
    assert len(PLACES) == 18
    assert [
        (p.stage, p.block, p.in_channels, p.out_channels, p.stride, p.activation, 224 // p.divisor) for p in PLACES
    ] == expected


def test_each_place_takes_what_the_place_before_gives() -> None:
    """Channels and resolution run on from one place to the next."""
    assert PLACES[0].in_channels == SECOND_STEM_CHANNELS
    for before, after in itertools.pairwise(PLACES):
        assert before.out_channels == after.in_channels
        assert before.divisor * before.stride == after.divisor


def test_the_ops_stand_in_the_order_of_their_index() -> None:
    """Eight ops, named after kernel, expand ratio and squeeze, the four without squeeze first."""
    assert [(op.kernel_size, op.expand_ratio, op.se) for op in OPS.values()] == OP_TABLE
    for name, op in OPS.items():
        assert name == op.name == f"k{op.kernel_size}_e{op.expand_ratio}{'_se' if op.se else ''}"


def test_smaller_op_sets_are_contained_in_larger_ones() -> None:
    """The sets have 4, 6 and 8 ops; that of four has no squeeze."""
    assert {size: len(ops) for size, ops in OP_SETS.items()} == {4: 4, 6: 6, 8: 8}
    assert set(OP_SETS[4]) < set(OP_SETS[6]) < set(OP_SETS[8]) == set(OPS)
    assert not any(OPS[op].se for op in OP_SETS[4])


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"stage{place.stage}_block{place.block}")
def test_widths_run_from_twice_to_eight_times_the_input(place: Place) -> None:
    """An e3 op is 2 to 4 times as wide as its input, an e6 op 4 to 8 times: together they leave no gap."""
    channels = place.in_channels
    for op in OPS.values():
        low, high = (2, 4) if op.expand_ratio == 3 else (4, 8)
        assert width_bounds(channels, op) == (low * channels, high * channels)


def test_the_squeeze_is_as_wide_as_the_input_or_twice() -> None:
    """The input's channels for e3, twice those for e6, nothing without squeeze."""
    assert [se_channels(40, op) for op in OPS.values()] == [0, 0, 0, 0, 40, 80, 40, 80]


def test_the_decoder_joins_maps_that_the_encoder_has() -> None:
    """Each level joins as many channels as the encoder gives at its resolution; four doublings undo the stride."""
    channels = {place.divisor * place.stride: place.out_channels for place in PLACES if place.stage <= SHARED_STAGES}
    channels[2] = SECOND_STEM_CHANNELS
    joined = [channels[divisor] for divisor in (8, 4, 2)]
    assert [*joined, 0] == list(SKIP_CHANNELS)
    assert len(DECODER_CHANNELS) == len(SKIP_CHANNELS)
    assert 2 ** len(DECODER_CHANNELS) == STRIDE


@pytest.mark.parametrize(("size", "large"), [(1, 16), (32, 32), (33, 48), (47, 48), (48, 48), (49, 64), (224, 224)])
def test_sizes_are_padded_to_the_next_multiple_of_the_stride(size: int, large: int) -> None:
    """What is a multiple already stays."""
    assert padded(size) == large


def test_the_smallest_input_leaves_a_pixel_at_the_end() -> None:
    """Nothing below 32 pixels has a whole pixel at the last network stage."""
    assert PLACES[-1].divisor * PLACES[-1].stride == SMALLEST_INPUT
