"""The lookup table: interpolation within the alignment classes, fixed parts, and what it says of a part that nobody measured."""

from typing import Literal

import pytest

from dcnas_harness.errors import ExitCode
from dcnas_latency.table import LatencyKeyMissingError, LookupTable
from dcnas_schema.genotype import block_key, parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import Entry
from dcnas_schema.space import PLACES

KEY = block_key(PLACES[0], "k3_e3", 64, 64)
OTHER = block_key(PLACES[0], "k5_e3", 64, 64)
HEAD = parts_of("c_nas", uniform_genotype("k3_e3", 3), height=64, width=64, classes=10)[-1]


def table(points: dict[int, float], *, modulus: int = 16) -> LookupTable:
    """Return the table of one curve and of the head, which takes 0.5 ms."""
    return LookupTable({HEAD: 0.5, **{Part(KEY, width): ms for width, ms in points.items()}}, modulus=modulus)


def entry(part: Part, ms: float, role: Literal["plan", "held_out"]) -> Entry:
    """Return an entry whose samples all were `ms`."""
    return Entry(
        key=part.key,
        mid_channels=part.mid_channels,
        role=role,
        median_ms=ms,
        low_ms=ms,
        high_ms=ms,
        min_ms=ms,
        p90_ms=ms,
        mad_ms=0.0,
        raw=6,
        kept=6,
    )


@pytest.mark.parametrize(
    ("width", "ms"),
    [(32, 1.0), (64, 2.0), (48, 1.5), (40, 3.0), (56, 5.0), (44, 3.5), (60, 5.0), (36, 3.0)],
)
def test_each_alignment_class_is_interpolated_on_its_own(width: int, ms: float) -> None:
    """Multiples of 16 lie on their line, all other widths on theirs, and beyond the outermost point of a class its value holds."""
    assert table({32: 1.0, 64: 2.0, 40: 3.0, 56: 5.0}).lookup(Part(KEY, width)) == pytest.approx(ms)


@pytest.mark.parametrize(("width", "ms"), [(128, 2.0), (72, 2.0), (129, 3.0), (192, 3.0), (200, 4.0)])
def test_every_width_of_a_step_has_its_latency(width: int, ms: float) -> None:
    """On a staircase of 64 a width counts as its step: those not measured lie between their neighbours, two of one have their mean."""
    stairs = LookupTable({Part(KEY, 128): 1.9, Part(KEY, 72): 2.1, Part(KEY, 256): 4.0}, modulus=64, stairs=True)
    assert stairs.lookup(Part(KEY, width)) == pytest.approx(ms)


def test_the_order_in_which_points_come_does_not_matter() -> None:
    """A table given its points from the widest to the narrowest interpolates alike."""
    assert table({56: 5.0, 40: 3.0}).lookup(Part(KEY, 44)) == pytest.approx(3.5)


@pytest.mark.parametrize(("points", "width"), [({32: 1.0, 64: 2.0}, 40), ({40: 1.0, 72: 2.0}, 48)])
def test_a_class_without_a_point_borrows_the_other(points: dict[int, float], width: int) -> None:
    """Where only one alignment class was measured it serves both: a device without an alignment step has but one."""
    assert table(points).lookup(Part(KEY, width)) == pytest.approx(1.25)


def test_the_total_is_the_plain_sum() -> None:
    """A net with a part twice pays for it twice; parts without a width count by their key."""
    block = Part(KEY, 48)
    assert table({32: 1.0, 64: 2.0}).total([block, block, HEAD]) == pytest.approx(3.5)


def test_held_out_entries_stay_out_of_the_table() -> None:
    """A held-out point off the line does not bend it."""
    entries = [
        entry(Part(KEY, 32), 1.0, "plan"),
        entry(Part(KEY, 64), 2.0, "plan"),
        entry(Part(KEY, 48), 9.0, "held_out"),
    ]
    assert LookupTable.of(entries, modulus=16).lookup(Part(KEY, 48)) == pytest.approx(1.5)


@pytest.mark.parametrize("part", [Part(OTHER, 48), Part(KEY.model_copy(update={"height": 96}), 48)])
def test_a_missing_block_is_named_with_the_remedy(part: Part) -> None:
    """The error says which op at which size has no entry and how to get one; nothing is guessed from a neighbour."""
    with pytest.raises(LatencyKeyMissingError) as caught:
        table({32: 1.0}).total([HEAD, part])
    assert str(part.key) in str(caught.value)
    assert "dcnas profile" in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_a_missing_fixed_part_is_named_too() -> None:
    """A head of other classes is another part."""
    key = HEAD.key.model_copy(update={"out_channels": 11})
    with pytest.raises(LatencyKeyMissingError, match=r"head 1280->11 k1 s1 at 2x2"):
        table({}).lookup(Part(key, None))


def test_the_name_of_a_key_tells_what_it_is() -> None:
    """Squeeze and joined channels are named where there are any."""
    decoder = parts_of("d_nas", uniform_genotype("k3_e3", 3), height=64, width=64, classes=10)[-4]
    assert str(block_key(PLACES[2], "k5_e6_se", 64, 64)) == "block 24->40 k5 s2 se48 swish at 16x16"
    assert str(decoder.key) == "decoder 112->40 k3 s1 skip40 relu at 4x4"


@pytest.mark.parametrize("width", [24, 72])
def test_a_width_beyond_all_that_were_measured_is_refused(width: int) -> None:
    """Nothing is known there: the ends and the width are named, and how to get a wider table."""
    with pytest.raises(LatencyKeyMissingError, match=rf"widths 32 and 64 .* {width} lies beyond") as caught:
        table({32: 1.0, 64: 2.0}).lookup(Part(KEY, width))
    assert "width_multiple" in str(caught.value)
