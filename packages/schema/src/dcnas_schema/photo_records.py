"""The tables that retrain and evaluate write of models on photos: training log, evaluation record, panel of images."""

from typing import Literal

import pyarrow as pa

from dcnas_schema.genotype import Genotype
from dcnas_schema.latency import Clock, LatencySetting
from dcnas_schema.photo_models import PhotoModelSpec
from dcnas_schema.provenance import DeviceCard, Provenance, Record
from dcnas_schema.records import PANEL, RECORD, TRAINING_LOG, MeasuredLatency, Protocol
from dcnas_schema.search_log import NetCost, PredictedLatency
from dcnas_schema.section import Name

PHOTO_TRAINING_LOG = pa.schema(
    [
        *(field.with_nullable(field.nullable or field.name == "validation_loss") for field in TRAINING_LOG),
        pa.field("validation_top5_pct", pa.float64()),
    ]
)
"""One row an epoch, as `TRAINING_LOG`, and top-5; all `validation_*` are null where a model trains on the validation photos too."""

PHOTO_RECORD = pa.schema([*RECORD, pa.field("top5_pct", pa.float64())])
"""One row a noise level, as `RECORD`, and top-5 [%]."""

PHOTO_PANEL = pa.schema(
    [
        pa.field("image", pa.int32(), nullable=False),
        *(PANEL.field(name) for name in ("sigma", "height", "width", "clean", "noisy", "restored")),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("predicted", pa.int32()),
    ]
)
"""Sample photos, as `PANEL`; `image` is the photo's number in the test split, `predicted` the most likely class."""


class DrawnSubnet(Record):
    """How a random subnet of a wanted latency was drawn."""

    target_ms: float
    predicted_ms: float
    draws: int
    """Genotypes drawn until one was near enough."""


class ChosenGenotype(Record):
    """
    What a model with one seed is built of: the file that training reads.

    It holds nothing else, neither provenance nor a measured latency, so that a model trains anew only where its net is another one.
    """

    version: Literal[1] = 1
    model: Name
    seed: int
    genotype: Genotype | None
    """`None` for a model outside the search space."""
    search: Name | None
    """The search that the genotype, or a random subnet's target, comes from."""
    search_seed: int | None
    drawn: DrawnSubnet | None
    """Of a random subnet."""


class PhotoTrainingMetadata(Record):
    """What a training log says of itself."""

    version: Literal[2] = 2
    """Version 1 had the number of classes in place of their names."""
    model: str
    seed: int
    spec: PhotoModelSpec
    genotype: Genotype | None
    """Of a net of the search space."""
    search_seed: int | None
    """Seed of the search that the genotype, or a random subnet's target, comes from."""
    drawn: DrawnSubnet | None
    """Of a random subnet."""
    classes: tuple[str, ...]
    """Names of the classes of the photo set, in the order of the net's outputs."""
    epochs: int
    batch_size: int
    peak_learning_rate: float
    """Scaled with the batch."""
    train_photos: int
    image_size: int
    """Height and width of the net's input in pixels."""
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    weights_sha256: str
    """Of the weights file written with this log."""
    provenance: Provenance


class ModelLatency(Record):
    """Latency in ms of one forward pass of a whole batch: measured, and beside it what the latency profile predicts for its setting."""

    measured: MeasuredLatency | None
    """`None` where it is not to be measured."""
    setting: LatencySetting | None
    """Of the profile; where there is one, the net is built with its classes and timed at its batch, size, precision and memory format."""
    profile_card: DeviceCard | None
    """The device that the profile is of: what is predicted is predicted for it, wherever the net was timed."""
    predicted: PredictedLatency | None
    """`None` where no profile is given, or the profile has not the model's parts."""
    not_comparable: str | None
    """Why the prediction does not speak of what was measured: another device, another runtime."""
    clock: Clock = "wall"
    """What the profile's figures are by, and so what the measurement is compared by."""

    @property
    def error_pct(self) -> float | None:
        """How far the prediction is off, in per cent of the measured latency; `None` where the two are not to be compared."""
        if self.measured is None or self.predicted is None or self.not_comparable is not None:
            return None
        measured_ms = self.measured.by(self.clock)
        return None if measured_ms is None else 100 * (self.predicted.ms / measured_ms - 1)


class PhotoEvaluationMetadata(Record):
    """What an evaluation record says of itself."""

    version: Literal[2] = 2
    """Version 1 did not count photos that are restored exactly, nor name the profile's device."""
    model: str
    seed: int
    spec: PhotoModelSpec
    genotype: Genotype | None
    search_seed: int | None
    drawn: DrawnSubnet | None
    classes: tuple[str, ...]
    epochs: int
    image_size: int
    protocol: Protocol
    cost: NetCost
    """Of one photo of `image_size` with these classes."""
    latency: ModelLatency
    provenance: Provenance

    @property
    def card(self) -> DeviceCard:
        """The device that made the record."""
        return self.provenance.device


class PhotoPanelMetadata(Record):
    """What a panel of photos says of itself."""

    version: Literal[1] = 1
    model: str
    seed: int
    classes: tuple[str, ...]
    provenance: Provenance
