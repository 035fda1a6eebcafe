"""The typed form of what params.yaml says of searches: the sections search_supernet and derive_genotype, and entries of `searches`."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from dcnas_schema.photo_models import BaselineClassifier
from dcnas_schema.photo_params import JitterParams, PhotoViewParams
from dcnas_schema.photo_training import PhotoLossParams
from dcnas_schema.section import MOST, Count, CountOrZero, Fraction, Positive, Precision, Section, no_boolean
from dcnas_schema.space import OP_SETS, SMALLEST_INPUT, NetKind, OpName

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bound = Literal["classifier", "joint", "denoiser"]
KIND_OF_BOUND: dict[Bound, NetKind] = {"classifier": "c_nas", "joint": "dc_nas", "denoiser": "d_nas"}
"""The net whose latency the target bounds."""


class TargetSpec(Section):
    """The latency to search for: `{ms: 8.0}`, `{relative: 1.2, to: mobilenet_v2}` or `{reach: 0.3}`; of one pass of the profile's batch."""

    ms: Positive | None = None
    relative: Positive | None = None
    """Times the latency of the reference net `to`, which the latency profile holds: `profile_latency.references` names it."""
    to: BaselineClassifier | None = None
    reach: Fraction | None = None
    """This far from the fastest to the slowest net of the four ops without SE, all blocks used, as predicted for this device: the same
    latency for every candidate set, and in reach of each."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [value for value in (self.ms, self.relative, self.reach) if value is not None]
        if len(given) != 1 or (self.relative is None) != (self.to is None):
            raise ValueError("a target is {ms: x}, {relative: r, to: a reference net} or {reach: from 0 to 1}")
        return self

    def __str__(self) -> str:
        if self.reach is not None:
            return f"{100 * self.reach:g} % of the reach"
        return f"{self.ms:g} ms" if self.ms is not None else f"{self.relative:g} x {self.to}"


class SearchSpec(Section):
    """One search: an entry of `searches` (paper, Sec. 4.1 and 4.4)."""

    ops: Annotated[Literal[4, 6, 8], BeforeValidator(no_boolean)]
    """Size of the candidate set; 4 are those without SE (paper, Exp. 1 and 2)."""
    beta: Literal["removed", "sink"] = "removed"
    """`removed` uses every block, the paper's proposal; `sink` learns each network stage's depth, as TF-NAS does."""
    images: Literal["clean", "noisy"]
    loss: Literal["classification", "both"] = "classification"
    """`both` attaches the decoder to the supernet and takes L_Both (paper, Eq. 3)."""
    bound: Bound = "classifier"
    """The net that must meet the target: the classifier alone (the paper), the denoiser, or the joint model with its decoder."""
    target: TargetSpec
    width_multiple: Annotated[Literal[1, 2, 4, 8, 16, 32], BeforeValidator(no_boolean)] = 8
    """Widths move in multiples of this; TF-NAS has 1. The table measures multiples of `profile_latency.width_multiple`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.loss == "both" and self.images == "clean":
            raise ValueError("loss both needs noisy images: on clean ones the decoder has nothing to remove")
        return self

    @property
    def candidates(self) -> tuple[OpName, ...]:
        """The candidate ops, in the order of the architecture parameters."""
        return OP_SETS[self.ops]

    @property
    def kind(self) -> NetKind:
        """The net whose latency the target bounds."""
        return KIND_OF_BOUND[self.bound]


class ArchitectureParams(Section):
    """Adam on the architecture parameters (defaults: TF-NAS's)."""

    learning_rate: Positive = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: NotNegative = 5e-4
    clip: Positive = 5.0
    """Greatest norm of the gradient."""
    every: Count = 2
    """Batches of weight steps to one architecture step."""


class TemperatureParams(Section):
    """Temperature of the Gumbel softmax: `start`, times `decay` after each epoch behind the warm-up (defaults: TF-NAS's)."""

    start: Positive = 5.0
    decay: Annotated[float, Field(gt=0, le=1)] = 0.96


class SearchSupernetParams(Section):
    """
    Section of the pipeline stage search_supernet.

    Defaults are the paper's where it states them (learning rate, epochs, sigma), else TF-NAS's, of which "all other settings" are.
    """

    epochs: Count = 90
    warmup_epochs: CountOrZero = 10
    """First epochs, in which weights alone are trained."""
    batch_size: Annotated[int, Field(ge=2, le=MOST)] = 32
    """Images a step, of weights and of the architecture; at least 2, because batch norm needs more than one value."""
    view: PhotoViewParams = PhotoViewParams(
        size=224,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        flip=0.5,
        jitter=JitterParams(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
        centre_share=224 / 256,
        memory_mb=16_000,
    )
    """How the nets see the pictures while searching: random for weights, centred for the architecture (TF-NAS); a target is at the
    latency profile's size."""
    learning_rate: Positive = 0.02
    """SGD's at the start, falling to 0 along a cosine, epoch by epoch (paper: 2e-2; TF-NAS: 0.025)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 1e-5
    clip: Positive = 5.0
    """Greatest norm of the weights' gradient."""
    architecture: ArchitectureParams = ArchitectureParams()
    temperature: TemperatureParams = TemperatureParams()
    latency_weight: NotNegative = 0.1
    """Of |expected latency / target - 1| in the architecture's loss."""
    loss: PhotoLossParams = PhotoLossParams(
        cross_entropy=0.1, denoising=0.9, charbonnier=0.8, ssim=0.2, charbonnier_epsilon=1e-3, label_smoothing=0.0
    )
    """Eq. 2 and 3 for `loss: both`; a search does not smooth labels (TF-NAS)."""
    sigma: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 1.0
    """Noise of `images: noisy`: uniform from 0 to this, one value an image, in units of the [0, 1] pixel range (paper, Sec. 4: 1)."""
    clip_noisy: bool = False
    """Clip the noisy image to [0, 1]; the protocol's default is not to."""
    precision: Precision = "auto"
    """`auto`: fp32 on a CPU, where bf16 was slower; on CUDA bf16 where the device multiplies it."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """`auto`: channels_last."""
    form: Literal["auto", "plain", "fused"] = "auto"
    """How all candidates of a place run: `auto` fuses them on CUDA and runs them one after another on a CPU."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leave none of {self.epochs} epochs to the architecture"
            )
        if self.view.size < SMALLEST_INPUT:
            raise ValueError(f"view.size is {self.view.size}: the search space takes {SMALLEST_INPUT} pixels or more")
        return self


class DeriveGenotypeParams(Section):
    """Section of the pipeline stage derive_genotype: how the derived net is timed."""

    measure: bool = True
    """Time the derived net where the profile is this device's and torch runs it; else the record says why not."""
    warmup: CountOrZero = 100
    """Passes before timing (paper: 100)."""
    repeats: Annotated[int, Field(ge=3, le=MOST)] = 1000
    """Timed passes (paper: 1000)."""
    canary_band_pct: Positive = 15.0
    """Passes are rejected when the reference op beside them is this much slower than this machine's best."""
