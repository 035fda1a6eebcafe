"""Every model of Sec. 4 behind one interface: photos in, restored photos and logits out, at any size."""

from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dcnas_nets.baselines import build_baseline
from dcnas_nets.classifiers import FeatureHead
from dcnas_nets.lpienet import LPIENet
from dcnas_nets.space import SequentialSpaceNet, SpaceNet, SpaceOutput
from dcnas_nets.unet import Decoder, Encoder, UNet, pad_to_stride
from dcnas_schema.genotype import Genotype, uniform_genotype
from dcnas_schema.params import UNetSpec
from dcnas_schema.photo_models import (
    LPIE_WIDTHS,
    BaselineSpec,
    CNasSpec,
    DCNasSeqSpec,
    DCNasSpec,
    DNasSpec,
    LpieNetSpec,
    PhotoDCNetSpec,
    PhotoModelSpec,
    PhotoUNetSpec,
    SpaceSpec,
)


class PhotoDenoiser(nn.Module):
    """A denoiser behind the interface of the nets of the search space."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image_BCHW: Float[Tensor, "batch 3 height width"]) -> SpaceOutput:
        """Restore images of any height and width."""
        return SpaceOutput(self.net(image_BCHW), None)


class PhotoDCNet(nn.Module):
    """DC-Net on photos: decoder and classifier share a UNet's encoder; the classifier sees the whole bottleneck map."""

    def __init__(self, spec: UNetSpec, *, classes: int) -> None:
        super().__init__()
        self.stride = 2 ** (spec.depth - 1)
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.head = FeatureHead(self.encoder.widths[-1], classes)

    def forward(self, image_BCHW: Float[Tensor, "batch 3 height width"]) -> SpaceOutput:
        """Encode once; restore and classify images of any height and width."""
        height, width = image_BCHW.shape[-2:]
        features = self.encoder(pad_to_stride(image_BCHW, self.stride))
        restored = self.decoder(features)[..., :height, :width]
        return SpaceOutput(restored, self.head(features[-1]))


def build_photo_net(
    spec: PhotoModelSpec,
    *,
    genotype: Genotype | None,
    classes: int,
    seed: int,
    dropout: float = 0.0,
    drop_connect: float = 0.0,
) -> nn.Module:
    """
    Return the model of `spec` with weights drawn from `seed` alone; the global generator is left as it was. It gives `SpaceOutput`.

    Args:
        genotype: Of a net of the search space, where `spec` does not hold it itself (`uniform`); unused by the others.

        classes: Outputs of the classifier.

        dropout: Before the last linear layer, in training, where the net has dropout.

        drop_connect: Chance, in training, that the last residual block is skipped, growing linearly over the blocks; nets of the
            search space and EfficientNetV2.

    Raises:
        UnfitEnvironmentError: The model needs a library that is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match spec:
            case CNasSpec() | DNasSpec() | DCNasSpec() | DCNasSeqSpec():
                return _space_net(spec, genotype, classes, dropout, drop_connect)
            case BaselineSpec():
                return build_baseline(spec.kind, classes=classes, dropout=dropout, drop_connect=drop_connect)
            case LpieNetSpec():
                return PhotoDenoiser(LPIENet(LPIE_WIDTHS[spec.width]))
            case PhotoUNetSpec():
                return PhotoDenoiser(UNet(spec.unet))
            case PhotoDCNetSpec():
                return PhotoDCNet(spec.unet, classes=classes)
            case _:
                assert_never(spec)


def _space_net(
    spec: SpaceSpec, genotype: Genotype | None, classes: int, dropout: float, drop_connect: float
) -> nn.Module:
    if spec.uniform is not None:
        genotype = uniform_genotype(spec.uniform.op, spec.uniform.expand_ratio)
    assert genotype is not None, f"{spec} needs a genotype"
    if isinstance(spec, DCNasSeqSpec):
        return SequentialSpaceNet(genotype, classes=classes, dropout=dropout, drop_connect=drop_connect)
    return SpaceNet(
        spec.kind,
        genotype,
        classes=classes,
        decoder="conv" if isinstance(spec, CNasSpec) else spec.decoder,
        dropout=dropout,
        drop_connect=drop_connect,
    )
