"""
The parts and nets of the search space as ONNX models, straight from their keys: an edge box needs no torch to be profiled.

Batch norm is folded into the convolutions, as every deployed net has it. NCHW, fp32. Layers are named by their part's place in the
forward pass and their own name: `3.expand.weight`.
"""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dcnas_latency.rig import Subject
from dcnas_schema.genotype import Genotype
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.space import SHARED_STAGES, Activation, padded

Weights = Callable[[str, tuple[int, ...]], NDArray[np.float32]]
"""Gives the array of a layer's weight or bias by its name and shape; torch's order of axes."""

OPSET = 17
IR_VERSION = 8
"""Older than today's, so that older builds of ONNX Runtime, as boards' vendors ship them, read the models."""
IMAGE_CHANNELS = 3


def build_onnx(subject: Subject, *, batch: int, height: int, width: int, weights: Weights) -> onnx.ModelProto:
    """
    Return the ONNX model of a whole net or of a part alone.

    A net takes `image` and gives `logits` or `restored` or both; a part takes `features` and, in a decoder, `skip`, and gives `output`.

    Args:
        height: Of a net's image in pixels, padded inside where need be; a part's own size stands in its key. `width` likewise.
    """
    graph = _Graph(weights)
    shapes = input_shapes(subject, batch=batch, height=height, width=width)
    if subject.kind is None:
        outputs = {"output": _add_part(graph, "0", subject.parts[0], *shapes)}
    else:
        outputs = _add_net(graph, subject, height=height, width=width)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    proto = helper.make_graph(
        [*graph.nodes, *(helper.make_node("Identity", [source], [name]) for name, source in outputs.items())],
        str(subject.kind or subject.parts[0].key.part),
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        graph.initializers,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def input_shapes(subject: Subject, *, batch: int, height: int, width: int) -> dict[str, tuple[int, int, int, int]]:
    """Return the inputs of `build_onnx`'s model, by name: batch x channels x height x width."""
    if subject.kind is not None:
        return {"image": (batch, IMAGE_CHANNELS, height, width)}
    key = subject.parts[0].key
    features = {"features": (batch, key.in_channels, key.height, key.width)}
    skip = (batch, key.skip_channels, 2 * key.height, 2 * key.width)
    return {**features, "skip": skip} if key.skip_channels else features


def random_weights(seed: int) -> Weights:
    """Return weights drawn by `seed` and the layer's name alone, of a scale that keeps a deep net's values in range."""

    def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        return generator.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(fan_in))

    return draw


