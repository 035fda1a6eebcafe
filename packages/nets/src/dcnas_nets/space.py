"""Nets of the search space, made from a genotype: classifier, denoiser, or both on one encoder."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dcnas_harness.errors import BadInputError
from dcnas_nets.blocks import MBConv, build_part
from dcnas_nets.unet import pad_to_stride
from dcnas_schema.genotype import Genotype, parts_of
from dcnas_schema.space import (
    DECODERS,
    SHARED_STAGES,
    SMALLEST_INPUT,
    STRIDE,
    DecoderName,
    NetKind,
)


class SpaceOutput(NamedTuple):
    """What a net of the space says of a batch of images."""

    restored: Tensor | None
    """batch x 3 x height x width, not clamped; `None` for a classifier."""
    logits: Tensor | None
    """batch x classes; `None` for a denoiser."""


class SpaceNet(nn.Module):
    """
    A net of the search space.

    `parts` holds its parts under readable names, in the order of `parts_of`, which is that of the forward pass.

    Args:
        dropout: Before the last linear layer, in training.

        drop_connect: Chance, in training, that the last block of the genotype is skipped for an image where it has a residual; it grows
            linearly from the second stem (TF-NAS). A denoiser's encoder has the rates that it would have in the classifier.
    """

    def __init__(
        self,
        kind: NetKind,
        genotype: Genotype,
        *,
        classes: int,
        decoder: DecoderName = "conv",
        dropout: float = 0.0,
        drop_connect: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.genotype = genotype
        self._encoder = _encoder_names(genotype)
        self._branch = _branch_names(kind, genotype)
        self._decoder = _decoder_names(kind, decoder)
        self._skips = _skip_names(genotype)[: len(self._decoder) - 1] if self._decoder else ()
        parts = parts_of(kind, genotype, height=SMALLEST_INPUT, width=SMALLEST_INPUT, classes=classes, decoder=decoder)
        self.parts = nn.ModuleDict(
            {
                name: build_part(part, dropout=dropout)
                for name, part in zip(part_names(kind, genotype, decoder), parts, strict=True)
            }
        )
        self._set_drop_connect(drop_connect)

    def forward(self, image_BCHW: Float[Tensor, "batch 3 height width"]) -> SpaceOutput:
        """
        Restore and classify images of any height and width from `SMALLEST_INPUT` up.

        Raises:
            BadInputError: The images are smaller.
        """
        return self.run(image_BCHW, _nothing)

    def run(self, image_BCHW: Float[Tensor, "batch 3 height width"], mark: Callable[[], None]) -> SpaceOutput:
        """Do what `forward` does, and call `mark` after every part, so that a timer can tell them apart."""
        height, width = image_BCHW.shape[-2:]
        _check_size(height, width)
        x, kept = pad_to_stride(image_BCHW, STRIDE), {}
        for name in self._encoder:
            x = self.parts[name](x)
            if name in self._skips:
                kept[name] = x
            mark()
        logits = self._classify(x, mark) if self._branch else None
        restored = self._decode(x, kept, mark)[..., :height, :width] if self._decoder else None
        return SpaceOutput(restored, logits)

    def _set_drop_connect(self, rate: float) -> None:
        blocks = ("second_stem", *_block_names(self.genotype, range(1, len(self.genotype.stages) + 1)))
        for number, name in enumerate(blocks, start=1):
            if name in self.parts:
                block = self.parts[name]
                assert isinstance(block, MBConv), name
                block.drop_connect = rate * number / len(blocks)

    def _classify(self, x: Tensor, mark: Callable[[], None]) -> Tensor:
        for name in self._branch:
            x = self.parts[name](x)
            mark()
        return x

    def _decode(self, x: Tensor, kept: dict[str, Tensor], mark: Callable[[], None]) -> Tensor:
        for level, name in enumerate(self._decoder):
            skip = kept[self._skips[level]] if level < len(self._skips) else None
            x = self.parts[name](x, skip)
            mark()
        return x


class SequentialSpaceNet(nn.Module):
    """
    DC-NAS_seq: the classifier of a genotype behind the denoiser of the same genotype (paper, Sec. 4.4, Fig. 7.iv).

    The class branch sees the restored image, as it leaves the denoiser, not clamped; nothing is shared.
    """

    def __init__(self, genotype: Genotype, *, classes: int, dropout: float = 0.0, drop_connect: float = 0.0) -> None:
        super().__init__()
        self.denoiser = SpaceNet("d_nas", genotype, classes=classes, drop_connect=drop_connect)
        self.classifier = SpaceNet("c_nas", genotype, classes=classes, dropout=dropout, drop_connect=drop_connect)

    def forward(self, image_BCHW: Float[Tensor, "batch 3 height width"]) -> SpaceOutput:
        """
        Restore the images, then classify what was restored.

        Raises:
            BadInputError: The images are smaller than `SMALLEST_INPUT`.
        """
        restored = self.denoiser(image_BCHW).restored
        return SpaceOutput(restored, self.classifier(restored).logits)


def part_names(kind: NetKind, genotype: Genotype, decoder: DecoderName = "conv") -> tuple[str, ...]:
    """Return the names of a net's parts, one for each of `parts_of`, such as `first_stem`, `stage1_block0`, `head`, `decoder3`."""
    return _encoder_names(genotype) + _branch_names(kind, genotype) + _decoder_names(kind, decoder)


def build_space_net(kind: NetKind, genotype: Genotype, *, classes: int, seed: int, dropout: float = 0.0) -> SpaceNet:
    """Return the net of `genotype` with weights drawn from `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpaceNet(kind, genotype, classes=classes, dropout=dropout)


def _check_size(height: int, width: int) -> None:
    if min(height, width) < SMALLEST_INPUT:
        raise BadInputError(
            f"an image is {height}x{width} pixels; the nets of the search space take {SMALLEST_INPUT}x{SMALLEST_INPUT} or more",
            remedy="enlarge or pad the images",
        )


def _encoder_names(genotype: Genotype) -> tuple[str, ...]:
    return ("first_stem", "second_stem", *_block_names(genotype, range(1, SHARED_STAGES + 1)))


def _branch_names(kind: NetKind, genotype: Genotype) -> tuple[str, ...]:
    if kind == "d_nas":
        return ()
    return (*_block_names(genotype, range(SHARED_STAGES + 1, len(genotype.stages) + 1)), "feature_mix", "head")


def _decoder_names(kind: NetKind, decoder: DecoderName) -> tuple[str, ...]:
    return () if kind == "c_nas" else tuple(f"decoder{level}" for level in range(len(DECODERS[decoder].channels)))


def _skip_names(genotype: Genotype) -> tuple[str, ...]:
    """Return the parts whose outputs decoder levels join, coarsest first; the last level of a decoder joins none."""
    stage1, stage2 = (_block_names(genotype, range(stage, stage + 1))[-1] for stage in (1, 2))
    return stage2, stage1, "second_stem"


def _block_names(genotype: Genotype, stages: range) -> tuple[str, ...]:
    return tuple(f"stage{place.stage}_block{place.block}" for place, _ in genotype.placed() if place.stage in stages)


def _nothing() -> None:
    """Mark nothing."""
