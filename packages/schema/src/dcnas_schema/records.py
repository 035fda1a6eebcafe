"""The tables that retrain and evaluate write: training log, evaluation record, panel of images."""

from typing import Literal

import pyarrow as pa
from pydantic import Field

from dcnas_schema.digit_params import ModelSpec
from dcnas_schema.provenance import DeviceCard, DeviceState, Provenance, Record

TRAINING_LOG = pa.schema(
    [
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("train_loss", pa.float64(), nullable=False),
        pa.field("validation_loss", pa.float64(), nullable=False),
        pa.field("validation_psnr_db", pa.float64()),
        pa.field("validation_top1_pct", pa.float64()),
    ]
)
"""One row an epoch; the columns of a task that the model does not have are null."""

RECORD = pa.schema(
    [
        pa.field("sigma", pa.float64(), nullable=False),
        pa.field("images", pa.int32(), nullable=False),
        pa.field("noisy_psnr_db", pa.float64()),
        pa.field("noisy_ssim", pa.float64(), nullable=False),
        pa.field("psnr_db", pa.float64()),
        pa.field("psnr_pooled_db", pa.float64()),
        pa.field("exact", pa.int32()),
        pa.field("ssim", pa.float64()),
        pa.field("top1_pct", pa.float64()),
    ]
)
"""
One row a noise level. PSNR [dB] is the mean over images of each image's, without the `exact` ones, which the model restores to the last
bit (such a PSNR is unbounded); `psnr_pooled_db` is that of the mean squared error of all. `noisy_*` score the input itself (its PSNR at
sigma 0 is unbounded, hence null). Null where the model lacks the task.
"""

PANEL = pa.schema(
    [
        pa.field("scene", pa.int32(), nullable=False),
        pa.field("sigma", pa.float64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("clean", pa.binary(), nullable=False),
        pa.field("noisy", pa.binary(), nullable=False),
        pa.field("restored", pa.binary()),
        pa.field("label", pa.list_(pa.field("item", pa.uint8(), nullable=False)), nullable=False),
        pa.field("predicted", pa.list_(pa.field("item", pa.uint8(), nullable=False))),
        pa.field("corners", pa.list_(pa.field("item", pa.int16(), nullable=False)), nullable=False),
    ]
)
"""Sample images, RGB uint8 (clamped for display), height x width x 3, row-major; `corners`: top, left of each digit's box."""


class TrainingMetadata(Record):
    """What a training log says of itself."""

    version: Literal[1] = 1
    model: str
    seed: int
    spec: ModelSpec
    epochs: int
    batch_size: int
    train_scenes: int
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    weights_sha256: str
    """Of the weights file written with this log."""
    provenance: Provenance


class Cost(Record):
    """Cost of one forward pass of one image: a scene with its digits. MACs by the protocol's count."""

    macs: int
    macs_one_digit: int
    """With the classifier counted once, as the paper's figures are (derived)."""
    parameters: int
    height: int
    width: int


class MeasuredLatency(Record):
    """
    Wall time in ms of one forward pass of a whole batch, synchronised, eval mode, inference mode.

    Records of the simple timer, which rejected nothing, have none of the fields with a default.
    """

    batch: int
    height: int
    width: int
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    runtime: Literal["torch eager"] = "torch eager"
    warmup: int
    warm_calls: int = 0
    """Untimed passes right before each timed one."""
    repeats: int
    """Timed passes asked for."""
    median_ms: float
    p5_ms: float
    p95_ms: float
    device_median_ms: float | None
    """Median time between CUDA events around the pass; `None` on a CPU, or where launches were never hidden."""
    device_p5_ms: float | None = None
    device_p95_ms: float | None = None
    unsynchronised_ms: float | None = None
    """Mean wall time of back-to-back passes that nobody waits for, the paper's figure; `None` where it is not asked for."""
    cache: Literal["warm", "cold"] = "warm"
    tf32: bool | None = None
    """Whether a GPU computed fp32 convolutions in TF32; `None` where nobody said."""
    raw: int | None = None
    kept: int | None = None
    """Timed passes, and those that the figures are of; with too few accepted the figures are of the quieter half, and `noise` says so."""
    rejected: dict[str, int] = Field(default_factory=dict)
    """Passes rejected, by reason."""
    canary_band_pct: float | None = None
    """Passes whose reference op was further than this above its best were rejected."""
    canary_reference_ms: float | None = None
    """The best that was known of the machine: of all its sessions, or of this one alone in records made before it was kept."""
    others_pct: float | None = None
    """Share of all processors' time that other programs took meanwhile; `None` where it was not told."""
    noise: tuple[str, ...] = ()
    """Why the figures are not to be believed; empty where they are, or where nobody looked."""
    before: DeviceState
    after: DeviceState

    def by(self, clock: Literal["wall", "cuda_events", "simulated"]) -> float | None:
        """
        Return the median in ms by the clock of a latency profile, the only figure to set beside its predictions.

        `None` where there is none: on a GPU whose launches were never hidden, or beside a simulated device.
        """
        return {"wall": self.median_ms, "cuda_events": self.device_median_ms, "simulated": None}[clock]

    def spread_by(self, clock: Literal["wall", "cuda_events", "simulated"]) -> tuple[float, float, float] | None:
        """Return median and 5th and 95th percentile by that clock; those are the median too where they were not kept."""
        if clock == "wall":
            return self.median_ms, self.p5_ms, self.p95_ms
        median = self.by(clock)
        if median is None:
            return None
        low, high = self.device_p5_ms, self.device_p95_ms
        return median, median if low is None else low, median if high is None else high

    @property
    def noisy(self) -> bool:
        """Whether tables mark the figures."""
        return bool(self.noise)


class Protocol(Record):
    """How the record's numbers were measured."""

    sigmas: tuple[float, ...]
    clip_noisy: bool
    noise_seed: int
    precision: Literal["fp32", "bf16"]
    psnr: str = "mean over images of the per-image PSNR, data range 1, restored image clamped to [0, 1]"
    ssim: str = "Wang 2004: 11x11 Gaussian window, sigma 1.5, K = (0.01, 0.03), valid region, mean over channels"


class EvaluationMetadata(Record):
    """What an evaluation record says of itself."""

    version: Literal[2] = 2
    """Version 1 did not count images that are restored exactly."""
    model: str
    seed: int
    spec: ModelSpec
    epochs: int
    protocol: Protocol
    cost: Cost
    latency: MeasuredLatency | None
    """`None` where `evaluate.latency.measure` is off."""
    provenance: Provenance

    @property
    def card(self) -> DeviceCard:
        """The device that made the record."""
        return self.provenance.device


class PanelMetadata(Record):
    """What a panel of images says of itself."""

    version: Literal[1] = 1
    model: str
    seed: int
    provenance: Provenance