class _Graph:
    """Nodes and weights of a model in the making; each method adds nodes and returns the name of the result."""

    def __init__(self, weights: Weights) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._weights = weights

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        values = np.asarray(self._weights(name, shape), dtype=np.float32)
        assert values.shape == shape, f"{name}: weights of shape {values.shape}, not {shape}"
        return self.constant(name, values)

    def conv(
        self, x: str, name: str, before: int, after: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
    ) -> str:
        weight = self.weight(f"{name}.weight", after, before // groups, kernel, kernel)
        bias = self.weight(f"{name}.bias", after)
        return self.node(
            "Conv",
            x,
            weight,
            bias,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )

    def doubling(self, x: str, name: str, before: int, after: int) -> str:
        weight, bias = self.weight(f"{name}.weight", before, after, 2, 2), self.weight(f"{name}.bias", after)
        return self.node("ConvTranspose", x, weight, bias, kernel_shape=[2, 2], strides=[2, 2])

    def activation(self, x: str, activation: Activation | None) -> str:
        assert activation is not None
        return self.node("Relu", x) if activation == "relu" else self.node("Mul", x, self.node("Sigmoid", x))

    def squeeze_excitation(self, x: str, name: str, channels: int, squeezed: int, activation: Activation | None) -> str:
        mean = self.node("GlobalAveragePool", x)
        hidden = self.activation(self.conv(mean, f"{name}.reduce", channels, squeezed), activation)
        return self.node("Mul", x, self.node("Sigmoid", self.conv(hidden, f"{name}.expand", squeezed, channels)))


def _add_part(graph: _Graph, prefix: str, part: Part, x: str, skip: str | None = None) -> str:
    key = part.key
    match key.part:
        case "first_stem" | "feature_mix":
            y = graph.conv(x, f"{prefix}.conv", key.in_channels, key.out_channels, key.kernel_size, stride=key.stride)
            return graph.activation(y, key.activation)
        case "second_stem" | "block":
            return _add_mbconv(graph, prefix, key, part.mid_channels, x)
        case "head":
            pooled = graph.node("Flatten", graph.node("GlobalAveragePool", x))
            weight = graph.weight(f"{prefix}.linear.weight", key.out_channels, key.in_channels)
            return graph.node("Gemm", pooled, weight, graph.weight(f"{prefix}.linear.bias", key.out_channels), transB=1)
        case "decoder":
            return _add_decoder_level(graph, prefix, key, x, skip)
        case "decoder_mb1" | "decoder_mb2":
            raise ValueError(f"{key.part} is no part that a profile holds")


def _add_mbconv(graph: _Graph, prefix: str, key: LatencyKey, mid_channels: int | None, x: str) -> str:
    mid, y = mid_channels or key.in_channels, x
    if mid > key.in_channels:
        y = graph.activation(graph.conv(y, f"{prefix}.expand", key.in_channels, mid), key.activation)
    y = graph.conv(y, f"{prefix}.depthwise", mid, mid, key.kernel_size, stride=key.stride, groups=mid)
    y = graph.activation(y, key.activation)
    if key.se_channels:
        y = graph.squeeze_excitation(y, f"{prefix}.se", mid, key.se_channels, key.activation)
    y = graph.conv(y, f"{prefix}.project", mid, key.out_channels)
    residual = key.stride == 1 and key.in_channels == key.out_channels
    return graph.node("Add", x, y) if residual else y


def _add_decoder_level(graph: _Graph, prefix: str, key: LatencyKey, x: str, skip: str | None) -> str:
    out = key.out_channels
    y = graph.doubling(x, f"{prefix}.up", key.in_channels, out)
    if skip is not None:
        y = graph.node("Concat", skip, y, axis=1)
    y = graph.activation(
        graph.conv(y, f"{prefix}.conv0", out + key.skip_channels, out, key.kernel_size), key.activation
    )
    y = graph.activation(graph.conv(y, f"{prefix}.conv1", out, out, key.kernel_size), key.activation)
    return y if key.skip_channels else graph.conv(y, f"{prefix}.to_image", out, IMAGE_CHANNELS)


def _add_net(graph: _Graph, subject: Subject, *, height: int, width: int) -> dict[str, str]:
    """Add the parts in the order of the forward pass; return the net's outputs by name."""
    assert subject.genotype is not None
    x, maps, encoder = _pad(graph, "image", height, width), {}, _encoder_parts(subject.genotype)
    for index, part in enumerate(subject.parts[:encoder]):
        x = _add_part(graph, str(index), part, x)
        maps[-(-part.key.height // part.key.stride)] = x  # of maps equally large the decoder joins the last
    features = image = x
    for index, part in enumerate(subject.parts[encoder:], start=encoder):
        if part.key.part == "decoder":
            skip = maps[2 * part.key.height] if part.key.skip_channels else None
            image = _add_part(graph, str(index), part, image, skip)
        else:
            features = _add_part(graph, str(index), part, features)
    outputs = {}
    if subject.kind != "c_nas":
        outputs["restored"] = _crop(graph, image, height, width)
    if subject.kind != "d_nas":
        outputs["logits"] = features
    return outputs


def _encoder_parts(genotype: Genotype) -> int:
    return 2 + sum(place.stage <= SHARED_STAGES for place, _ in genotype.placed())


def _pad(graph: _Graph, x: str, height: int, width: int) -> str:
    """Repeat the last row and column, as the nets do."""
    below, right = padded(height) - height, padded(width) - width
    if not below and not right:
        return x
    pads = graph.constant("pads", np.array([0, 0, 0, 0, 0, 0, below, right], dtype=np.int64))
    return graph.node("Pad", x, pads, mode="edge")


def _crop(graph: _Graph, x: str, height: int, width: int) -> str:
    if (padded(height), padded(width)) == (height, width):
        return x
    bounds = ([0, 0], [height, width], [2, 3])
    names = ("crop.starts", "crop.ends", "crop.axes")
    constants = (graph.constant(name, np.array(values)) for name, values in zip(names, bounds, strict=True))
    return graph.node("Slice", x, *constants)
