"""ONNX models of the space: the same function as torch's nets with batch norm folded, for every key, without torch."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dcnas_latency.rig import Subject
from dcnas_nets.blocks import ConvBNAct, build_part, part_inputs
from dcnas_nets.space import build_space_net
from dcnas_profile_latency.runtimes.onnx_graph import Weights, build_onnx, input_shapes, random_weights
from dcnas_schema.genotype import block_key, parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.space import NET_KINDS, OPS, PLACES, NetKind, width_bounds

Nets = Callable[..., Subject]
Alone = Callable[[Part], Subject]
Array = NDArray[np.float32]
TOLERANCE = 1e-4
"""Greatest difference of an output, relative to the greatest value."""

NET_PARTS = {
    str(part.key): part
    for kind in NET_KINDS
    for part in parts_of(kind, uniform_genotype("k3_e3", 2), height=64, width=48, classes=10)
}
BLOCKS = {
    str(key): Part(key, width_bounds(key.in_channels, op)[0])
    for op in OPS.values()
    for key in (block_key(place, op.name, 64, 48) for place in PLACES)
}
EVERY_KEY = {**NET_PARTS, **BLOCKS}
STRIDED_SE = block_key(PLACES[2], "k5_e3_se", 64, 48)


def randomised(module: nn.Module) -> nn.Module:
    """Return `module` in eval mode with random batch-norm statistics and biases, so that no folding goes unnoticed."""
    generator = torch.Generator().manual_seed(3)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, std=0.3, generator=generator)
            nn.init.uniform_(layer.running_var, 0.2, 0.5, generator=generator)
            nn.init.uniform_(layer.weight, 0.8, 1.6, generator=generator)
            nn.init.normal_(layer.bias, std=0.3, generator=generator)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.3, generator=generator)
    return module.eval()


def folded(layer: ConvBNAct) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution with its batch norm."""
    conv, norm = layer.conv, layer.bn
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def named_layers(part: nn.Module) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Give the weight and bias of each layer of a part under the ONNX model's name."""
    folded_convs = {layer.conv for layer in part.modules() if isinstance(layer, ConvBNAct)}
    for name, layer in part.named_modules():
        if isinstance(layer, ConvBNAct):
            yield name.removeprefix("layers.") or "conv", folded(layer)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and layer not in folded_convs:
            assert layer.bias is not None
            yield name.removeprefix("layers."), (layer.weight, layer.bias)


def weights_of(parts: list[nn.Module]) -> Weights:
    """Return the folded weights of a net's parts, each array to be asked for once."""
    arrays = {
        f"{index}.{name}.{kind}": tensor.detach().numpy()
        for index, part in enumerate(parts)
        for name, tensors in named_layers(part)
        for kind, tensor in zip(("weight", "bias"), tensors, strict=True)
    }
    return lambda name, _shape: arrays.pop(name)


def run_onnx(model: onnx.ModelProto, *inputs: Tensor) -> dict[str, Array]:
    """Return the model's outputs by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    outputs = [value.name for value in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


def differ(ours: Array, theirs: Tensor) -> float:
    """Return the greatest difference, relative to the greatest value."""
    reference = theirs.numpy()
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("kind", NET_KINDS)
@pytest.mark.parametrize(("height", "width"), [(64, 48), (41, 58)])
def test_a_net_computes_what_torchs_does(kind: NetKind, height: int, width: int, whole_net: Nets) -> None:
    """With torch's folded weights, SE, strides, both kernels and any image size, the outputs agree to 1e-4 of the greatest value."""
    subject = whole_net(kind, height=height, width=width)
    assert subject.genotype is not None
    net = build_space_net(kind, subject.genotype, classes=10, seed=0)
    randomised(net)
    weights = weights_of(list(net.parts.values()))
    ours = run_onnx(
        build_onnx(subject, batch=2, height=height, width=width, weights=weights),
        image := torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)),
    )
    with torch.inference_mode():
        theirs = net(image)
    wanted = {name: value for name, value in theirs._asdict().items() if value is not None}
    assert ours.keys() == wanted.keys()
    assert all(differ(ours[name], wanted[name]) < TOLERANCE for name in wanted)


@pytest.mark.parametrize("key", [str(STRIDED_SE), *NET_PARTS])
def test_a_part_alone_computes_what_torchs_does(key: str, alone: Alone) -> None:
    """Each kind of part agrees with its torch module, a decoder with its joined map included."""
    part = EVERY_KEY[key]
    module = randomised(build_part(part))
    inputs = part_inputs(part, 2)
    model = build_onnx(alone(part), batch=2, height=1, width=1, weights=weights_of([module]))
    with torch.inference_mode():
        theirs = module(*(x.clone() for x in inputs))
    assert differ(run_onnx(model, *inputs)["output"], theirs) < TOLERANCE


@pytest.mark.parametrize("key", EVERY_KEY)
def test_every_key_of_the_space_has_a_model(key: str, alone: Alone) -> None:
    """The checked model's output has the shape that the key says, at the least width."""
    part = EVERY_KEY[key]
    model = build_onnx(alone(part), batch=3, height=1, width=1, weights=lambda _, shape: np.zeros(shape, np.float32))
    onnx.checker.check_model(model)
    shape = [size.dim_value for size in model.graph.output[0].type.tensor_type.shape.dim]
    sizes = {
        "head": [],
        "decoder": [2 * part.key.height, 2 * part.key.width],
    }.get(part.key.part, [-(-part.key.height // part.key.stride), -(-part.key.width // part.key.stride)])
    last_level = part.key.part == "decoder" and not part.key.skip_channels
    assert shape == [3, 3 if last_level else part.key.out_channels, *sizes]


def test_the_space_has_all_kinds_of_keys() -> None:
    """The keys above are all that the table can hold at one size: 66 of blocks, as in TF-NAS, and those of the fixed parts."""
    assert len(BLOCKS) == 66
    assert len(NET_PARTS.keys() - BLOCKS.keys()) == 8


def test_random_weights_depend_on_seed_and_name_alone() -> None:
    """A second process times the same model, whatever else it built before."""
    first, second = random_weights(0), random_weights(0)
    second("0.other.weight", (4, 4))
    shape = (8, 4, 3, 3)
    assert np.array_equal(first("3.expand.weight", shape), second("3.expand.weight", shape))
    assert not np.array_equal(first("3.expand.weight", shape), first("4.expand.weight", shape))
    assert not np.array_equal(first("3.expand.weight", shape), random_weights(1)("3.expand.weight", shape))


@pytest.mark.parametrize("kind", NET_KINDS)
def test_random_weights_keep_values_in_range(kind: NetKind, whole_net: Nets) -> None:
    """No output of a deep net is infinite or near the subnormal numbers, which some processors compute slowly."""
    subject = whole_net(kind, uniform_genotype("k3_e6_se", 4))
    shapes = input_shapes(subject, batch=1, height=32, width=32)
    model = build_onnx(subject, batch=1, height=32, width=32, weights=random_weights(0))
    outputs = run_onnx(model, torch.randn(shapes["image"], generator=torch.Generator().manual_seed(0)))
    assert all(1e-6 < np.abs(values).mean() < 1e6 for values in outputs.values())


def test_a_weight_of_a_wrong_shape_is_refused(alone: Alone) -> None:
    """Weights that do not fit are noticed where they are given."""
    part = next(iter(NET_PARTS.values()))
    with pytest.raises(AssertionError, match=r"0\.conv\.weight"):
        build_onnx(alone(part), batch=1, height=1, width=1, weights=lambda _name, _shape: np.zeros(1, np.float32))
