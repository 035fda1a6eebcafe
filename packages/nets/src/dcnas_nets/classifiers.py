"""Digit classifiers (paper, Suppl. A): the 2-block CNN, the MBConv classifier MB2.5-M, and the head on encoder features."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dcnas_nets.pooling import mean_of_pixels
from dcnas_schema.scenes import DIGIT_SIZE

CLASSES = 10
EXPAND_RATIO = 2.5
HEAD_CELLS = 4
"""Rows and columns of the window that the head takes from the encoder's features for one digit."""


class ConvClassifier(nn.Module):
    """Baseline: two blocks of 3x3 convolution, batch norm, ReLU, max-pool, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*_conv_block(3, 32), *_conv_block(32, 64))
        self.linear = nn.Linear(64 * (DIGIT_SIZE // 4) ** 2, CLASSES)

    def forward(self, digit_BCHW: Float[Tensor, "batch 3 28 28"]) -> Float[Tensor, "batch 10"]:
        """Return the logits of each digit."""
        logits: Tensor = self.linear(self.blocks(digit_BCHW).flatten(1))
        return logits


class MBConvClassifier(nn.Module):
    """MB2.5-M: the second block of the baseline as an MBConv of expand ratio 2.5."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*_conv_block(3, 32), MBConv(32, 64, EXPAND_RATIO), nn.MaxPool2d(2))
        self.linear = nn.Linear(64 * (DIGIT_SIZE // 4) ** 2, CLASSES)

    def forward(self, digit_BCHW: Float[Tensor, "batch 3 28 28"]) -> Float[Tensor, "batch 10"]:
        """Return the logits of each digit."""
        logits: Tensor = self.linear(self.blocks(digit_BCHW).flatten(1))
        return logits


class FeatureHead(nn.Module):
    """
    MB2.5-M on encoder features: 1x1 adapter to 32 channels, MBConv, global average pool, linear layer.

    For a digit the features are a 4x4 window, for a photo the whole map.
    """

    def __init__(self, channels: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.adapter = nn.Sequential(nn.Conv2d(channels, 32, 1), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
        self.block = MBConv(32, 64, EXPAND_RATIO)
        self.linear = nn.Linear(64, classes)

    def forward(self, window_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of each digit or photo."""
        logits: Tensor = self.linear(mean_of_pixels(self.block(self.adapter(window_BCHW))))
        return logits


class MBConv(nn.Module):
    """Inverted residual with a linear bottleneck, biased convolutions (MobileNetV2, arXiv:1801.04381)."""

    def __init__(self, before: int, width: int, expand_ratio: float) -> None:
        super().__init__()
        mid = round(before * expand_ratio)
        self.expand = nn.Sequential(nn.Conv2d(before, mid, 1), nn.BatchNorm2d(mid), nn.ReLU(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(mid, mid, 3, padding=1, groups=mid), nn.BatchNorm2d(mid), nn.ReLU(inplace=True)
        )
        self.project = nn.Sequential(nn.Conv2d(mid, width, 1), nn.BatchNorm2d(width))
        self.residual = before == width

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch ch2 height width"]:
        """Return features of the same height and width."""
        y: Tensor = self.project(self.depthwise(self.expand(x_BCHW)))
        return x_BCHW + y if self.residual else y


def crop_digits(
    image_BCHW: Float[Tensor, "batch ch height width"], corners: Int[Tensor, "batch digits 2"]
) -> Float[Tensor, "batch*digits ch 28 28"]:
    """
    Return the 28x28 boxes at `corners` (top, left), digit by digit; where a box leaves the image, the edge pixel is repeated.
    """
    batch = len(corners)
    height, width = image_BCHW.shape[-2:]
    offset = torch.arange(DIGIT_SIZE, device=corners.device)
    rows = (corners[..., 0, None] + offset).clamp(0, height - 1)
    columns = (corners[..., 1, None] + offset).clamp(0, width - 1)
    scene = torch.arange(batch, device=corners.device).view(-1, 1, 1, 1)
    crops = image_BCHW.permute(0, 2, 3, 1)[scene, rows[..., :, None], columns[..., None, :]]
    return crops.flatten(0, 1).permute(0, 3, 1, 2)


def crop_features(
    features_BCHW: Float[Tensor, "batch ch height width"], corners: Int[Tensor, "batch digits 2"], stride: int
) -> Float[Tensor, "batch*digits ch 4 4"]:
    """
    Sample the 28x28 box of each digit from features `stride` times smaller than the image, bilinearly at 4x4 bin centres.

    This is RoIAlign (arXiv:1703.06870) with one sample a bin, as two small matrix products: its gradient is deterministic on CUDA.
    """
    rows = _interpolation(corners[..., 0], features_BCHW.shape[-2], stride)
    columns = _interpolation(corners[..., 1], features_BCHW.shape[-1], stride)
    rows, columns = rows.to(features_BCHW.dtype), columns.to(features_BCHW.dtype)
    tall = torch.einsum("bdih,bchw->bdciw", rows, features_BCHW)
    return torch.einsum("bdciw,bdjw->bdcij", tall, columns).flatten(0, 1)


def _interpolation(
    start: Int[Tensor, "batch digits"], length: int, stride: int
) -> Float[Tensor, "batch digits 4 length"]:
    size = DIGIT_SIZE / HEAD_CELLS
    centres = start[..., None] + size * (torch.arange(HEAD_CELLS, device=start.device) + 0.5)
    position = (centres / stride - 0.5).clamp(0, length - 1)
    cells = torch.arange(length, device=start.device)
    return F.relu(1 - (position[..., None] - cells).abs())


def _conv_block(before: int, width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)
