"""
The latency profile of one device: one Parquet file, made by profile_latency or by `dcnas profile` on an edge box.

Rows are lookup-table entries; whole nets, calibration, accuracy, noise gate, device card and protocol are the metadata.
All times are in ms, of one forward pass of a whole batch in eval mode.
"""

from typing import Annotated, Any, Literal, Self, get_args

import pyarrow as pa
from pydantic import Field, model_validator

from dcnas_schema.genotype import Genotype
from dcnas_schema.keys import LatencyKey
from dcnas_schema.photo_models import BaselineClassifier
from dcnas_schema.provenance import DeviceCard, DeviceState, Provenance, Record
from dcnas_schema.space import NetKind

Runtime = Literal["torch_eager", "torch_cuda_graph", "torch_compile", "onnxruntime", "simulated"]
Depth = Literal["full", "reduced"]
"""Whether a net has every block that the space allows it, or fewer."""
DEPTHS: tuple[Depth, ...] = get_args(Depth)
Clock = Literal["wall", "cuda_events", "simulated"]
"""What a profile's figures are by: the host's wall clock, or a GPU's own between events, launches hidden."""
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LatencySetting(Record):
    """How the nets run; with the device it tells one table from another. A table of one setting is never used for another."""

    runtime: Runtime
    provider: str | None = None
    """Execution provider of ONNX Runtime; `None` for other runtimes."""
    batch: Annotated[int, Field(ge=1)]
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    height: int
    width: int
    classes: int
    threads: int
    """CPU threads; on CUDA those that launch nothing but the host's share."""
    cache: Literal["warm", "cold"] = "warm"
    """Cold: a GPU's second-level cache is written over before each timed call."""
    tf32: bool = False
    """A GPU computes fp32 convolutions in TF32, as it does by torch's default; without a GPU, and in bf16, there is no such thing."""


ENTRIES = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("in_channels", pa.int32(), nullable=False),
        pa.field("out_channels", pa.int32(), nullable=False),
        pa.field("kernel_size", pa.int32(), nullable=False),
        pa.field("stride", pa.int32(), nullable=False),
        pa.field("se_channels", pa.int32(), nullable=False),
        pa.field("skip_channels", pa.int32(), nullable=False),
        pa.field("activation", pa.string()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("mid_channels", pa.int32()),
        pa.field("role", pa.string(), nullable=False),
        pa.field("median_ms", pa.float64(), nullable=False),
        pa.field("low_ms", pa.float64(), nullable=False),
        pa.field("high_ms", pa.float64(), nullable=False),
        pa.field("min_ms", pa.float64(), nullable=False),
        pa.field("p90_ms", pa.float64(), nullable=False),
        pa.field("mad_ms", pa.float64(), nullable=False),
        pa.field("raw", pa.int32(), nullable=False),
        pa.field("kept", pa.int32(), nullable=False),
        pa.field("builds_differ_pct", pa.float64()),
    ]
)
"""
One row an entry: the key, the width, then the summary of its samples, as they would have been in the machine's quiet moments
(`LatencyProtocol.levelled`). `low_ms` to `high_ms` is the bootstrap interval of the median over rounds, of the level that so few rounds
can attain (`LatencyProtocol.interval_confidence`). `role`: `plan` entries make the table, `held_out` ones only test it. `raw` and `kept`
count samples before and after rejection; where fewer than half were kept the figures are of all (`used_all`). `builds_differ_pct` is
what the two interleaved builds differ by, in per cent of their mean.
"""


class Entry(Record):
    """One row of `ENTRIES`."""

    key: LatencyKey
    mid_channels: Annotated[int, Field(ge=1)] | None
    role: Literal["plan", "held_out"]
    median_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    min_ms: Milliseconds
    p90_ms: Milliseconds
    mad_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    raw: Annotated[int, Field(ge=1)]
    kept: Annotated[int, Field(ge=0)]
    builds_differ_pct: float | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kept > self.raw:
            raise ValueError(f"{self.kept} of {self.raw} samples kept")
        if (self.key.part == "block") != (self.mid_channels is not None):
            raise ValueError("a block needs a width" if self.key.part == "block" else f"{self.key.part} has no width")
        return self

    @property
    def used_all(self) -> bool:
        """Whether the figures are of all samples, rejected ones included, because too few were accepted."""
        return used_all(self.raw, self.kept)

    def as_row(self) -> dict[str, Any]:
        """Return the entry as a row of `ENTRIES`."""
        row = self.model_dump(mode="json")
        return {**row.pop("key"), **row}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Return the entry of a row of `ENTRIES`; raises pydantic's ValidationError where a value is impossible."""
        key = {name: row[name] for name in LatencyKey.model_fields}
        rest = {name: value for name, value in row.items() if name not in key}
        return cls.model_validate({**rest, "key": key})


