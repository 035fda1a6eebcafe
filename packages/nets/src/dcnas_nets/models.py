"""The models of Sec. 3 behind one interface: scenes and digit boxes in, restored scenes and digit logits out."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dcnas_nets.classifiers import CLASSES, ConvClassifier, FeatureHead, MBConvClassifier, crop_digits, crop_features
from dcnas_nets.unet import Decoder, Encoder, UNet, pad_to_stride
from dcnas_schema.params import ClassifierSpec, DenoiserSpec, JointSpec, ModelSpec
from dcnas_schema.scenes import DIGITS_PER_SCENE


class Output(NamedTuple):
    """What a model says of a batch of scenes."""

    restored: Tensor | None
    """batch x 3 x height x width, not clamped; `None` for a classifier."""
    logits: Tensor | None
    """batch x digits x 10; `None` for a denoiser."""


class SceneModel(nn.Module, ABC):
    """Base of all models of Sec. 3. `images` says whether the input is to be noisy or clean."""

    images: str = "noisy"

    @abstractmethod
    def forward(
        self, image_BCHW: Float[Tensor, "batch 3 height width"], corners: Int[Tensor, "batch digits 2"]
    ) -> Output:
        """
        Restore the scenes and classify their digits.

        Args:
            image_BCHW: Scenes of any height and width, unit range plus noise.

            corners: First row and column of each digit's 28x28 box (ground truth).
        """


class Denoiser(SceneModel):
    """A UNet alone."""

    def __init__(self, spec: DenoiserSpec) -> None:
        super().__init__()
        self.unet = UNet(spec.unet)

    def forward(
        self, image_BCHW: Float[Tensor, "batch 3 height width"], corners: Int[Tensor, "batch digits 2"]
    ) -> Output:
        """Restore the scenes; the boxes are not needed."""
        del corners
        return Output(self.unet(image_BCHW), None)


class Classifier(SceneModel):
    """A digit classifier alone, on boxes cut from the scene."""

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        self.images = spec.images
        self.classifier = ConvClassifier() if spec.classifier == "conv" else MBConvClassifier()

    def forward(
        self, image_BCHW: Float[Tensor, "batch 3 height width"], corners: Int[Tensor, "batch digits 2"]
    ) -> Output:
        """Classify the digits."""
        return Output(None, _per_scene(self.classifier(crop_digits(image_BCHW, corners)), corners))


class SequentialDCNet(SceneModel):
    """DC-Net, sequential (paper, Fig. 2.i): the classifier sees digits cut from the restored image."""

    def __init__(self, spec: JointSpec) -> None:
        super().__init__()
        self.unet = UNet(spec.unet)
        self.classifier = MBConvClassifier()

    def forward(
        self, image_BCHW: Float[Tensor, "batch 3 height width"], corners: Int[Tensor, "batch digits 2"]
    ) -> Output:
        """Restore the scenes, then classify the digits in them."""
        restored = self.unet(image_BCHW)
        return Output(restored, _per_scene(self.classifier(crop_digits(restored, corners)), corners))


class IntegratedDCNet(SceneModel):
    """DC-Net, integrated (paper, Fig. 2.ii): decoder and classifier share the encoder."""

    def __init__(self, spec: JointSpec) -> None:
        super().__init__()
        self.stride = 2 ** (spec.unet.depth - 1)
        self.encoder = Encoder(spec.unet)
        self.decoder = Decoder(spec.unet)
        self.head = FeatureHead(self.encoder.widths[-1])

    def forward(
        self, image_BCHW: Float[Tensor, "batch 3 height width"], corners: Int[Tensor, "batch digits 2"]
    ) -> Output:
        """Encode once; restore the scenes and classify the digits from the bottleneck."""
        height, width = image_BCHW.shape[-2:]
        features = self.encoder(pad_to_stride(image_BCHW, self.stride))
        restored = self.decoder(features)[..., :height, :width]
        windows = crop_features(features[-1], corners, self.stride)
        return Output(restored, _per_scene(self.head(windows), corners))


def build_model(spec: ModelSpec, *, seed: int) -> SceneModel:
    """Return the model of `spec` with weights drawn from `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match spec:
            case DenoiserSpec():
                return Denoiser(spec)
            case ClassifierSpec():
                return Classifier(spec)
            case JointSpec(join="sequential"):
                return SequentialDCNet(spec)
            case JointSpec():
                return IntegratedDCNet(spec)


def _per_scene(logits: Float[Tensor, "rows 10"], corners: Int[Tensor, "batch digits 2"]) -> Tensor:
    return logits.view(-1, corners.shape[1], CLASSES)


def example_input(batch: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return zeros of the shapes that the models take, boxes at the scene's corner: for counting and timing."""
    image = torch.zeros((batch, 3, height, width), device=device)
    corners = torch.zeros((batch, DIGITS_PER_SCENE, 2), dtype=torch.int64, device=device)
    return image, corners
