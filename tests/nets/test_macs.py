"""The cost of a net, counted by the protocol: agrees with the paper, with a count by hand, and with torch's own counter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dcnas_nets.classifiers import MBConvClassifier
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.models import build_model, example_input
from dcnas_nets.unet import UNet
from dcnas_schema.params import JointSpec, UNetSpec

Golden = Callable[[str, str], Any]
SPECS = {
    "unet_s": UNetSpec(depth=4, base=8, multiplier=1.5, convs=2),
    "unet_m": UNetSpec(depth=4, base=16, multiplier=2.0, convs=2),
    "unet_baseline": UNetSpec(depth=4, base=32, multiplier=2.0, convs=2),
}
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", SPECS)
def test_parameters_of_the_papers_unets(golden: Golden, name: str) -> None:
    """UNet-S, UNet-M and the baseline have the parameters of the derived reading, to the last one."""
    assert count_parameters(UNet(SPECS[name])) == golden("nets", f"{name}_parameters")


@pytest.mark.parametrize("name", ["unet_s", "unet_baseline"])
def test_macs_of_the_papers_unets(golden: Golden, name: str) -> None:
    """UNet-S and the baseline cost what the derived reading says at 96x96."""
    assert count_macs(UNet(SPECS[name]), torch.zeros(1, 3, 96, 96)) / 1e6 == golden("nets", f"{name}_macs_m")


def test_macs_of_the_mbconv_classifier(golden: Golden) -> None:
    """MB2.5-M costs what Table 1 leaves for it, for one digit."""
    assert count_macs(MBConvClassifier(), torch.zeros(1, 3, 28, 28)) / 1e6 == golden("nets", "mbconv_classifier_macs_m")


def test_the_sequential_nets_cost_what_table_1_prints(golden: Golden) -> None:
    """With one digit classified, as in the paper, both sequential DC-Nets round to the paper's figures, and differ by its difference."""
    image, corners = example_input(1, 96, 96, CPU)
    cost = {}
    for size, name in (("reduced", "unet_s"), ("baseline", "unet_baseline")):
        model = build_model(JointSpec(kind="joint", join="sequential", unet=SPECS[name]), seed=0)
        cost[size] = count_macs(model, image, corners[:, :1]) / 1e6
        assert cost[size] == golden("nets", f"table_1_{size}_sequential_m")
    assert cost["baseline"] - cost["reduced"] == golden("nets", "table_1_sequential_difference_m")


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 8 * 10 * 12 * 3 * 9 + 8 * 10 * 12),
        (nn.Conv2d(3, 8, 3, padding=1, bias=False), (1, 3, 10, 12), 8 * 10 * 12 * 3 * 9),
        (nn.Conv2d(4, 6, (1, 3), stride=2), (1, 4, 9, 9), 6 * 5 * 4 * 4 * 3 + 6 * 5 * 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), (1, 8, 5, 5), 8 * 25 * 9 + 8 * 25),
        (nn.Conv2d(8, 12, 1, groups=4, bias=False), (1, 8, 5, 5), 12 * 25 * 2),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 7), 4 * 35 * 6 * 4 + 6 * 140),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, bias=False), (1, 4, 5, 7), 4 * 35 * 3 * 4),
        (nn.Linear(7, 5), (1, 7), 7 * 5 + 5),
        (nn.Linear(7, 5), (3, 7), 3 * (7 * 5 + 5)),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), (1, 4, 8, 8), 0),
    ],
    ids=[
        "conv",
        "without bias",
        "strided",
        "depthwise",
        "grouped",
        "transposed",
        "transposed grouped",
        "linear",
        "batch",
        "free",
    ],
)
def test_single_layers_are_counted_as_by_hand(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    """Each kind of layer costs what a count on paper gives, the bias once per output element."""
    assert count_macs(layer, torch.zeros(shape)) == macs


@pytest.mark.parametrize("size", [(96, 96), (40, 56)])
def test_without_biases_it_is_half_of_torchs_flops(size: tuple[int, int]) -> None:
    """Torch's own counter counts two operations a MAC and no bias: on a UNet without biases ours is exactly half."""
    model = UNet(SPECS["unet_s"])
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.bias = None
    image = torch.zeros(1, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(image)
    assert 2 * count_macs(model, image) == counter.get_total_flops()


def test_a_layer_used_twice_counts_twice() -> None:
    """What is counted is the work of a forward pass, not the list of layers."""
    layer = nn.Conv2d(4, 4, 1)
    assert count_macs(nn.Sequential(layer, layer), torch.zeros(1, 4, 3, 3)) == 2 * count_macs(
        layer, torch.zeros(1, 4, 3, 3)
    )


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_as_it_was(training: bool) -> None:
    """Mode, weights, batch-norm statistics and hooks are the same before and after."""
    model = UNet(SPECS["unet_s"]).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = count_macs(model, torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert count_macs(model, torch.zeros(1, 3, 16, 16)) == first
    assert model.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failing_forward_pass_leaves_no_hook() -> None:
    """An input that does not fit raises, and the model counts rightly afterwards."""
    layer = nn.Linear(7, 5)
    with pytest.raises(RuntimeError):
        count_macs(layer, torch.zeros(1, 8))
    assert not layer._forward_hooks
    assert layer.training