def used_all(raw: int, kept: int) -> bool:
    """Return whether so few of `raw` samples were kept, fewer than half, that all of them make the figure."""
    return 2 * kept < raw


class ReferenceTiming(Record):
    """A net of the literature, timed with the table and levelled alike: what a relative target is relative to."""

    net: BaselineClassifier
    measured_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    """As `NetTiming`'s."""
    raw: Annotated[int, Field(ge=1)]
    kept: Annotated[int, Field(ge=0)]
    builds_differ_pct: float | None
    noise: tuple[str, ...]
    """Why the figure is not to be believed; empty where it is."""


class NetTiming(Record):
    """A whole random net of the space: measured, and predicted from the table."""

    kind: NetKind
    genotype: Genotype
    use: Literal["fit", "held_out"]
    measured_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    kept: int
    table_ms: Milliseconds
    """The plain sum over the table."""
    predicted_ms: Milliseconds
    predicted_low_ms: float
    predicted_high_ms: float


class Leverage(Record):
    """
    How much the fit adds to the variance of a prediction, in units of that of one net: h = (a x^2 + 2 b x + c) / (prediction)^2.

    x is the sum over the table in ms; a, b and c are the inverse of the fit's normal matrix (scale, overhead). A net far from those that
    were fitted is predicted less surely.
    """

    a: float
    b: float
    c: float
    typical: float
    """Mean of h over the fitted nets, which is what `Calibration.interval_pct` holds."""


class Calibration(Record):
    """
    What turns the sum over the table into a prediction, fitted on whole nets (`NetTiming.use == "fit"`).

    predicted = scale * (sum over the table) + overhead_ms, for each kind of net: the scale takes up what parts share or overlap, the
    overhead what a call costs beside its parts.
    """

    scale: dict[NetKind, float]
    overhead_ms: dict[NetKind, float]
    spread_pct: dict[NetKind, float]
    """Standard deviation of the fit's relative residuals, of each kind of net."""
    interval_pct: dict[NetKind, float]
    """Half the width of the prediction interval of each kind of net, in per cent of the prediction, where the fit is typically sure."""
    leverage: dict[NetKind, Leverage] = Field(default_factory=dict)
    """How unsure the fit itself is at a sum over the table; of a kind that is missing, as everywhere else."""
    confidence: float
    fitted_on: int
    """Nets, of all kinds together."""
    fitted_on_full_depth: int
    """Those of them that have every block."""


class Accuracy(Record):
    """Error of the predictor on held-out whole nets of one kind, in per cent of the measured latency."""

    kind: NetKind
    nets: int
    full_depth: int
    """Those of them that have every block."""
    mape_pct: float
    table_mape_pct: float
    """Of the plain sum over the table, without calibration."""
    bias_pct: float
    worst_pct: float
    within_5_pct: float
    """Share of nets, in per cent, whose error is at most 5 %."""
    within_10_pct: float
    spearman: float
    kendall: float
    inside_interval_pct: float
    """Share of nets, in per cent, whose measured latency lies in the prediction interval."""


class DepthAccuracy(Record):
    """
    Error of the predictor on the held-out nets of one kind and depth, in per cent of the measured latency.

    A search with learned depth ends with nets of reduced depth, one without with nets of full depth.
    """

    kind: NetKind
    depth: Depth
    nets: int
    mape_pct: float
    table_mape_pct: float
    """Of the plain sum over the table, without calibration."""
    bias_pct: float
    worst_pct: float
    spearman: float


class GateCheck(Record):
    """One condition of the noise gate."""

    name: str
    limit_name: str | None = None
    """Field of `GateLimits` that `limit` is; `None` where no parameter sets it."""
    value: float | None
    """`None` where there is none; `reason` says why."""
    limit: float
    unit: str
    passed: bool
    told: bool = True
    """The machine tells; a check of which it tells nothing closes no gate, but a profile with one is not trusted."""
    reason: str = ""
    remedy: str = ""


