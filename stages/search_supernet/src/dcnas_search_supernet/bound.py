"""What a search is bound by: the latency of the net it must find, taken apart for the search, and the target in ms."""

from functools import cache

from dcnas_harness.errors import BadInputError
from dcnas_latency.predictor import Predictor
from dcnas_schema.genotype import STAGE_DEPTHS, block_key, parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import LatencySetting, ProfileMetadata, ReferenceTiming
from dcnas_schema.photo_models import BaselineClassifier
from dcnas_schema.search_params import SearchSpec
from dcnas_schema.space import OP_SETS, PLACES, SHARED_STAGES, NetKind, OpName, padded
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


def reference_of(name: BaselineClassifier, profile: ProfileMetadata) -> ReferenceTiming:
    """
    Return the latency of a net of the literature, timed once with the table: every search and seed means the same one.

    Raises:
        BadInputError: The profile does not hold it.
    """
    found = next((one for one in profile.references if one.net == name), None)
    if found is None:
        held = ", ".join(one.net for one in profile.references) or "none"
        raise BadInputError(
            f"a target is relative to {name}, and the latency profile holds the latency of {held}.",
            where="params.yaml: searches",
            remedy=f"add {name} to profile_latency.references and profile again (on another device: dcnas profile --reference {name}), "
            "or give the target in ms",
        )
    return found


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
