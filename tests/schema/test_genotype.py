"""The genotype as a file: what is written is read back, what lies outside the space is refused; and the parts it gives."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dcnas_schema.genotype import STAGE_DEPTHS, BlockChoice, Genotype, block_key, parts_of, uniform_genotype
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.space import OPS, PLACES, NetKind, width_bounds

UNIFORM = uniform_genotype("k3_e6", 6)


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    """Any genotype of the space, shortened network stages included."""
    stages = []
    for stage, most in enumerate(STAGE_DEPTHS, start=1):
        blocks = []
        for place in [place for place in PLACES if place.stage == stage][: draw(st.integers(1, most))]:
            op = draw(st.sampled_from(sorted(OPS)))
            blocks.append(BlockChoice(op=op, mid_channels=draw(st.integers(*width_bounds(place.in_channels, OPS[op])))))
        stages.append(tuple(blocks))
    return Genotype(stages=tuple(stages))


def changed(path: tuple[str | int, ...], value: Any) -> str:
    """Return the JSON of a valid genotype with the value at `path` replaced."""
    raw = UNIFORM.model_dump(mode="json")
    at: Any = raw
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(raw)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(genotype=genotypes())
def test_what_is_written_is_read_back(genotype: Genotype) -> None:
    """Any genotype survives JSON, compares equal and hashes alike."""
    again = Genotype.model_validate_json(genotype.model_dump_json())
    assert again == genotype
    assert hash(again) == hash(genotype)


def test_the_json_reads_as_a_person_would_write_it() -> None:
    """Version, then network stages, each a list of op and width."""
    raw = json.loads(UNIFORM.model_dump_json())
    assert list(raw) == ["version", "stages"]
    assert raw["stages"][0][0] == {"op": "k3_e6", "mid_channels": 96}
    assert [len(stage) for stage in raw["stages"]] == [2, 3, 4, 4, 4, 1]


BLOCK = {"op": "k3_e6", "mid_channels": 192}
REFUSED: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("stages", 1, 0, "mid_channels"), 193, "network stage 2 block 0: k3_e6 is 193 wide, not 96 to 192"),
    (("stages", 1, 0, "mid_channels"), 95, "network stage 2 block 0: k3_e6 is 95 wide, not 96 to 192"),
    (("stages", 1, 0, "op"), "k5_e3_se", "k5_e3_se is 144 wide, not 48 to 96"),
    (("stages", 1, 0, "mid_channels"), 0, "greater than or equal to 1"),
    (("stages", 1, 0, "mid_channels"), 144.5, "valid integer"),
    (("stages", 1, 0, "mid_channels"), None, "valid integer"),
    (("stages", 1, 0, "op"), "k7_e6", "'k3_e3', 'k3_e6'"),
    (("stages", 1, 0, "op"), "skip", "'k3_e3', 'k3_e6'"),
    (("stages", 1, 0, "expand_ratio"), 6, "Extra inputs are not permitted"),
    (("stages", 1, 0), {"op": "k3_e6"}, "Field required"),
    (("stages", 5), [], "network stage 6 has 0 blocks, not 1 to 1"),
    (("stages", 5), [BLOCK, BLOCK], "network stage 6 has 2 blocks, not 1 to 1"),
    (("stages",), [], "a genotype has 6 network stages, this one 0"),
    (("stages",), UNIFORM.model_dump(mode="json")["stages"][:5], "a genotype has 6 network stages, this one 5"),
    (("stages",), UNIFORM.model_dump(mode="json")["stages"] * 2, "a genotype has 6 network stages, this one 12"),
    (("alphas",), [], "Extra inputs are not permitted"),
    (("version",), 2, "Input should be 1"),
]


@pytest.mark.parametrize(("path", "value", "message"), REFUSED, ids=lambda part: str(part)[:40])
def test_what_lies_outside_the_space_is_refused(path: tuple[str | int, ...], value: Any, message: str) -> None:
    """Impossible widths, depths, ops, unknown and missing keys and other versions are refused with what is wrong."""
    with pytest.raises(ValidationError) as refusal:
        Genotype.model_validate_json(changed(path, value))
    assert message in str(refusal.value)


@pytest.mark.parametrize("ratio", [3, 4])
def test_a_uniform_genotype_has_one_op_and_one_ratio(ratio: int) -> None:
    """Every block has the op, and the width in proportion to its input; a ratio outside the op's bounds is refused."""
    for place, choice in uniform_genotype("k5_e3", ratio).placed():
        assert choice == BlockChoice(op="k5_e3", mid_channels=ratio * place.in_channels)
    with pytest.raises(ValidationError, match="wide"):
        uniform_genotype("k5_e3", 5)


