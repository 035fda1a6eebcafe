"""What a search is bound by: the latency of the net it must find, taken apart for the search, and the target in ms."""

from functools import cache
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_latency.in_setting import why_not_measurable
from dcnas_latency.predictor import Predictor
from dcnas_schema.genotype import STAGE_DEPTHS, block_key, parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import LatencySetting, ProfileMetadata
from dcnas_schema.photo_models import BaselineClassifier
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.search_params import SearchSpec
from dcnas_schema.space import OP_SETS, PLACES, SHARED_STAGES, NetKind, OpName, padded
from dcnas_search_supernet.reference import ask
from dcnas_training.search_latency import NetLatency, Reach, reach


def net_latency(predictor: Predictor, kind: NetKind, setting: LatencySetting) -> NetLatency:
    """
    Return the predicted latency of nets of `kind`, taken apart into blocks and the rest, calibration applied.

    Raises:
        LatencyKeyMissingError: The table lacks a fixed part; a block that it lacks is told when that is asked for.
    """
    scale, smallest = predictor.calibration.scale[kind], uniform_genotype("k3_e3", 3)
    parts = parts_of(kind, smallest, height=setting.height, width=setting.width, classes=setting.classes)
    fixed = [part for part in parts if part.mid_channels is None]
    height, width = padded(setting.height), padded(setting.width)

    @cache
    def block_ms(place: int, op: OpName, mid: int) -> float:
        return scale * predictor.table.lookup(Part(block_key(PLACES[place], op, height, width), mid))

    return NetLatency(
        block_ms=block_ms,
        rest_ms=scale * predictor.table.total(fixed) + predictor.calibration.overhead_ms[kind],
        stages=SHARED_STAGES if kind == "d_nas" else len(STAGE_DEPTHS),
    )


def reference_latency_ms(
    name: BaselineClassifier, profile: ProfileMetadata, card: DeviceCard, *, scratch: Path
) -> float:
    """
    Return the measured latency in ms of a net of the literature, in the profile's setting on this device.

    Args:
        scratch: Folder where this machine's best time of the reference op is kept.

    Raises:
        BadInputError: It cannot be timed here as the profile was.
    """
    if (reason := why_not_measurable(profile, card)) is not None:
        raise BadInputError(
            f"a target relative to {name} needs that net's latency, and {reason}.",
            where="params.yaml: searches",
            remedy="give the target in ms",
        )
    return ask(name, profile.setting, card.kind, scratch=scratch)


def target_within(fraction: float, spec: SearchSpec, net: NetLatency) -> float:
    """Return the latency in ms that lies `fraction` of the way from the fastest to the slowest net of the four ops, all blocks used."""
    found = reach(net, OP_SETS[4], width_multiple=spec.width_multiple, elastic_depth=False)
    return found.least_ms + fraction * (found.greatest_ms - found.least_ms)


def require_reachable(name: str, spec: SearchSpec, net: NetLatency, target_ms: float) -> Reach:
    """
    Return what the space of `spec` can reach.

    Raises:
        BadInputError: The target is not in it; the message says what is.
    """
    found = reach(net, spec.candidates, width_multiple=spec.width_multiple, elastic_depth=spec.beta == "sink")
    if not found.holds(target_ms):
        where = "below" if target_ms < found.least_ms else "above"
        raise BadInputError(
            f"search {name}: its target of {target_ms:.4g} ms ({spec.target}) lies {where} what the {spec.bound} can reach on this "
            f"device with {spec.ops} ops: {found.least_ms:.4g} to {found.greatest_ms:.4g} ms, as predicted.",
            where=f"params.yaml: searches.{name}.target",
            remedy="choose a target inside this range, or bound another net",
        )
    return found
