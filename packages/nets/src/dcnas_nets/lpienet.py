"""
LPIENet, a small denoiser for phones (Conde et al., WACV 2023), written from its description.

Where the description leaves a width open, parameters and MACs of all published sizes decide: see tests/golden/baselines.json.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dcnas_nets.unet import pad_to_stride

_STRIDE = 4
"""Two halvings."""


class BaseBlock(nn.Module):
    """Two residual units of one width: 1x1, depthwise 3x3, ELU, 1x1; then 1x1, ELU, 1x1. All convolutions are biased."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, channels, 1), _depthwise(channels), nn.ELU(), nn.Conv2d(channels, channels, 1)
        )
        self.pointwise = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ELU(), nn.Conv2d(channels, channels, 1))

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch ch height width"]:
        """Return features of the same shape."""
        x = x_BCHW + self.spatial(x_BCHW)
        features: Tensor = x + self.pointwise(x)
        return features


class AttentionBlock(nn.Module):
    """
    Two gates side by side on the same features, joined by a 1x1 convolution, with a residual.

    One gate comes from the mean and the maximum over channels through a 3x3 convolution, the other from the mean through two 1x1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(2, channels, 3, padding=1)
        self.channel = nn.Sequential(nn.Conv2d(1, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1))
        self.join = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch ch height width"]:
        """Return features of the same shape."""
        mean, most = x_BCHW.mean(1, keepdim=True), x_BCHW.amax(1, keepdim=True)
        spatial = x_BCHW * torch.sigmoid(self.spatial(torch.cat([mean, most], dim=1)))
        channel = x_BCHW * torch.sigmoid(self.channel(mean))
        features: Tensor = x_BCHW + self.join(torch.cat([spatial, channel], dim=1))
        return features


class Tail(nn.Module):
    """From features to the three channels of an image: an inverted block, then a gate of 7x7, 5x5 and 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(channels, 3, 1), _depthwise(3), nn.ELU(), nn.Conv2d(3, 3, 1))
        self.branch = nn.Sequential(nn.Conv2d(channels, 3, 1), nn.ReLU(inplace=True))
        self.gate = nn.Sequential(
            nn.Conv2d(3, 3, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 3, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x_BCHW: Float[Tensor, "batch ch height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Return what is added to the noisy image."""
        x = self.main(x_BCHW) + self.branch(x_BCHW)
        image: Tensor = x * self.gate(x)
        return image


class LPIENet(nn.Module):
    """
    The denoiser: noisy image in, restored image out, of any height and width.

    Args:
        widths: Of the three encoder levels, finest first; the decoder's two levels have the middle and the first one's.
    """

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        first, middle, last = widths
        self.encoder = nn.ModuleList([_level(3, first), _level(first, middle), _level(middle, last)])
        self.decoder = nn.ModuleList([_level(last, middle), _level(2 * middle, first)])
        self.tail = Tail(2 * first)

    def forward(self, noisy_BCHW: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Return the restored image, not clamped."""
        height, width = noisy_BCHW.shape[-2:]
        noisy = pad_to_stride(noisy_BCHW, _STRIDE)
        fine = self.encoder[0](noisy)
        middle = self.encoder[1](F.max_pool2d(fine, 2))
        x = self.encoder[2](F.max_pool2d(middle, 2))
        for level, skip in zip(self.decoder, (middle, fine), strict=True):
            x = F.interpolate(level(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = torch.cat([x, skip], dim=1)
        restored: Tensor = noisy + self.tail(x)
        return restored[..., :height, :width]


def _level(before: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, padding=1), BaseBlock(width), BaseBlock(width), AttentionBlock(width)
    )


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