def names(parts: tuple[Part, ...]) -> list[str]:
    """Return the kinds of the parts in order."""
    return [part.key.part for part in parts]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("c_nas", ["first_stem", "second_stem", *["block"] * 18, "feature_mix", "head"]),
        ("d_nas", ["first_stem", "second_stem", *["block"] * 13, *["decoder"] * 4]),
        ("dc_nas", ["first_stem", "second_stem", *["block"] * 18, "feature_mix", "head", *["decoder"] * 4]),
    ],
)
def test_the_parts_come_in_the_order_of_the_forward_pass(kind: NetKind, expected: list[str]) -> None:
    """A joint net runs its class branch before its decoder; a denoiser has network stages 1 to 4 only."""
    parts = parts_of(kind, UNIFORM, height=224, width=224, classes=100)
    assert names(parts) == expected
    assert [part.mid_channels is not None for part in parts] == [name == "block" for name in expected]


def test_a_shortened_network_stage_loses_its_last_blocks() -> None:
    """The first block, which changes channels and resolution, stays, so that the next part fits."""
    shallow = Genotype(stages=tuple(blocks[:1] for blocks in UNIFORM.stages))
    parts = parts_of("dc_nas", shallow, height=64, width=64, classes=10)
    keys = [part.key for part in parts if part.key.part == "block"]
    assert len(keys) == len(STAGE_DEPTHS)
    assert [key.out_channels for key in keys[:-1]] == [key.in_channels for key in keys[1:]]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(genotype=genotypes(), height=st.integers(32, 300), width=st.integers(32, 300))
def test_each_part_takes_what_the_part_before_gives(genotype: Genotype, height: int, width: int) -> None:
    """At any image size, channels and resolution run on from part to part, through classifier and denoiser."""
    for kind in ("c_nas", "d_nas"):
        keys = [part.key for part in parts_of(kind, genotype, height=height, width=width, classes=9)]
        assert keys[0].height % 16 == keys[0].width % 16 == 0
        for before, after in itertools.pairwise(keys):
            assert before.out_channels == after.in_channels
            assert _size_after(before) == (after.height, after.width)
        assert kind == "c_nas" or _size_after(keys[-1]) == (keys[0].height, keys[0].width)


def _size_after(key: LatencyKey) -> tuple[int, int]:
    if key.part == "decoder":
        return 2 * key.height, 2 * key.width
    return (key.height - 1) // key.stride + 1, (key.width - 1) // key.stride + 1


def test_a_joint_nets_decoder_starts_behind_the_encoder() -> None:
    """Network stage 4's output at a sixteenth of the image, whatever stands between in the order; then the levels and what they join."""
    parts = parts_of("dc_nas", UNIFORM, height=224, width=192, classes=100)
    decoder = [(key.in_channels, key.skip_channels, key.out_channels, key.height, key.width) for key, _ in parts[-4:]]
    assert decoder == [(112, 40, 40, 14, 12), (40, 24, 24, 28, 24), (24, 16, 16, 56, 48), (16, 0, 16, 112, 96)]
    head = parts[-5].key
    assert (head.part, head.in_channels, head.out_channels) == ("head", 1280, 100)
    assert (head.height, head.width) == (7, 6)


def test_ops_without_squeeze_share_a_key_and_those_with_do_not() -> None:
    """Eight ops make six keys at a place: only the width tells e3 from e6 where there is no squeeze. Places of one shape share too."""
    keys = {name: block_key(PLACES[2], name, 224, 224) for name in OPS}
    assert keys["k3_e3"] == keys["k3_e6"]
    assert keys["k5_e3"] == keys["k5_e6"]
    assert len(set(keys.values())) == 6
    assert (keys["k5_e3_se"].se_channels, keys["k5_e6_se"].se_channels) == (24, 48)
    assert block_key(PLACES[3], "k3_e3", 224, 224) == block_key(PLACES[4], "k3_e3", 224, 224)
    assert len({block_key(place, op, 224, 224) for place in PLACES for op in OPS}) == 66
