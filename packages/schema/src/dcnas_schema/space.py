"""
The search space: macro-architecture and candidate ops of TF-NAS (Hu et al. 2020, arXiv:2008.05314) as the paper uses them.

Here are the facts that nets, latency table and search share: which block stands where, which ops it may be, how wide it may become,
and of which parts a net consists. No torch.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Activation = Literal["relu", "swish"]
OpName = Literal["k3_e3", "k3_e6", "k5_e3", "k5_e6", "k3_e3_se", "k3_e6_se", "k5_e3_se", "k5_e6_se"]
NetKind = Literal["c_nas", "d_nas", "dc_nas"]
"""Classifier alone; denoiser alone; both on one encoder."""
NET_KINDS: tuple[NetKind, ...] = get_args(NetKind)
DecoderName = Literal["conv", "mbconv", "one_operator", "three_layers"]
"""Decoders of the paper's Table 6: two 3x3 convolutions a level, two MBConvs, one MBConv, two MBConvs on three levels."""

FIRST_STEM_CHANNELS = 32
SECOND_STEM_CHANNELS = 16
SECOND_STEM_SE = 8
FEATURE_CHANNELS = 1280
"""Channels before the classifier's pooling."""
SHARED_STAGES = 4
"""Network stages that belong to the encoder: the decoder starts behind the last of them."""
DECODER_CHANNELS = (40, 24, 16, 16)
"""Width of each decoder level, coarsest first; the last level's is assumed (packages/nets/ASSUMPTIONS.md)."""
SKIP_CHANNELS = (40, 24, 16, 0)
"""Channels of the encoder map that each decoder level joins; none exists at full resolution."""
DECODER_EXPAND_RATIO = 3
"""Of the MBConvs in a decoder (paper, Sec. 4.4: MB-k3-e3)."""
STRIDE = 16
"""Nets of the space pad their input to a multiple of this: the decoder doubles the resolution four times."""
SMALLEST_INPUT = 32
"""Least height and width of an input in pixels: at the last network stage one pixel is left of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateOp:
    """An inverted residual (MBConv): what may be chosen at a place."""

    name: OpName
    kernel_size: int
    expand_ratio: int
    """Width at the start of a search over the block's input channels; the width may become 2/3 to 4/3 of that."""
    se: bool
    """Squeeze and excitation behind the depthwise convolution."""


OPS: dict[OpName, CandidateOp] = {
    op.name: op
    for op in (
        CandidateOp(name="k3_e3", kernel_size=3, expand_ratio=3, se=False),
        CandidateOp(name="k3_e6", kernel_size=3, expand_ratio=6, se=False),
        CandidateOp(name="k5_e3", kernel_size=5, expand_ratio=3, se=False),
        CandidateOp(name="k5_e6", kernel_size=5, expand_ratio=6, se=False),
        CandidateOp(name="k3_e3_se", kernel_size=3, expand_ratio=3, se=True),
        CandidateOp(name="k3_e6_se", kernel_size=3, expand_ratio=6, se=True),
        CandidateOp(name="k5_e3_se", kernel_size=5, expand_ratio=3, se=True),
        CandidateOp(name="k5_e6_se", kernel_size=5, expand_ratio=6, se=True),
    )
}
"""In TF-NAS's order, which is that of the architecture parameters."""

OP_SETS: dict[int, tuple[OpName, ...]] = {
    4: ("k3_e3", "k3_e6", "k5_e3", "k5_e6"),
    6: ("k3_e3", "k3_e6", "k5_e3", "k5_e6", "k3_e3_se", "k3_e6_se"),
    8: tuple(OPS),
}
"""Candidate sets by size; smaller ones are contained in larger. That of six is assumed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderPlan:
    """A decoder: what stands on each of its levels, coarsest first."""

    mbconvs: int
    """MBConvs a level; 0: two 3x3 convolutions."""
    channels: tuple[int, ...]
    skips: tuple[int, ...]
    """Channels of the encoder map that each level joins; 0 for the last, which joins none."""
    scales: tuple[int, ...]
    """How many times larger than its input each level's output is, in height and in width."""


DECODERS: dict[DecoderName, DecoderPlan] = {
    "conv": DecoderPlan(mbconvs=0, channels=DECODER_CHANNELS, skips=SKIP_CHANNELS, scales=(2, 2, 2, 2)),
    "mbconv": DecoderPlan(mbconvs=2, channels=DECODER_CHANNELS, skips=SKIP_CHANNELS, scales=(2, 2, 2, 2)),
    "one_operator": DecoderPlan(mbconvs=1, channels=DECODER_CHANNELS, skips=SKIP_CHANNELS, scales=(2, 2, 2, 2)),
    "three_layers": DecoderPlan(mbconvs=2, channels=(40, 24, 16), skips=(40, 24, 0), scales=(2, 2, 4)),
}
"""Which level `three_layers` lacks is assumed: that at half resolution (packages/nets/ASSUMPTIONS.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a searchable block stands."""

    stage: int
    """Network stage, 1 to 6."""
    block: int
    """Within its network stage, from 0."""
    in_channels: int
    out_channels: int
    stride: int
    activation: Activation
    divisor: int
    """The block's input is this many times smaller than the image."""


# Blocks, out channels, stride, activation, divisor of the input.
_STAGES: tuple[tuple[int, int, int, Activation, int], ...] = (
    (2, 24, 2, "relu", 2),
    (3, 40, 2, "swish", 4),
    (4, 80, 2, "swish", 8),
    (4, 112, 1, "swish", 16),
    (4, 192, 2, "swish", 16),
    (1, 320, 1, "swish", 32),
)


def _places() -> tuple[Place, ...]:
    places, channels = [], SECOND_STEM_CHANNELS
    for stage, (blocks, out, stride, activation, divisor) in enumerate(_STAGES, start=1):
        for block in range(blocks):
            first = block == 0
            places.append(
                Place(
                    stage=stage,
                    block=block,
                    in_channels=channels if first else out,
                    out_channels=out,
                    stride=stride if first else 1,
                    activation=activation,
                    divisor=divisor if first else divisor * stride,
                )
            )
        channels = out
    return tuple(places)


PLACES: tuple[Place, ...] = _places()
"""The 18 places, in the order of the forward pass."""


def width_bounds(in_channels: int, op: CandidateOp) -> tuple[int, int]:
    """Return the least and the greatest width (mid channels) of `op` on `in_channels`: TF-NAS's max // 2 and 4/3 of the start."""
    most = in_channels * op.expand_ratio * 4 // 3
    return most // 2, most


def se_channels(in_channels: int, op: CandidateOp) -> int:
    """Return the width of the op's squeeze, fixed for all of its widths: TF-NAS's in for e3, 2 * in for e6; 0 without SE."""
    return in_channels * op.expand_ratio // 3 if op.se else 0


def padded(size: int) -> int:
    """Return the height or width in pixels that a net of the space computes on for an input of `size`."""
    return -(-size // STRIDE) * STRIDE
