"""Quickened nets train as they did: the same parameters, the same names, the same gradients."""

import copy

import pytest
import torch
from torch import nn

from dcnas_nets.baselines import build_baseline
from dcnas_nets.depthwise import DepthwiseConv2d
from dcnas_nets.models import build_model
from dcnas_nets.narrow_norm import BatchNorm2d
from dcnas_nets.pointwise import PointwiseConv2d
from dcnas_nets.quick import quicken
from dcnas_nets.space import build_space_net
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.params import JointSpec, UNetSpec


def nets() -> dict[str, nn.Module]:
    """Return a net of the search space with 5x5 kernels, one of torchvision, and one of many narrow batch norms."""
    torch.manual_seed(0)
    return {
        "dc_nas": build_space_net("dc_nas", uniform_genotype("k5_e3_se", 3), classes=5, seed=0),
        "mobilenet_v3_small": build_baseline("mobilenet_v3_small", classes=5),
        "dc_net": build_model(
            JointSpec(kind="joint", join="integrated", unet=UNetSpec(depth=4, base=8, multiplier=1.5, convs=2)), seed=0
        ),
    }


def step(net: nn.Module, size: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return all outputs and all gradients of a training step on a channels_last batch, in float64."""
    net = net.double().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload] # torch's stub lacks this pair
    generator = torch.Generator().manual_seed(1)
    image = torch.rand((3, 3, size, size), generator=generator, dtype=torch.float64)
    arguments = (torch.zeros((3, 2, 2), dtype=torch.int64),) if hasattr(net, "head") and hasattr(net, "encoder") else ()
    outputs = [one for one in net(image.contiguous(memory_format=torch.channels_last), *arguments) if one is not None]
    torch.stack([one.square().mean() for one in outputs]).sum().backward()  # type: ignore[no-untyped-call] # torch gives it no types
    return outputs, [weight.grad for weight in net.parameters() if weight.grad is not None]


@pytest.mark.parametrize("name", nets())
def test_a_quickened_net_takes_the_same_step(name: str) -> None:
    """Outputs and the gradient of every parameter are the same, to float64's rounding."""
    net = nets()[name]
    quick = copy.deepcopy(net)
    quicken(quick)
    for mine, true in zip(step(quick, 64), step(net, 64), strict=True):
        assert len(mine) == len(true) > 0
        torch.testing.assert_close(mine, true, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["dc_nas", "mobilenet_v3_small"])
def test_layers_are_replaced_wherever_they_stand(name: str) -> None:
    """Every depthwise and every 1x1 convolution and every batch norm, in our blocks and in torchvision's."""
    net = nets()[name]
    pointwise = sum(isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) for layer in net.modules())
    depthwise = sum(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in net.modules())
    norms = sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    quicken(net)
    kinds = [type(module) for module in net.modules()]
    found = [kinds.count(kind) for kind in (DepthwiseConv2d, PointwiseConv2d, BatchNorm2d)]
    assert found == [depthwise, pointwise, norms]
    assert min(found) > 10


@pytest.mark.parametrize("name", nets())
def test_optimisers_and_checkpoints_see_no_difference(name: str) -> None:
    """Parameters and buffers are the same objects under the same names, in the same order, in the same mode."""
    net = nets()[name].eval()
    before = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    order = list(net.state_dict())
    quicken(net)
    after = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert list(net.state_dict()) == order
    assert all(after[key] is value for key, value in before.items())
    assert not any(module.training for module in net.modules())
