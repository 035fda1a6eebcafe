"""Classifiers of the literature, from torchvision or timm, with random weights: nothing is ever downloaded."""

from typing import Literal, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_nets.space import SpaceOutput
from dcnas_schema.photo_models import BaselineClassifier


class BaselineNet(nn.Module):
    """A classifier of the literature behind the interface of the nets of the search space."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image_BCHW: Float[Tensor, "batch 3 height width"]) -> SpaceOutput:
        """Classify images of any height and width from 32 pixels up."""
        return SpaceOutput(None, self.net(image_BCHW))


def build_baseline(
    name: BaselineClassifier, *, classes: int, dropout: float = 0.0, drop_connect: float = 0.0
) -> BaselineNet:
    """
    Return a baseline with weights from torch's global generator, drawn as its library draws them.

    Args:
        dropout: Before the last linear layer, where the net has dropout: all but ResNet-18.

        drop_connect: Chance that the last block is skipped, growing linearly over the blocks: EfficientNetV2 alone has it.

    Raises:
        UnfitEnvironmentError: An EfficientNetV2 is asked for, and timm is not installed.
    """
    match name:
        case "mobilenet_v2":
            from torchvision.models import mobilenet_v2

            return BaselineNet(mobilenet_v2(weights=None, num_classes=classes, dropout=dropout))
        case "mobilenet_v3_small":
            from torchvision.models import mobilenet_v3_small

            return BaselineNet(mobilenet_v3_small(weights=None, num_classes=classes, dropout=dropout))
        case "resnet18":
            from torchvision.models import resnet18

            return BaselineNet(resnet18(weights=None, num_classes=classes))
        case "efficientnetv2_b0" | "efficientnetv2_b1":
            return BaselineNet(_efficientnet(name, classes, dropout, drop_connect))
        case _:
            assert_never(name)


def _efficientnet(
    name: Literal["efficientnetv2_b0", "efficientnetv2_b1"], classes: int, dropout: float, drop_connect: float
) -> nn.Module:
    """Return timm's net with PyTorch's symmetric padding, not TensorFlow's, as the paper's latency script has it; BN epsilon 1e-3."""
    try:
        from timm import create_model
    except ImportError as error:
        raise UnfitEnvironmentError(
            f"{name} comes from timm, which is not installed.",
            remedy="run: uv pip install 'timm>=1.0' (or leave the model out of runs)",
        ) from error
    model: nn.Module = create_model(
        f"tf_{name}",
        pretrained=False,
        num_classes=classes,
        pad_type="",
        drop_rate=dropout,
        drop_path_rate=drop_connect,
    )
    return model
