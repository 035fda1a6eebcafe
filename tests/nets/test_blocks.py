"""Blocks of the search space: every op at every place computes, costs and learns what its description says."""

from math import ceil

import pytest
import torch
from torch import Tensor, nn

from dcnas_nets.blocks import DecoderLevel, Head, SqueezeExcite, build_part, part_inputs
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_schema.genotype import block_key, parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.space import OPS, PLACES, CandidateOp, OpName, Place, width_bounds

HEIGHT, WIDTH = 48, 80  # pixels of the image: 3x5 before the last stride, so that halving rounds up
ACTIVATIONS = {"relu": torch.relu, "swish": lambda x: x * torch.sigmoid(x)}
SE_RATIO = {3: 1, 6: 2}  # width of the squeeze over the block's input channels, by expand ratio

every_place = pytest.mark.parametrize(
    "place", [place for place in PLACES if place.block < 2], ids=lambda place: f"stage{place.stage}_block{place.block}"
)
"""The first two of each network stage; what stands behind is the second again."""
every_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


def part_at(place: Place, op: OpName, *, position: float = 0.3) -> Part:
    """Return the part of `op` at `place`, its width at `position` of the bounds (an odd number of channels now and then)."""
    least, greatest = width_bounds(place.in_channels, OPS[op])
    return Part(block_key(place, op, HEIGHT, WIDTH), least + round(position * (greatest - least)))


def pixels(place: Place) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return height and width of a place's input and of its output, counted without the key."""
    before = (ceil(HEIGHT / place.divisor), ceil(WIDTH / place.divisor))
    return before, (ceil(before[0] / place.stride), ceil(before[1] / place.stride))


@pytest.mark.parametrize("op", OPS)
def test_later_blocks_of_a_network_stage_are_the_second_again(op: OpName) -> None:
    """From the second block on, the places of a network stage have equal parts, so that two of them stand for all."""
    parts = {(place.stage, place.block): part_at(place, op) for place in PLACES}
    assert len(parts) == 18
    assert all(parts[stage, block] == parts[stage, min(block, 1)] for stage, block in parts)


@every_place
@every_op
def test_an_op_has_the_output_shape_of_its_place(place: Place, op: CandidateOp) -> None:
    """An op turns the place's input into the place's channels at the place's resolution, for a batch of one too."""
    part = part_at(place, op.name)
    (image,) = part_inputs(part, batch=1)
    before, after = pixels(place)
    assert image.shape == (1, place.in_channels, *before)
    with torch.inference_mode():
        features = build_part(part).eval()(image)
    assert features.shape == (1, place.out_channels, *after)
    assert features.isfinite().all()


@every_place
@every_op
def test_every_parameter_of_an_op_gets_a_finite_gradient(place: Place, op: CandidateOp) -> None:
    """Nothing in an op is cut off from the loss: each parameter's gradient is finite and somewhere not zero."""
    part = part_at(place, op.name)
    block = build_part(part).train()
    features = block(*part_inputs(part, batch=2))
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features * weights).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_place
@every_op
def test_an_op_costs_what_a_count_by_hand_gives(place: Place, op: CandidateOp) -> None:
    """MACs and parameters agree with the sums of expansion, depthwise convolution, squeeze and projection on paper."""
    part = part_at(place, op.name)
    assert part.mid_channels is not None
    before, out, mid, kernel = place.in_channels, place.out_channels, part.mid_channels, op.kernel_size**2
    (rows, columns), (rows_out, columns_out) = pixels(place)
    squeeze = before * SE_RATIO[op.expand_ratio] if op.se else 0
    macs = before * mid * rows * columns + mid * (kernel + out) * rows_out * columns_out
    weights = before * mid + mid * (kernel + out)
    norms = 2 * (mid + mid + out)
    squeezing = 2 * mid * squeeze + (squeeze + mid if op.se else 0)
    block = build_part(part)
    assert count_macs(block, *part_inputs(part, batch=1)) == macs + squeezing
    assert count_parameters(block) == weights + norms + squeezing


@every_place
@every_op
def test_a_residual_joins_where_the_shapes_agree(place: Place, op: CandidateOp) -> None:
    """With its projection at zero an op gives its input back where it keeps the shape, and zeros elsewhere."""
    part = part_at(place, op.name)
    block = build_part(part).eval()
    nn.init.zeros_(block.get_parameter("layers.project.bn.weight"))
    (image,) = part_inputs(part, batch=1)
    features = block(image)
    same = place.block > 0
    assert torch.equal(features, image if same else torch.zeros_like(features))


@every_place
def test_the_ops_have_the_activation_of_their_network_stage(place: Place) -> None:
    """ReLU in network stage 1, swish in the others, in the squeeze as elsewhere, and none behind the projection."""
    expected = nn.ReLU if place.stage == 1 else nn.SiLU
    for op in OPS.values():
        layers = build_part(part_at(place, op.name)).modules()
        activations = [type(layer) for layer in layers if isinstance(layer, (nn.ReLU, nn.SiLU))]
        assert activations == [expected] * (3 if op.se else 2), op.name


@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_squeeze_and_excite_is_its_formula(activation: str) -> None:
    """x times sigmoid(expand(act(reduce(mean of x)))), written out with matrices."""
    squeeze = SqueezeExcite(12, 4, activation)  # type: ignore[arg-type] # a parametrised literal
    for layer in (squeeze.reduce, squeeze.expand):
        nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 12, 5, 3, generator=torch.Generator().manual_seed(1))
    hidden = ACTIVATIONS[activation](x.mean((2, 3)) @ squeeze.reduce.weight[..., 0, 0].T + squeeze.reduce.bias)
    factors = torch.sigmoid(hidden @ squeeze.expand.weight[..., 0, 0].T + squeeze.expand.bias)
    torch.testing.assert_close(squeeze(x), x * factors[..., None, None])


