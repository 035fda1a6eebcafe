"""Sections of params.yaml for two-digit scenes (paper, Sec. 3): data, models, training, evaluation; photographs share some parts."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dcnas_schema.section import MOST, Count, CountOrZero, Fraction, Name, Positive, Precision, Section, Seed


class DeviceParams(Section):
    """Where the nets run."""

    kind: Literal["auto", "cpu", "cuda"]
    """`auto` takes the first CUDA device, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=1024)]
    """CPU threads of every pipeline stage: a parameter, because results depend on it."""


class NoiseParams(Section):
    """Additive white Gaussian noise, in units of the [0, 1] pixel range."""

    sigmas: Annotated[tuple[Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)], ...], Field(min_length=1)]
    """Noise levels of training and testing (paper, Sec. 3: eleven values evenly spaced on [0, 1])."""
    clip: bool
    """Clip the noisy image to [0, 1]; the protocol's default is not to."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.sigmas)) != len(self.sigmas):
            raise ValueError(f"noise levels repeat: {list(self.sigmas)}")
        return self


class SplitCounts(Section):
    """Scenes of each split."""

    train: Count
    validation: Count
    test: Count


class DigitsParams(Section):
    """Two-digit scenes (paper, Sec. 3)."""

    source: Literal["mnist", "optdigits"]
    """`mnist` reads the four original files; `optdigits` is scikit-learn's embedded set, up-sampled."""
    root: str | None
    """Folder with MNIST's four .gz files (or MNIST/raw below it); unused by `optdigits`."""
    download: bool
    """Let torchvision fetch MNIST into `root` when it is not there."""
    scenes: SplitCounts
    size: Annotated[int, Field(ge=56, le=4096)]
    """Height and width of a scene in pixels; 56 is the least that always holds two digits of 28."""
    background: tuple[Fraction, Fraction]
    """Range of the constant background gray."""
    seed: Seed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.background[0] > self.background[1]:
            raise ValueError(f"background range is empty: {list(self.background)}")
        if self.source == "mnist" and self.root is None:
            raise ValueError("root is null: source mnist needs the folder of MNIST's four .gz files")
        return self


class UNetSpec(Section):
    """A UNet {d, b, m, c} (paper, Fig. 2)."""

    depth: Annotated[int, Field(ge=1, le=8)]
    """Number of resolution levels, the bottleneck included (d)."""
    base: Annotated[int, Field(ge=1, le=512)]
    """Width of the first level (b)."""
    multiplier: Annotated[float, Field(ge=1, le=4)]
    """Width of a level over that of the level above (m)."""
    convs: Annotated[int, Field(ge=1, le=8)]
    """3x3 convolutions per level (c)."""


class DenoiserSpec(Section):
    """A separate denoiser (paper, Suppl. A)."""

    kind: Literal["denoiser"]
    unet: UNetSpec
    epochs: Count | None = None
    """Overrides `retrain.epochs` for this model."""


class ClassifierSpec(Section):
    """A separate digit classifier (paper, Suppl. A), on crops of clean or of noisy scenes."""

    kind: Literal["classifier"]
    classifier: Literal["conv", "mbconv"]
    images: Literal["clean", "noisy"]
    epochs: Count | None = None
    """Overrides `retrain.epochs` for this model."""


class JointSpec(Section):
    """A joint model, DC-Net (paper, Sec. 3.1): classifier on the shared encoder, or after the denoiser."""

    kind: Literal["joint"]
    join: Literal["integrated", "sequential"]
    unet: UNetSpec
    epochs: Count | None = None
    """Overrides `retrain.epochs` for this model."""


ModelSpec = Annotated[DenoiserSpec | ClassifierSpec | JointSpec, Field(discriminator="kind")]


class RunsParams(Section):
    """Which models run, and with which seeds."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for key, values in (("models", self.models), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{key} repeat: {list(values)}")
        return self


class LossParams(Section):
    """Eq. 1 of the paper: `cross_entropy` * L_CE + `charbonnier` * L_Char."""

    cross_entropy: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    charbonnier: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    charbonnier_epsilon: Positive
    """Epsilon of sqrt(error^2 + epsilon^2), in units of the [0, 1] pixel range."""

    @model_validator(mode="after")
    def _not_zero(self) -> Self:
        if self.cross_entropy == self.charbonnier == 0:
            raise ValueError("both loss weights are 0: nothing would be trained")
        return self


class PlateauParams(Section):
    """Learning-rate schedule: reduce on a plateau of the validation loss."""

    factor: Annotated[float, Field(gt=0, lt=1)]
    patience: CountOrZero
    """Epochs without improvement before the rate falls."""
    minimum: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RetrainParams(Section):
    """Section of the pipeline stage retrain."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2, le=MOST)]
    """Scenes per step; at least 2, because batch normalisation needs more than one value."""
    learning_rate: Positive
    """Adam's."""
    loss: LossParams
    plateau: PlateauParams
    recalibrate: CountOrZero
    """Training scenes that batch norm's statistics are computed on after the last step, rounded up to batches of 16; 0: none (paper)."""
    precision: Precision
    """`auto`: bf16 autocast where the device multiplies bf16 in hardware (CUDA >= 8.0, AMX), else fp32."""
    memory_format: Literal["auto", "channels_last", "contiguous"]


class LatencyParams(Section):
    """How evaluate times a whole model."""

    measure: bool
    batch: Count
    """Images per forward pass (paper: 32)."""
    warmup: CountOrZero
    """Passes before timing (paper: 100)."""
    repeats: Annotated[int, Field(ge=3, le=MOST)]
    """Timed passes (paper: 1000); up to three times as many where fewer than five are accepted."""
    canary_band_pct: Positive
    """Passes are rejected when the reference op beside them is this much slower than this machine's best."""
    unsynchronised: bool = False
    """Take the paper's figure too: the mean wall time of 1000 back-to-back passes, after 100, the device never waited for."""


class PanelParams(Section):
    """The panel of restored images (Figure 3)."""

    scenes: Annotated[int, Field(ge=1, le=16)]
    sigmas: Annotated[tuple[float, ...], Field(min_length=1)]
    """Noise levels shown; each must be one of `noise.sigmas`."""


class EvaluateParams(Section):
    """Section of the pipeline stage evaluate."""

    batch_size: Count
    image_size: Annotated[int, Field(ge=32, le=4096)]
    """Height and width in pixels of the image whose cost and latency are reported (paper, Sec. 3: 96)."""
    noise_seed: Seed
    """With the image and the level, all that the test noise depends on."""
    precision: Precision
    latency: LatencyParams
    panel: PanelParams
