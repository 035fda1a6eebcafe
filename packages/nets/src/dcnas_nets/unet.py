"""UNet {d, b, m, c} (paper, Fig. 2; Ronneberger et al. 2015), in the reading that meets Table 1's cost: see ASSUMPTIONS.md."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dcnas_schema.params import UNetSpec


class Encoder(nn.Module):
    """Encoder of a UNet: `depth` levels of convolutions, halved by max-pooling between them."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.widths = level_widths(spec)
        self.levels = nn.ModuleList(
            conv_stack(before, width, spec.convs) for before, width in zip([3, *self.widths], self.widths, strict=False)
        )

    def forward(self, image_BCHW: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Return the features of every level, finest first; level i is 2**i times smaller than the image."""
        features = [self.levels[0](image_BCHW)]
        for level in self.levels[1:]:
            features.append(level(F.max_pool2d(features[-1], 2)))
        return features


class Decoder(nn.Module):
    """Decoder of a UNet: 2x2 transposed convolutions, concatenated skips, a 1x1 convolution to the image."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        widths = level_widths(spec)
        pairs = list(zip(widths[1:], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, width, 2, stride=2) for below, width in pairs)
        self.levels = nn.ModuleList(conv_stack(2 * width, width, spec.convs) for _, width in pairs)
        self.to_image = nn.Conv2d(widths[0], 3, 1)

    def forward(self, features: list[Tensor]) -> Float[Tensor, "batch 3 height width"]:
        """Return the restored image from the encoder's features, finest first."""
        x = features[-1]
        for up, level, skip in zip(reversed(self.up), reversed(self.levels), reversed(features[:-1]), strict=True):
            x = level(torch.cat([skip, up(x)], dim=1))
        restored: Tensor = self.to_image(x)
        return restored


class UNet(nn.Module):
    """A denoiser: noisy image in, restored image out, of any height and width."""

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.stride = 2 ** (spec.depth - 1)
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)

    def forward(self, noisy_BCHW: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Return the restored image, not clamped."""
        height, width = noisy_BCHW.shape[-2:]
        restored: Tensor = self.decoder(self.encoder(pad_to_stride(noisy_BCHW, self.stride)))
        return restored[..., :height, :width]


def level_widths(spec: UNetSpec) -> list[int]:
    """Return the width of each level: base * multiplier**level, rounded (8, 12, 18, 27 for UNet-S)."""
    return [round(spec.base * spec.multiplier**level) for level in range(spec.depth)]


def conv_stack(before: int, width: int, convs: int) -> nn.Sequential:
    """Return `convs` times a biased 3x3 convolution, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for i in range(convs):
        layers += [
            nn.Conv2d(before if i == 0 else width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def pad_to_stride(image_BCHW: Float[Tensor, "batch ch height width"], stride: int) -> Float[Tensor, "batch ch h2 w2"]:
    """Repeat the last row and column until height and width are multiples of `stride`."""
    height, width = image_BCHW.shape[-2:]
    right, bottom = -width % stride, -height % stride
    return F.pad(image_BCHW, (0, right, 0, bottom), mode="replicate") if right or bottom else image_BCHW
