"""
The blocks of the search space and the module of any of its parts, made from the part's key alone.

Source: TF-NAS (Hu et al. 2020, arXiv:2008.05314) for stems, MBConv and head; the decoder is a UNet's (Ronneberger et al. 2015).
Its geometry is derived or assumed: see ASSUMPTIONS.md.
"""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dcnas_nets.pooling import mean_of_pixels
from dcnas_schema.keys import Part
from dcnas_schema.space import DECODER_EXPAND_RATIO, Activation


class ConvBNAct(nn.Sequential):
    """Unbiased convolution that keeps the size but for its stride, batch norm, activation; without the last where it is `None`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        activation: Activation | None,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        layers["bn"] = nn.BatchNorm2d(out_channels)
        if activation is not None:
            layers["act"] = _activation(activation)
        super().__init__(layers)


class SqueezeExcite(nn.Module):
    """Scales every channel by a factor in (0, 1) that depends on all channels' means (Hu et al. 2018); biased 1x1 convolutions."""

    def __init__(self, channels: int, se_channels: int, activation: Activation) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, se_channels, 1)
        self.act = _activation(activation)
        self.expand = nn.Conv2d(se_channels, channels, 1)

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch ch height width"]:
        """Return the scaled features."""
        means = mean_of_pixels(x_BCHW)[:, :, None, None]
        return x_BCHW * torch.sigmoid(self.expand(self.act(self.reduce(means))))


class MBConv(nn.Module):
    """
    Inverted residual: expand, depthwise convolution, squeeze and excite, project (Sandler et al. 2018).

    There is no expansion where `mid_channels` equals `in_channels`, no squeeze where `se_channels` is 0, and a residual where the
    output has the input's shape. `drop_connect` is the chance that an image of the batch gets, in training, the residual alone; nets
    set it, and 0 leaves the block as it is.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        se_channels: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if mid_channels > in_channels:
            layers["expand"] = ConvBNAct(in_channels, mid_channels, 1, activation=activation)
        layers["depthwise"] = ConvBNAct(
            mid_channels, mid_channels, kernel_size, activation=activation, stride=stride, groups=mid_channels
        )
        if se_channels:
            layers["se"] = SqueezeExcite(mid_channels, se_channels, activation)
        layers["project"] = ConvBNAct(mid_channels, out_channels, 1, activation=None)
        self.layers = nn.Sequential(layers)
        self.residual = stride == 1 and in_channels == out_channels
        self.drop_connect = 0.0

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch out h2 w2"]:
        """Return the block's features, ceil(size / stride) large."""
        features: Tensor = self.layers(x_BCHW)
        if not self.residual:
            return features
        if self.training and self.drop_connect:
            features = drop_connect(features, self.drop_connect)
        return features + x_BCHW


def drop_connect(x_BCHW: Float[Tensor, "batch ch height width"], rate: float) -> Float[Tensor, "batch ch height width"]:
    """
    Zero whole images of the batch with chance `rate` and scale the others up, so that the mean stays (Huang et al. 2016).

    The chance is drawn from torch's global generator of the device: whoever trains seeds it for each step.
    """
    kept = x_BCHW.new_empty((len(x_BCHW), 1, 1, 1)).bernoulli_(1 - rate)
    return x_BCHW / (1 - rate) * kept


class DecoderLevel(nn.Module):
    """
    One level of the decoder: biased transposed convolution without overlap, joined encoder map, two 3x3 convolutions with batch norm
    and ReLU, or MBConvs (k3, e3, no SE) in their place.

    A level that joins nothing stands at full resolution, the last; it ends in a biased 1x1 convolution to the image.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, *, scale: int = 2, mbconvs: int = 0
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, scale, stride=scale)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = out_channels + skip_channels
        for number in range(mbconvs or 2):
            if mbconvs:
                layers[f"mbconv{number}"] = _decoder_mbconv(channels, out_channels)
            else:
                layers[f"conv{number}"] = ConvBNAct(channels, out_channels, 3, activation="relu")
            channels = out_channels
        if not skip_channels:
            layers["to_image"] = nn.Conv2d(out_channels, 3, 1)
        self.layers = nn.Sequential(layers)

    def forward(
        self,
        below_BCHW: Float[Tensor, "batch ch height width"],
        skip_BCHW: Float[Tensor, "batch skip h2 w2"] | None = None,
    ) -> Float[Tensor, "batch out h2 w2"]:
        """Return the features, or the restored image, at `scale` times the resolution of the level below."""
        x = self.up(below_BCHW)
        if skip_BCHW is not None:
            x = torch.cat([skip_BCHW, x], dim=1)
        features: Tensor = self.layers(x)
        return features


class Head(nn.Module):
    """Mean over all pixels, dropout in training, linear layer."""

    def __init__(self, in_channels: int, classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.linear = nn.Linear(in_channels, classes)

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        logits: Tensor = self.linear(self.dropout(mean_of_pixels(x_BCHW)))
        return logits


def build_part(part: Part, *, dropout: float = 0.0) -> nn.Module:
    """
    Return the module of `part`, with PyTorch's initial weights and biases of zero as in TF-NAS.

    Height and width of the key make no difference. A decoder level takes the features below it and, where the key has skip channels,
    the encoder's map; every other part takes one map of features.

    Args:
        dropout: Of the head, in training; other parts have none.
    """
    module = _module(part, dropout)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


def part_inputs(part: Part, batch: int, *, device: torch.device | None = None, seed: int = 0) -> tuple[Tensor, ...]:
    """
    Return normally distributed arguments for the module of `part`, so that it can run alone.

    They depend on `seed` alone, not on the device (the CPU where it is `None`).
    """
    key = part.key
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, key.in_channels, key.height, key.width)]
    if key.skip_channels:
        shapes.append((batch, key.skip_channels, 2 * key.height, 2 * key.width))
    return tuple(torch.randn(shape, generator=generator).to(device) for shape in shapes)


def _module(part: Part, dropout: float) -> nn.Module:
    key = part.key
    match key.part:
        case "first_stem" | "feature_mix":
            return ConvBNAct(
                key.in_channels, key.out_channels, key.kernel_size, activation=key.activation, stride=key.stride
            )
        case "head":
            return Head(key.in_channels, key.out_channels, dropout=dropout)
        case "decoder":
            return DecoderLevel(key.in_channels, key.skip_channels, key.out_channels)
        case "decoder_mb1" | "decoder_mb2":
            return DecoderLevel(
                key.in_channels,
                key.skip_channels,
                key.out_channels,
                scale=key.stride,
                mbconvs=1 if key.part == "decoder_mb1" else 2,
            )
        case "block" | "second_stem":
            assert key.activation is not None
            return MBConv(
                key.in_channels,
                key.in_channels if part.mid_channels is None else part.mid_channels,
                key.out_channels,
                kernel_size=key.kernel_size,
                stride=key.stride,
                se_channels=key.se_channels,
                activation=key.activation,
            )


def _decoder_mbconv(in_channels: int, out_channels: int) -> MBConv:
    mid = DECODER_EXPAND_RATIO * in_channels
    return MBConv(in_channels, mid, out_channels, kernel_size=3, stride=1, se_channels=0, activation="relu")


def _activation(activation: Activation) -> nn.Module:
    return nn.ReLU(inplace=True) if activation == "relu" else nn.SiLU(inplace=True)
