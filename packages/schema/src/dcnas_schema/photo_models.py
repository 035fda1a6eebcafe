"""
The models of Sec. 4 as params.yaml describes them: nets of the search space, and the baselines of Table 3 and Figure 6.

A net of the search space gets its genotype from one of three places: a search (`search: NAME`), one op everywhere (`uniform`), or a
draw at equal predicted latency (`random`), the baseline that the protocol asks for beside every search.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from dcnas_schema.digit_params import UNetSpec
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.section import Count, Name, Positive, Section
from dcnas_schema.space import DecoderName, OpName

Task = Literal["classify", "denoise", "both"]
Images = Literal["noisy", "clean"]
BaselineClassifier = Literal["mobilenet_v2", "mobilenet_v3_small", "resnet18", "efficientnetv2_b0", "efficientnetv2_b1"]
LpieWidth = Literal["0.25x", "0.5x", "1x"]


class UniformChoice(Section):
    """One op everywhere."""

    op: OpName
    expand_ratio: Positive
    """Width of each block over its input channels."""

    @model_validator(mode="after")
    def _inside_the_space(self) -> Self:
        try:
            uniform_genotype(self.op, self.expand_ratio)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ValueError(
                f"expand ratio {self.expand_ratio:g} of {self.op} is outside the space: {reason}"
            ) from error
        return self


class RandomChoice(Section):
    """A subnet drawn at random whose predicted latency is that of another; each seed of a run draws its own."""

    like: Name | None = None
    """The search whose derived genotype has the latency to be met."""
    target_ms: Positive | None = None
    """The latency to be met, of one batch of the latency profile in ms; in place of `like`."""
    ops: Literal[4, 6, 8]
    """Candidate set that is drawn from."""
    tolerance_pct: Annotated[float, Field(gt=0, le=50)] = 1.0
    """How far the predicted latency may be off, in per cent of the target."""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.like is None) == (self.target_ms is None):
            raise ValueError("a random subnet needs either like or target_ms")
        return self


class GenotypeChoice(Section):
    """Where a net of the search space has its genotype from: exactly one of the three."""

    search: Name | None = None
    """The search whose derived genotype is trained."""
    uniform: UniformChoice | None = None
    random: RandomChoice | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("search", "uniform", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of search, uniform and random, has {' and '.join(given) or 'none'}")
        return self

    @property
    def named_search(self) -> str | None:
        """The search whose genotype the model needs; `None` where it needs none."""
        return self.random.like if self.random is not None else self.search


class CNasSpec(GenotypeChoice):
    """C-NAS: a classifier of the search space (paper, Sec. 4.1)."""

    kind: Literal["c_nas"]
    images: Images = "noisy"
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


class DNasSpec(GenotypeChoice):
    """D-NAS: a denoiser on the encoder of a classifier of the space (paper, Sec. 4.2)."""

    kind: Literal["d_nas"]
    decoder: DecoderName = "conv"
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


class DCNasSpec(GenotypeChoice):
    """DC-NAS: both on one encoder (paper, Sec. 4.3); the decoders of Table 6."""

    kind: Literal["dc_nas"]
    decoder: DecoderName = "conv"
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


class DCNasSeqSpec(GenotypeChoice):
    """DC-NAS_seq: a whole classifier behind the denoiser, both of one genotype (paper, Sec. 4.4)."""

    kind: Literal["dc_nas_seq"]
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


class BaselineSpec(Section):
    """A classifier of the literature, from torchvision or timm, with random weights."""

    kind: BaselineClassifier
    images: Images = "noisy"
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


class LpieNetSpec(Section):
    """The denoiser LPIENet (Conde et al. 2023)."""

    kind: Literal["lpienet"]
    width: LpieWidth
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


class PhotoUNetSpec(Section):
    """A UNet denoiser: UNet-S is {4, 8, 1.5, 2}, UNet-M {4, 16, 2, 2}."""

    kind: Literal["unet"]
    unet: UNetSpec
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


class PhotoDCNetSpec(Section):
    """DC-Net on photos: a UNet with a classifier on its bottleneck; with UNet-S it is the paper's DC-Net S."""

    kind: Literal["dc_net"]
    unet: UNetSpec
    epochs: Count | None = None
    """Overrides `retrain_photos.epochs` for this model."""


SpaceSpec = CNasSpec | DNasSpec | DCNasSpec | DCNasSeqSpec
PhotoModelSpec = Annotated[
    SpaceSpec | BaselineSpec | LpieNetSpec | PhotoUNetSpec | PhotoDCNetSpec, Field(discriminator="kind")
]

LPIE_WIDTHS: dict[LpieWidth, tuple[int, int, int]] = {"0.25x": (4, 8, 16), "0.5x": (8, 16, 32), "1x": (16, 32, 64)}
"""Encoder widths of LPIENet, finest first."""


def task_of(spec: PhotoModelSpec) -> Task:
    """Return what a model does."""
    match spec:
        case CNasSpec() | BaselineSpec():
            return "classify"
        case DNasSpec() | LpieNetSpec() | PhotoUNetSpec():
            return "denoise"
        case DCNasSpec() | DCNasSeqSpec() | PhotoDCNetSpec():
            return "both"


def images_of(spec: PhotoModelSpec) -> Images:
    """Return whether a model is trained on noisy or on clean images; who restores needs noisy ones."""
    return spec.images if isinstance(spec, CNasSpec | BaselineSpec) else "noisy"
