"""The genotype: the discrete result of a search, as JSON; and the parts that a net made from it consists of."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dcnas_schema.keys import LatencyKey, Part, PartName
from dcnas_schema.provenance import Record
from dcnas_schema.space import (
    DECODERS,
    FEATURE_CHANNELS,
    FIRST_STEM_CHANNELS,
    OPS,
    PLACES,
    SECOND_STEM_CHANNELS,
    SECOND_STEM_SE,
    SHARED_STAGES,
    DecoderName,
    NetKind,
    OpName,
    Place,
    padded,
    se_channels,
    width_bounds,
)

STAGE_DEPTHS = tuple(sum(place.stage == stage for place in PLACES) for stage in range(1, PLACES[-1].stage + 1))
"""Blocks of each network stage at full depth."""


class BlockChoice(Record):
    """What stands at one place."""

    op: OpName
    mid_channels: Annotated[int, Field(ge=1)]
    """Width between expansion and projection."""


class Genotype(Record):
    """Op and width of every block; a network stage may have fewer blocks than places (sink-connecting search), but at least one."""

    version: Literal[1] = 1
    stages: tuple[tuple[BlockChoice, ...], ...]

    @model_validator(mode="after")
    def _inside_the_space(self) -> Self:
        if len(self.stages) != len(STAGE_DEPTHS):
            raise ValueError(f"a genotype has {len(STAGE_DEPTHS)} network stages, this one {len(self.stages)}")
        for number, (blocks, most) in enumerate(zip(self.stages, STAGE_DEPTHS, strict=True), start=1):
            if not 1 <= len(blocks) <= most:
                raise ValueError(f"network stage {number} has {len(blocks)} blocks, not 1 to {most}")
        for place, choice in self.placed():
            least, greatest = width_bounds(place.in_channels, OPS[choice.op])
            if not least <= choice.mid_channels <= greatest:
                raise ValueError(
                    f"network stage {place.stage} block {place.block}: {choice.op} is {choice.mid_channels} wide, "
                    f"not {least} to {greatest}"
                )
        return self

    def placed(self) -> tuple[tuple[Place, BlockChoice], ...]:
        """Return every block with its place, in the order of the forward pass."""
        places = {(place.stage, place.block): place for place in PLACES}
        return tuple(
            (places[stage, block], choice)
            for stage, blocks in enumerate(self.stages, start=1)
            for block, choice in enumerate(blocks)
        )


def is_full_depth(kind: NetKind, genotype: Genotype) -> bool:
    """Return whether a net of `kind` has every block that the space allows it: a denoiser has those of the encoder alone."""
    stages = SHARED_STAGES if kind == "d_nas" else len(STAGE_DEPTHS)
    return tuple(map(len, genotype.stages[:stages])) == STAGE_DEPTHS[:stages]


def uniform_genotype(op: OpName, expand_ratio: float) -> Genotype:
    """Return the genotype with `op` everywhere, each block `expand_ratio` times as wide as its input."""
    return Genotype(
        stages=tuple(
            tuple(
                BlockChoice(op=op, mid_channels=round(place.in_channels * expand_ratio))
                for place in PLACES
                if place.stage == stage
            )
            for stage in range(1, len(STAGE_DEPTHS) + 1)
        )
    )


def parts_of(
    kind: NetKind, genotype: Genotype, *, height: int, width: int, classes: int, decoder: DecoderName = "conv"
) -> tuple[Part, ...]:
    """
    Return the parts of a net in the order in which its forward pass runs them.

    A classifier: both stems, the blocks, the feature mix, the head. A denoiser: both stems, the blocks of the first four network
    stages, the decoder's levels. A joint model: stems and blocks of the encoder, the rest of the classifier, the decoder.

    Args:
        height: Of the image in pixels; padded here as the nets do. `width` likewise.

        classes: Outputs of the classifier; a denoiser has none.

        decoder: Which decoder a denoiser or joint model has.
    """
    height, width = padded(height), padded(width)
    encoder = [choice for choice in genotype.placed() if choice[0].stage <= SHARED_STAGES]
    branch = [choice for choice in genotype.placed() if choice[0].stage > SHARED_STAGES]
    parts = [
        *_stems(height, width),
        *(Part(block_key(place, choice.op, height, width), choice.mid_channels) for place, choice in encoder),
    ]
    if kind != "d_nas":
        parts += [Part(block_key(place, choice.op, height, width), choice.mid_channels) for place, choice in branch]
        parts += _head(height, width, classes)
    if kind != "c_nas":
        parts += _decoder(decoder, height, width)
    return tuple(parts)


def block_key(place: Place, op: OpName, height: int, width: int) -> LatencyKey:
    """Return the key of `op` at `place` in an image of `height` x `width` pixels, padded; e3 and e6 without SE share one."""
    candidate = OPS[op]
    return LatencyKey(
        part="block",
        in_channels=place.in_channels,
        out_channels=place.out_channels,
        kernel_size=candidate.kernel_size,
        stride=place.stride,
        se_channels=se_channels(place.in_channels, candidate),
        activation=place.activation,
        height=-(-height // place.divisor),
        width=-(-width // place.divisor),
    )


def _stems(height: int, width: int) -> list[Part]:
    first = LatencyKey(
        part="first_stem",
        in_channels=3,
        out_channels=FIRST_STEM_CHANNELS,
        kernel_size=3,
        stride=2,
        activation="relu",
        height=height,
        width=width,
    )
    second = LatencyKey(
        part="second_stem",
        in_channels=FIRST_STEM_CHANNELS,
        out_channels=SECOND_STEM_CHANNELS,
        kernel_size=3,
        stride=1,
        se_channels=SECOND_STEM_SE,
        activation="relu",
        height=height // 2,
        width=width // 2,
    )
    return [Part(first, None), Part(second, None)]


def _head(height: int, width: int, classes: int) -> list[Part]:
    last = PLACES[-1]
    rows, columns = -(-height // last.divisor), -(-width // last.divisor)
    mix = LatencyKey(
        part="feature_mix",
        in_channels=last.out_channels,
        out_channels=FEATURE_CHANNELS,
        kernel_size=1,
        stride=1,
        activation="swish",
        height=rows,
        width=columns,
    )
    head = LatencyKey(
        part="head",
        in_channels=FEATURE_CHANNELS,
        out_channels=classes,
        kernel_size=1,
        stride=1,
        height=rows,
        width=columns,
    )
    return [Part(mix, None), Part(head, None)]


def _decoder(name: DecoderName, height: int, width: int) -> list[Part]:
    plan = DECODERS[name]
    part: PartName = "decoder" if plan.mbconvs == 0 else "decoder_mb1" if plan.mbconvs == 1 else "decoder_mb2"
    deepest = next(place for place in reversed(PLACES) if place.stage == SHARED_STAGES)
    channels, divisor, parts = deepest.out_channels, deepest.divisor * deepest.stride, []
    for out, skip, scale in zip(plan.channels, plan.skips, plan.scales, strict=True):
        key = LatencyKey(
            part=part,
            in_channels=channels,
            skip_channels=skip,
            out_channels=out,
            kernel_size=3,
            stride=scale if plan.mbconvs else 1,
            activation="relu",
            height=height // divisor,
            width=width // divisor,
        )
        parts.append(Part(key, None))
        channels, divisor = out, divisor // scale
    return parts
