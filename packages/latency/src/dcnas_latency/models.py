"""What a latency profile says of the models of Sec. 4: their predicted latency, and random subnets of a given one."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dcnas_harness.errors import BadInputError
from dcnas_latency.predictor import Prediction, Predictor
from dcnas_schema.genotype import Genotype, parts_of
from dcnas_schema.latency import LatencySetting
from dcnas_schema.photo_models import CNasSpec, DCNasSeqSpec, DCNasSpec, DNasSpec, PhotoModelSpec, SpaceSpec
from dcnas_schema.sampling import random_genotype
from dcnas_schema.space import NetKind, OpName

_MOST_DRAWS = 20_000
_SPREADS = (0.2, 0.1, 0.05, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subnet:
    """A random subnet of a wanted latency."""

    genotype: Genotype
    predicted_ms: float
    draws: int
    """Genotypes drawn until one was near enough."""


def predict_model(
    spec: PhotoModelSpec, genotype: Genotype | None, predictor: Predictor, setting: LatencySetting
) -> Prediction | None:
    """
    Return the predicted latency of a model in the profile's setting: its size, classes and batch.

    It is `None` where the profile has not the model's parts: for nets outside the space, and for decoders of MBConvs.
    """
    if not isinstance(spec, SpaceSpec) or getattr(spec, "decoder", "conv") != "conv":
        return None
    assert genotype is not None, f"{spec} needs a genotype"
    return predict_space_net(spec, genotype, predictor, setting)


def predict_space_net(spec: SpaceSpec, genotype: Genotype, predictor: Predictor, setting: LatencySetting) -> Prediction:
    """
    Return the predicted latency of a net of the space, as if its decoder were one of convolutions.

    For the sequential net it is the sum of its two halves, their intervals added up as well.

    Raises:
        LatencyKeyMissingError: The profile lacks a part.
    """
    halves = [
        predictor.predict(
            kind, parts_of(kind, genotype, height=setting.height, width=setting.width, classes=setting.classes)
        )
        for kind in _kinds(spec)
    ]
    return Prediction(
        ms=sum(half.ms for half in halves),
        low_ms=sum(half.low_ms for half in halves),
        high_ms=sum(half.high_ms for half in halves),
    )


def draw_subnet(
    predicted_ms: Callable[[Genotype], float],
    *,
    target_ms: float,
    tolerance_pct: float,
    ops: tuple[OpName, ...],
    width_multiple: int,
    generator: np.random.Generator,
) -> Subnet:
    """
    Draw random genotypes until one has the wanted predicted latency.

    Blocks of a net differ in size by chance, so that the least and the greatest nets of the space are never drawn: where 500 nets lie on
    one side of the target, the blocks of the next ones differ less.

    Args:
        predicted_ms: Predicted latency in ms of a net of the genotype.

        tolerance_pct: How far it may be off, in per cent of `target_ms`.

        width_multiple: Widths are multiples of this, as in the profile.

        generator: Its state decides everything.

    Raises:
        BadInputError: None of many is near enough; says which latencies were met.
    """
    met: list[float] = []
    spreads = list(_SPREADS)
    for draws in range(1, _MOST_DRAWS + 1):
        genotype = random_genotype(generator, ops=ops, width_multiple=width_multiple, spread=spreads[0])
        met.append(predicted_ms(genotype))
        if abs(met[-1] / target_ms - 1) * 100 <= tolerance_pct:
            return Subnet(genotype=genotype, predicted_ms=met[-1], draws=draws)
        if draws % 500 == 0 and not min(met) <= target_ms <= max(met):
            del spreads[0]
            if not spreads:
                break
    raise BadInputError(
        f"No random subnet has a predicted latency of {target_ms:.4g} ms within {tolerance_pct:g} %: "
        f"{len(met)} of them have {min(met):.4g} to {max(met):.4g} ms.",
        remedy="choose a target inside that range, or a greater tolerance_pct",
    )


def _kinds(spec: SpaceSpec) -> tuple[NetKind, ...]:
    match spec:
        case DCNasSeqSpec():
            return "d_nas", "c_nas"
        case CNasSpec() | DNasSpec() | DCNasSpec():
            return (spec.kind,)
