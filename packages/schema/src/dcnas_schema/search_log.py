"""
What a search writes: its log (Parquet, one row an epoch), the architecture it ends with, and the genotype derived from that.

All latencies are in ms, of one forward pass of a whole batch of the latency profile's setting.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from dcnas_schema.genotype import STAGE_DEPTHS, Genotype
from dcnas_schema.latency import Accuracy, Clock, LatencySetting
from dcnas_schema.provenance import Provenance, Record
from dcnas_schema.records import MeasuredLatency
from dcnas_schema.search_params import SearchSpec, SearchSupernetParams
from dcnas_schema.section import Name
from dcnas_schema.space import PLACES, NetKind, OpName

ROUNDING = 1e-9
"""Relative; sums of the same parts in another order may differ so far."""
_NUMBERS = pa.list_(pa.field("item", pa.float64(), nullable=False))
_COUNTS = pa.list_(pa.field("item", pa.int32(), nullable=False))

SEARCH_LOG = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("weight_rate", pa.float64(), nullable=False),
        pa.field("architecture_rate", pa.float64()),
        pa.field("temperature", pa.float64(), nullable=False),
        pa.field("weight_loss", pa.float64(), nullable=False),
        pa.field("task_loss", pa.float64()),
        pa.field("latency_loss", pa.float64()),
        pa.field("sampled_ms", pa.float64()),
        pa.field("expected_ms", pa.float64(), nullable=False),
        pa.field("derived_ms", pa.float64(), nullable=False),
        pa.field("log_alphas", _NUMBERS, nullable=False),
        pa.field("log_betas", _NUMBERS),
        pa.field("widths", _COUNTS, nullable=False),
        pa.field("choices", _COUNTS, nullable=False),
        pa.field("depths", _COUNTS, nullable=False),
    ]
)
"""
One row an epoch, from 1; parameters and widths are those at its end, rates and temperature those in it.

`weight_loss` is the mean over batches of the loss a path; `task_loss`, `latency_loss` and `sampled_ms` (the expected latency under Gumbel
weights) are means over the architecture steps, null in the warm-up, as is `architecture_rate`. `expected_ms` is the expected latency
under the alphas themselves (and betas), `derived_ms` that of the derived net, both behind elasticity-scaling. `log_alphas` and `widths`
hold place x op, row by row; `log_betas` one network stage after another, null without betas. `choices` holds the number of the most
likely op at each place, `depths` the most likely depth of each network stage.
"""


class Reachable(Record):
    """The fastest and the slowest net of the space, in ms as predicted."""

    least_ms: float
    greatest_ms: float


class SearchMetadata(Record):
    """What a search log says of itself."""

    version: Literal[1] = 1
    search: Name
    seed: int
    spec: SearchSpec
    params: SearchSupernetParams
    ops: tuple[OpName, ...]
    """Candidates, in the order of the alphas."""
    target_ms: float
    reference_ms: float | None
    """Latency of the net that a relative target names, as the profile holds it."""
    reference_noise: tuple[str, ...] = ()
    """Why that figure is not to be believed; empty where it is, or where there is none."""
    met: bool = True
    """The net that is derived in the end is predicted not to be above the target."""
    switched: int = 0
    """Places at which that net has a cheaper op than its most likely one, because the least widths alone were above the target."""
    reachable: Reachable
    setting: LatencySetting
    """How the nets run whose latency is meant."""
    accuracy: Accuracy | None
    """Error of the latency predictor on held-out nets of the bounded kind; `None` where the profile does not tell."""
    interval_pct: float
    """Half the width of the predictor's interval, in per cent."""
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    form: Literal["plain", "fused"]
    weight_images: int
    architecture_images: int
    classes: int
    provenance: Provenance