def fixed_parts() -> dict[str, Part]:
    """Return the parts of a joint net that are not searched, by name, for an image of 48x80."""
    parts = parts_of("dc_nas", uniform_genotype("k3_e3", 3), height=HEIGHT, width=WIDTH, classes=7)
    fixed = [part for part in parts if part.key.part != "block"]
    names = ["first_stem", "second_stem", "feature_mix", "head", "decoder0", "decoder1", "decoder2", "decoder3"]
    return dict(zip(names, fixed, strict=True))


SHAPES = {
    "first_stem": (1, 32, 24, 40),
    "second_stem": (1, 16, 24, 40),
    "feature_mix": (1, 1280, 2, 3),
    "head": (1, 7),
    "decoder0": (1, 40, 6, 10),
    "decoder1": (1, 24, 12, 20),
    "decoder2": (1, 16, 24, 40),
    "decoder3": (1, 3, 48, 80),
}
MACS = {
    "first_stem": 24 * 40 * 3 * 32 * 9,
    "second_stem": 24 * 40 * 32 * (9 + 16) + 2 * 32 * 8 + 8 + 32,
    "feature_mix": 2 * 3 * 320 * 1280,
    "head": 1280 * 7 + 7,
    "decoder0": 3 * 5 * 112 * 40 * 4 + 6 * 10 * 40 + 6 * 10 * 9 * (80 * 40 + 40 * 40),
    "decoder1": 6 * 10 * 40 * 24 * 4 + 12 * 20 * 24 + 12 * 20 * 9 * (48 * 24 + 24 * 24),
    "decoder2": 12 * 20 * 24 * 16 * 4 + 24 * 40 * 16 + 24 * 40 * 9 * (32 * 16 + 16 * 16),
    "decoder3": 24 * 40 * 16 * 16 * 4 + 48 * 80 * 16 + 48 * 80 * 9 * 2 * 16 * 16 + 48 * 80 * 17 * 3,
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_fixed_part_has_its_shape_and_cost(name: str) -> None:
    """Stems, feature mix, head and decoder levels run alone, give the shape that the next part takes, and cost the count by hand."""
    part = fixed_parts()[name]
    module, inputs = build_part(part).eval(), part_inputs(part, batch=1)
    with torch.inference_mode():
        assert module(*inputs).shape == SHAPES[name]
    assert count_macs(module, *inputs) == MACS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_every_parameter_of_a_fixed_part_gets_a_finite_gradient(name: str) -> None:
    """Each parameter's gradient is finite and somewhere not zero."""
    part = fixed_parts()[name]
    module = build_part(part).train()
    output = module(*part_inputs(part, batch=2))
    (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize(
    ("name", "activation", "count"),
    [("first_stem", nn.ReLU, 1), ("second_stem", nn.ReLU, 2), ("feature_mix", nn.SiLU, 1), ("decoder2", nn.ReLU, 2)],
)
def test_a_fixed_part_has_its_activation(name: str, activation: type[nn.Module], count: int) -> None:
    """Stems and decoder use ReLU, the feature mix swish; the second stem has no expansion, but a squeeze."""
    layers = [layer for layer in build_part(fixed_parts()[name]).modules() if isinstance(layer, (nn.ReLU, nn.SiLU))]
    assert [type(layer) for layer in layers] == [activation] * count


@pytest.mark.parametrize("skip_channels", [0, 5])
def test_a_decoder_level_needs_the_map_that_it_joins(skip_channels: int) -> None:
    """The joined map changes the output of a level that joins one; the level at full resolution ends in three channels."""
    level = DecoderLevel(8, skip_channels, 6).eval()
    below = torch.randn(1, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    if skip_channels == 0:
        assert level(below).shape == (1, 3, 6, 8)
        return
    outputs = [level(below, torch.full((1, skip_channels, 6, 8), value)) for value in (0.0, 1.0)]
    assert outputs[0].shape == (1, 6, 6, 8)
    assert not torch.equal(*outputs)


def test_the_head_takes_the_mean_over_all_pixels() -> None:
    """Logits of a map are those of its mean, and dropout acts in training alone."""
    head = Head(16, 5, dropout=0.5)
    x = torch.randn(1, 16, 3, 2, generator=torch.Generator().manual_seed(0))
    head.eval()
    torch.testing.assert_close(head(x), head.linear(x.mean((2, 3))))
    head.train()
    assert len({tuple(head(x)[0].tolist()) for _ in range(8)}) > 1
    plain = Head(16, 5).train()
    assert torch.equal(plain(x), plain(x))


def test_no_bias_stands_before_a_batch_norm() -> None:
    """Convolutions before a batch norm are unbiased; all biases start at zero."""
    parts = [*fixed_parts().values(), part_at(PLACES[3], "k5_e6_se")]
    for module in map(build_part, parts):
        for name, layer in module.named_modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                assert (layer.bias is None) == (name.endswith("conv")), name
                assert layer.bias is None or not layer.bias.any(), name


def test_part_inputs_depend_on_the_seed_alone() -> None:
    """The same seed gives the same normal numbers, another seed others, and the global generator stays as it was."""
    part = fixed_parts()["decoder0"]
    before = torch.get_rng_state()
    first, again, other = part_inputs(part, 64), part_inputs(part, 64), part_inputs(part, 64, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert [tuple(x.shape) for x in first] == [(64, 112, 3, 5), (64, 40, 6, 10)]
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert _moments(first[0]) == pytest.approx((0, 1), abs=0.02)
    assert not torch.equal(first[0].flatten()[:100], first[1].flatten()[:100])


def _moments(x: Tensor) -> tuple[float, float]:
    return x.mean().item(), x.std().item()