class Gate(Record):
    """The noise gate's verdict; a profile that failed it is written only where `allow_noisy` says so, and carries the flag."""

    checks: tuple[GateCheck, ...]
    allow_noisy: bool

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def trusted(self) -> bool:
        """Whether every check passed, and the machine told what each asks."""
        return self.passed and not self.untold

    @property
    def verdict(self) -> str:
        """In a few words."""
        if not self.passed:
            return "NOT PASSED"
        return (
            "passed"
            if not self.untold
            else f"passed, NOT TRUSTED: this machine does not tell of {'; '.join(self.untold)}"
        )

    @property
    def untold(self) -> tuple[str, ...]:
        """Names of the checks of which the machine tells nothing."""
        return tuple(check.name for check in self.checks if not check.told)


class PlanReport(Record):
    """Which widths were measured, and what interpolation between them costs."""

    entries: int
    """Measured entries that make the table, fixed parts included."""
    held_out: int
    """Further entries that only test it."""
    width_multiple: int
    """Widths are multiples of this."""
    modulus: int
    """Widths that are multiples of this run on a line of their own on this device; equal to `width_multiple` where none do."""
    modulus_gain_pct: float
    """How far the multiples of `modulus` lie under their neighbours' line, median over the probes; 0 of a staircase."""
    stairs: bool = False
    """Every begun `modulus` costs a whole one: the table has a value a step, and interpolates between steps (from version 3 on)."""
    mean_error_pct: float
    """Of the table's interpolation at held-out widths, absolute, in per cent of the measured entry."""
    bias_pct: float
    worst_error_pct: float


class LatencyProtocol(Record):
    """How the samples were taken."""

    in_context: bool
    """Parts were timed between marks inside whole nets; else each alone."""
    processes: int
    rounds: int
    """Most rounds of any entry, over all processes."""
    warm_calls: int
    """Untimed calls of a net right before each timed one."""
    clock: Clock
    canary_band_pct: float
    """Samples whose canary was further than this above its reference were rejected."""
    canary_reference_ms: float
    levelled: bool = True
    """What the machine's slower moments cost, told by all subjects timed about then, was taken out of every figure alike."""
    session_slow_pct: Annotated[float, Field(ge=0)] = 0.0
    """
    How far, in per cent, the canary was above its reference even in the quiet moments that the figures are levelled to: a machine that
    is slow throughout. Later measurements may be as much faster, and prediction intervals reach down so far.
    """
    interval_confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Level that the intervals of medians attain: of few rounds not even least and greatest hold the true median with 95 %."""
    rejected: dict[str, int]
    """Samples rejected, by reason. They still count where fewer than half of an entry's or net's were accepted (`used_all`)."""
    seconds: float


class ProfileMetadata(Record):
    """What a latency profile says of itself."""

    version: Literal[4] = 4
    """Earlier ones lack the cache, TF32 and the reference nets; they are refused, for a profile is soon made anew."""
    device: DeviceCard
    setting: LatencySetting
    protocol: LatencyProtocol
    states: tuple[tuple[float, DeviceState], ...]
    """Seconds since the start, and the device then: before, during and after."""
    canary: tuple[tuple[float, Milliseconds], ...] = ()
    """Seconds since the start, and the canary's median time over the few samples taken right before then; thinned."""
    plan: PlanReport
    calibration: Calibration
    accuracy: tuple[Accuracy, ...]
    depths: tuple[DepthAccuracy, ...] = ()
    """The same nets apart by depth, where there are any."""
    nets: tuple[NetTiming, ...]
    references: tuple[ReferenceTiming, ...] = ()
    """Nets of the literature that the parameters name."""
    gate: Gate
    provenance: Provenance

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, values: Any) -> Any:
        """Say of an earlier or a later version that alone, not all that it lacks."""
        version = values.get("version", 4) if isinstance(values, dict) else 4
        if isinstance(version, int) and version != 4:
            age = "an earlier" if version < 4 else "a later"
            raise ValueError(
                f"this is a latency profile of version {version}, written by {age} dcnas; this one reads version 4: "
                "profile the device again"
            )
        return values

    @model_validator(mode="after")
    def _noisy_only_where_allowed(self) -> Self:
        if not self.gate.passed and not self.gate.allow_noisy:
            raise ValueError("a profile that failed its noise gate was not allowed to be written")
        return self