class ArchitectureRecord(Record):
    """The architecture parameters and widths with which a search ends."""

    version: Literal[1] = 1
    search: Name
    seed: int
    spec: SearchSpec
    ops: tuple[OpName, ...]
    log_alphas: tuple[tuple[float, ...], ...]
    """Place x op."""
    log_betas: tuple[tuple[float, ...], ...] | None
    """Network stage x depth; `None` without betas."""
    widths: tuple[tuple[int, ...], ...]
    """Mid channels, place x op."""
    choices: tuple[int, ...] | None = None
    """Number of the derived net's op at each place, where some are cheaper than the most likely; `None` where those are taken."""
    target_ms: float
    reference_ms: float | None
    met: bool = True
    """The derived net is predicted not to be above the target."""
    provenance: Provenance

    @model_validator(mode="after")
    def _of_the_space(self) -> Self:
        for name, rows in (("log_alphas", self.log_alphas), ("widths", self.widths)):
            if [len(row) for row in rows] != [len(self.ops)] * len(PLACES):
                raise ValueError(f"{name} are not {len(PLACES)} x {len(self.ops)}")
        if self.choices is not None and (
            len(self.choices) != len(PLACES) or not all(0 <= choice < len(self.ops) for choice in self.choices)
        ):
            raise ValueError(f"choices are not {len(PLACES)} numbers of one of {len(self.ops)} ops")
        if self.log_betas is not None and tuple(len(row) for row in self.log_betas) != STAGE_DEPTHS:
            raise ValueError(f"log_betas are not one for each of {STAGE_DEPTHS} depths")
        return self


class PredictedLatency(Record):
    """The predictor's word in ms, and the interval in which a measurement is expected."""

    ms: float
    low_ms: float
    high_ms: float


class NetCost(Record):
    """Cost of one forward pass of one image: MACs by the protocol's count; trained values."""

    macs: int
    parameters: int


class DerivedGenotype(Record):
    """A search's result: the genotype, what it is predicted to cost, and what it was measured to."""

    version: Literal[1] = 1
    search: Name
    seed: int
    spec: SearchSpec
    genotype: Genotype
    target_ms: float
    bound: NetKind
    """The kind of net that the target bounds."""
    setting: LatencySetting
    clock: Clock = "wall"
    """What the profile's figures are by, and so what the measurement is compared by."""
    predicted: dict[NetKind, PredictedLatency]
    """Of each kind of net made from the genotype for which the predictor is calibrated."""
    cost: dict[NetKind, NetCost]
    """At the setting's image size and classes."""
    measured: MeasuredLatency | None
    """Of the bounded kind; `None` where it was not timed."""
    not_measured: Annotated[str, Field(min_length=1)] | None
    """Why not."""
    provenance: Provenance

    @property
    def measured_ms(self) -> float | None:
        """The measured latency by the profile's clock; `None` where it was not timed, or not by that clock."""
        return None if self.measured is None else self.measured.by(self.clock)

    @property
    def met(self) -> bool:
        """Whether the prediction is not above the target."""
        return self.predicted[self.bound].ms <= self.target_ms * (1 + ROUNDING)

    @property
    def target_error_pct(self) -> float:
        """How far the prediction lies from the target, in per cent of it."""
        return 100 * (self.predicted[self.bound].ms / self.target_ms - 1)


def argmax_flips(choices: Sequence[Sequence[int]]) -> list[int]:
    """
    Return for each block how often its most likely op is another one than the epoch before.

    Args:
        choices: Epoch x block.
    """
    blocks = len(choices[0]) if choices else 0
    pairs = list(pairwise(choices))
    return [sum(before[block] != after[block] for before, after in pairs) for block in range(blocks)]


def oscillation(choices: Sequence[Sequence[int]]) -> float:
    """
    Return the mean number of argmax flips a block over the last third of the epochs (paper, Fig. 4): 0 where the search has settled.

    The third is rounded up; the step into its first epoch counts.

    Args:
        choices: Epoch x block.
    """
    third = -(-len(choices) // 3)
    flips = argmax_flips(choices[max(len(choices) - third - 1, 0) :])
    return sum(flips) / len(flips) if flips else 0.0
