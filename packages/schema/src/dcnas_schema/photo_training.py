"""Parameters of training and evaluating the models of Sec. 4 on photographs: TF-NAS's recipe of retraining, and the paper's losses."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dcnas_schema.digit_params import LatencyParams
from dcnas_schema.section import MOST, Count, CountOrZero, Positive, Precision, Section, Seed

Sigma = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Below1 = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class PhotoNoiseParams(Section):
    """Additive white Gaussian noise on photos, in units of the [0, 1] pixel range."""

    highest: Sigma
    """Each training image's level is drawn uniformly from 0 to this (paper, Sec. 4: 1)."""
    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1)]
    """Noise levels of testing (protocol: eleven values evenly spaced on [0, 1])."""
    clip: bool
    """Clip the noisy image to [0, 1]; the protocol's default is not to."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.sigmas)) != len(self.sigmas):
            raise ValueError(f"noise levels repeat: {list(self.sigmas)}")
        return self


class PhotoLossParams(Section):
    """Eq. 2 and 3 of the paper."""

    cross_entropy: Weight
    """Of L_CE in L_Both (paper: 0.1)."""
    denoising: Weight
    """Of L_Den in L_Both (paper: 0.9)."""
    charbonnier: Weight
    """Of L_Char in L_Den (paper: 0.8)."""
    ssim: Weight
    """Of L_SSIM = 1 - SSIM in L_Den (paper: 0.2); 0 leaves it out."""
    charbonnier_epsilon: Positive
    """Epsilon of sqrt(error^2 + epsilon^2), in units of the [0, 1] pixel range."""
    label_smoothing: Below1
    """Share of a label's weight that is spread over all classes (TF-NAS: 0.1)."""

    @model_validator(mode="after")
    def _not_zero(self) -> Self:
        for one, other in (("cross_entropy", "denoising"), ("charbonnier", "ssim")):
            if getattr(self, one) == getattr(self, other) == 0:
                raise ValueError(f"{one} and {other} are both 0: nothing would be trained")
        return self


class WarmupParams(Section):
    """Linear warm-up of the learning rate, epoch by epoch (TF-NAS)."""

    epochs: CountOrZero
    """0: none (TF-NAS: 5)."""
    above_batch: CountOrZero
    """Only batches larger than this warm up (TF-NAS: 256)."""


class RetrainPhotosParams(Section):
    """How models of Sec. 4 are trained from scratch."""

    epochs: Count
    """Passes over the training photos (paper: 250)."""
    batch_size: Annotated[int, Field(ge=2, le=MOST)]
    """Photos per step; at least 2, because batch normalisation needs more than one value (TF-NAS: 512)."""
    learning_rate: Positive
    """SGD's at its peak (paper: 0.2)."""
    learning_rate_batch: Count | None
    """The batch size that `learning_rate` is for: it is scaled in proportion to `batch_size`; `null`: it is not (TF-NAS: 512)."""
    momentum: Below1
    """TF-NAS: 0.9."""
    weight_decay: Weight
    """On every parameter (TF-NAS: 1e-5)."""
    warmup: WarmupParams
    grad_clip: Positive | None
    """Most Euclidean norm of all gradients together; `null`: not clipped (TF-NAS: 5)."""
    dropout: Below1
    """Before the last linear layer (TF-NAS: 0.2)."""
    drop_connect: Below1
    """Chance that the last residual block is skipped, growing linearly over the blocks (TF-NAS: 0.2)."""
    loss: PhotoLossParams
    recalibrate: CountOrZero
    """
    Training photos that batch norm's statistics are computed on after the last step, seen as in training, rounded up to whole batches;
    more than there are: some are seen again. 0: none (TF-NAS); short trainings need it.
    """
    train_on: Literal["train", "train_and_validation"]
    """TF-NAS retrains on all photos that the search had, both splits; then nothing is left to validate on, and the log says so by nulls."""
    precision: Precision
    """`auto`: bf16 autocast where the device multiplies bf16 in hardware (CUDA >= 8.0, AMX), else fp32."""
    memory_format: Literal["auto", "channels_last", "contiguous"]


class PhotoPanelParams(Section):
    """Photos shown in Figure 8."""

    images: Annotated[int, Field(ge=1, le=64)]
    """The first of the test split, one of each class while there are classes."""
    sigmas: Annotated[tuple[Sigma, ...], Field(min_length=1)]
    """Noise levels shown; each must be one of the noise levels of testing."""


class EvaluatePhotosParams(Section):
    """How models of Sec. 4 are scored and timed."""

    batch_size: Count
    noise_seed: Seed
    """With the image and the level, all that the test noise depends on."""
    precision: Precision
    latency: LatencyParams
    """Where a latency profile is given, batch, size, classes, precision and memory format of the timed net are the profile's."""
    panel: PhotoPanelParams
