"""What is asked of the process that times a trained net; a module without torch, which that process must not have imported yet."""

from typing import Literal

from dcnas_schema.digit_params import LatencyParams, ModelSpec
from dcnas_schema.genotype import Genotype
from dcnas_schema.photo_models import PhotoModelSpec
from dcnas_schema.provenance import DeviceCard, Record


class SceneNet(Record):
    """A net that takes scenes and the corners of their digits."""

    spec: ModelSpec


class PhotoNet(Record):
    """A net that takes photos alone."""

    spec: PhotoModelSpec
    genotype: Genotype | None
    classes: int
    """Of its last layer, which need not be those that it was trained for."""


class Question(Record):
    """What is to be timed, how and where."""

    scene_net: SceneNet | None = None
    photo_net: PhotoNet | None = None
    """One of the two."""
    weights: str
    """Path of the trained weights; those of another shape than the net's stay out, so that no activation is smaller than it ought to be."""
    height: int
    width: int
    """Of the images, in pixels."""
    precision: Literal["fp32", "bf16"]
    memory_format: Literal["channels_last", "contiguous"]
    cache: Literal["warm", "cold"] = "warm"
    tf32: bool = True
    """A GPU may compute fp32 convolutions in TF32, as it does by torch's default."""
    params: LatencyParams
    card: DeviceCard
    """The device, which is waited for until it is free."""
    scratch: str
    """Folder where this machine's best time of the reference op is kept."""
