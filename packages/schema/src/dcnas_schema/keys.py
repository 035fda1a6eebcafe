"""The key of the latency table, typed once: what a part of a net is, as far as its latency is concerned."""

from typing import Literal, NamedTuple

from dcnas_schema.provenance import Record
from dcnas_schema.space import Activation

PartName = Literal["first_stem", "second_stem", "block", "feature_mix", "head", "decoder", "decoder_mb1", "decoder_mb2"]
"""`decoder_mb1` and `decoder_mb2` are decoder levels of one and two MBConvs."""
PROFILED_PARTS: tuple[PartName, ...] = ("first_stem", "second_stem", "block", "feature_mix", "head", "decoder")
"""Parts that a latency profile holds; decoders of MBConvs are built and counted, but not profiled."""


class LatencyKey(Record):
    """
    What is timed: a part of a net, by all that its cost depends on but the elastic width; hashable.

    Height and width are those of the part's input in pixels. `out_channels` of a head are its classes. `stride` of a decoder level of
    MBConvs is how many times larger its output is; that of convolutions always doubles, and has 1.
    """

    part: PartName
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    se_channels: int = 0
    """Width of the squeeze; 0 without SE."""
    skip_channels: int = 0
    """Channels that a decoder level joins."""
    activation: Activation | None = None
    height: int
    width: int

    def __str__(self) -> str:
        se = f" se{self.se_channels}" if self.se_channels else ""
        skip = f" skip{self.skip_channels}" if self.skip_channels else ""
        shape = f"{self.in_channels}->{self.out_channels} k{self.kernel_size} s{self.stride}"
        return f"{self.part} {shape}{se}{skip} {self.activation or ''} at {self.height}x{self.width}".replace("  ", " ")


class Part(NamedTuple):
    """One part of a net: its key and, where the part is elastic, its width in channels."""

    key: LatencyKey
    mid_channels: int | None
