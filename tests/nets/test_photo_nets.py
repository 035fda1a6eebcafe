"""Models of Sec. 4: cost against the literature and the paper, any image size, seeds, drop-connect, decoders of Table 6."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_nets.baselines import build_baseline
from dcnas_nets.blocks import MBConv, build_part, drop_connect, part_inputs
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.photo_nets import build_photo_net
from dcnas_nets.space import SpaceNet, SpaceOutput, part_names
from dcnas_schema.genotype import Genotype, parts_of, uniform_genotype
from dcnas_schema.photo_models import PhotoModelSpec, task_of
from dcnas_schema.space import DECODERS, DecoderName

Golden = Callable[[str, str], Any]
UNIFORM = {"uniform": {"op": "k3_e3", "expand_ratio": 4.0}}
SMALL = {"uniform": {"op": "k3_e3", "expand_ratio": 2.0}}
UNET_S = {"depth": 4, "base": 8, "multiplier": 1.5, "convs": 2}
UNET_M = {"depth": 4, "base": 16, "multiplier": 2.0, "convs": 2}
MODELS: dict[str, dict[str, Any]] = {
    "c_nas": {"kind": "c_nas", **SMALL},
    "d_nas": {"kind": "d_nas", **SMALL},
    **{f"dc_nas {decoder}": {"kind": "dc_nas", "decoder": decoder, **SMALL} for decoder in DECODERS},
    "dc_nas_seq": {"kind": "dc_nas_seq", **SMALL},
    "mobilenet_v2": {"kind": "mobilenet_v2"},
    "mobilenet_v3_small": {"kind": "mobilenet_v3_small"},
    "resnet18": {"kind": "resnet18"},
    "lpienet": {"kind": "lpienet", "width": "0.25x"},
    "unet": {"kind": "unet", "unet": UNET_S},
    "dc_net": {"kind": "dc_net", "unet": UNET_S},
}
every_model = pytest.mark.parametrize("name", MODELS)
every_decoder = pytest.mark.parametrize("decoder", DECODERS)


def spec_of(values: dict[str, Any]) -> PhotoModelSpec:
    """Return the spec of plain values."""
    spec: PhotoModelSpec = TypeAdapter(PhotoModelSpec).validate_python(values)
    return spec


def build(values: dict[str, Any], *, classes: int = 7, seed: int = 0, **drops: float) -> nn.Module:
    """Return the model of plain values."""
    return build_photo_net(spec_of(values), genotype=None, classes=classes, seed=seed, **drops)


def macs_m(model: nn.Module, *, bias: bool = False) -> float:
    """Return the M MACs of one 224x224 image, counted without computing."""
    return count_macs(model.to("meta"), torch.zeros(1, 3, 224, 224, device="meta"), bias=bias) / 1e6


def image(height: int, width: int, batch: int = 1) -> Tensor:
    """Return a random image."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("width", ["0.25x", "0.5x", "1x"])
def test_lpienet_costs_what_the_published_one_does(golden: Golden, width: str) -> None:
    """At each size, MACs and parameters are those of the file that the paper timed: no width of the description is guessed wrong."""
    model = build({"kind": "lpienet", "width": width})
    assert count_parameters(model) / 1e6 == golden("baselines", f"lpienet_{width}_parameters_m")
    assert macs_m(model) == golden("baselines", f"lpienet_{width}_macs_m")
    if width == "0.25x":
        assert macs_m(model, bias=True) == golden("baselines", "lpienet_0.25x_macs_with_bias_m")


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet18"])
def test_torchvisions_nets_cost_what_the_literature_says(golden: Golden, name: str) -> None:
    """MACs with 100 classes and parameters with 1000 are the published ones."""
    assert macs_m(build({"kind": name}, classes=100)) == golden("baselines", f"{name}_macs_m")
    of_imagenet = build({"kind": name}, classes=1000)
    assert count_parameters(of_imagenet) == golden("baselines", f"{name}_1000_parameters")
    if name == "mobilenet_v2":
        assert macs_m(of_imagenet) == golden("baselines", "mobilenet_v2_1000_macs_m")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_with_100_classes_they_have_the_papers_parameters(golden: Golden, name: str) -> None:
    """The last layer has as many outputs as there are classes."""
    assert count_parameters(build({"kind": name}, classes=100)) / 1e6 == golden("baselines", f"{name}_parameters_m")


@pytest.mark.parametrize("name", ["efficientnetv2_b0", "efficientnetv2_b1"])
def test_efficientnets_cost_what_the_paper_timed(golden: Golden, name: str) -> None:
    """MACs and parameters are those of the paper's latency script; they go through any size, drop blocks, and pad as PyTorch does."""
    pytest.importorskip("timm", reason="timm is an extra")
    model = build({"kind": name}, classes=100, dropout=0.2, drop_connect=0.2)
    assert {type(layer) for layer in model.modules() if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}
    assert {layer.eps for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}
    assert any(type(layer).__name__ == "DropPath" for layer in model.modules())
    if name == "efficientnetv2_b0":
        with torch.inference_mode():
            assert model.eval()(image(47, 65)).logits.shape == (1, 100)
    assert count_parameters(model) / 1e6 == golden("baselines", f"{name}_parameters_m")
    assert macs_m(model) == golden("baselines", f"{name}_macs_m")


def test_without_timm_its_nets_are_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where timm is not installed, the error names the model and how to install it; other baselines need nothing."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnfitEnvironmentError, match=r"efficientnetv2_b0 comes from timm(.|\n)*pip install 'timm"):
        build_baseline("efficientnetv2_b0", classes=3)
    build_baseline("resnet18", classes=3)


@pytest.mark.parametrize("decoder", ["mbconv", "one_operator", "three_layers"])
def test_decoders_of_table_6_cost_what_the_layer_table_gives(golden: Golden, decoder: str) -> None:
    """MBConvs in the decoder cost what a count on paper gives for the joint net at e4."""
    model = build({"kind": "dc_nas", "decoder": decoder, **UNIFORM}, classes=100)
    assert macs_m(model) == golden("baselines", f"decoder_{decoder}_macs_m")


def test_the_sequential_net_costs_both_its_halves(golden: Golden) -> None:
    """DC-NAS_seq is a whole D-NAS and a whole C-NAS: nothing is shared."""
    assert macs_m(build({"kind": "dc_nas_seq", **UNIFORM}, classes=100)) == golden("baselines", "dc_nas_seq_macs_m")


@pytest.mark.parametrize(("name", "unet"), [("unet_s", UNET_S), ("unet_m", UNET_M)])
def test_unets_at_224_cost_what_was_counted_on_paper(golden: Golden, name: str, unet: dict[str, Any]) -> None:
    """UNet-S and UNet-M of Table 2, with biases as the protocol counts."""
    assert macs_m(build({"kind": "unet", "unet": unet}), bias=True) == golden("baselines", f"{name}_224_macs_m")


@every_decoder
@pytest.mark.parametrize("size", [(47, 65), (64, 64)])
def test_the_parts_of_a_net_with_any_decoder_are_the_net(decoder: DecoderName, size: tuple[int, int]) -> None:
    """Each part made from its key alone costs what it costs in the net: the latency table can key every decoder."""
    genotype = uniform_genotype("k3_e3", 2)
    parts = parts_of("dc_nas", genotype, height=size[0], width=size[1], classes=7, decoder=decoder)
    model = SpaceNet("dc_nas", genotype, classes=7, decoder=decoder)
    modules = [build_part(part) for part in parts]
    assert list(model.parts) == list(part_names("dc_nas", genotype, decoder))
    assert sum(count_macs(m, *part_inputs(p, batch=1)) for m, p in zip(modules, parts, strict=True)) == count_macs(
        model, image(*size)
    )
    assert count_parameters(model) == sum(map(count_parameters, modules))
    assert len({part.key for part in parts if part.key.part.startswith("decoder")}) == len(DECODERS[decoder].channels)


@every_model
def test_any_size_goes_through_and_tasks_are_kept_apart(name: str) -> None:
    """Odd and oblong photos come back at their size with the outputs of the model's task only, finite."""
    values, model = MODELS[name], build(MODELS[name]).eval()
    task = task_of(spec_of(values))
    for size, batch in (((33, 47), 1), ((64, 32), 2)):
        with torch.inference_mode():
            output: SpaceOutput = model(image(*size, batch))
        assert isinstance(output, SpaceOutput)
        assert (output.restored is None) == (task == "classify")
        assert (output.logits is None) == (task == "denoise")
        if output.restored is not None:
            assert output.restored.shape == (batch, 3, *size)
            assert output.restored.isfinite().all()
        if output.logits is not None:
            assert output.logits.shape == (batch, 7)


@every_model
def test_every_parameter_learns(name: str) -> None:
    """In training mode each parameter gets a finite gradient from the outputs that the model has."""
    model = build(MODELS[name]).train()
    restored, logits = model(image(64, 64, batch=2))
    loss = sum((part.square().mean() for part in (restored, logits) if part is not None), torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call] # torch
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", ["dc_nas conv", "mobilenet_v3_small", "lpienet", "dc_net"])
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    """The same seed gives the same weights, another seed others; the global generator stays as it was."""
    before = torch.get_rng_state()
    nets = [build(MODELS[name], seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(before, torch.get_rng_state())
    same, again, other = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def rates(model: nn.Module) -> list[float]:
    """Return the drop-connect rates of a net's MBConvs, in their order."""
    return [layer.drop_connect for layer in model.modules() if isinstance(layer, MBConv)]


def test_drop_connect_grows_linearly_from_the_second_stem() -> None:
    """Block i of n, the second stem being the first, has the rate i/n; a decoder's MBConvs have none; the denoiser keeps its rates."""
    expected = [0.2 * number / 19 for number in range(1, 20)]
    assert rates(build({"kind": "c_nas", **SMALL}, drop_connect=0.2)) == pytest.approx(expected)
    assert rates(build({"kind": "dc_nas", "decoder": "mbconv", **SMALL}, drop_connect=0.2))[-8:] == [0.0] * 8
    assert rates(build({"kind": "d_nas", **SMALL}, drop_connect=0.2)) == pytest.approx(expected[:14])
    short = Genotype(stages=tuple(stage[:1] for stage in uniform_genotype("k3_e3", 2).stages))
    assert rates(SpaceNet("c_nas", short, classes=3, drop_connect=0.7)) == pytest.approx([k / 10 for k in range(1, 8)])


def test_drop_connect_zeroes_whole_images_and_keeps_the_mean() -> None:
    """Each image is zero or scaled by 1 / (1 - rate), a share of `rate` of them zero; the same global seed drops the same."""
    x = torch.ones(4000, 2, 1, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = drop_connect(x, 0.25)
        torch.manual_seed(0)
        assert torch.equal(dropped, drop_connect(x, 0.25))
    per_image = dropped.flatten(1)
    assert torch.equal(per_image.amin(1), per_image.amax(1))
    assert sorted(set(per_image[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1, abs=0.03)


def test_drop_connect_acts_in_training_on_residual_blocks_alone() -> None:
    """A dropped residual block gives its input back, a block without residual is never dropped, and in eval mode nothing is."""
    x = image(8, 8, batch=2).repeat(1, 2, 1, 1)
    settings: dict[str, Any] = {"kernel_size": 3, "stride": 1, "se_channels": 0, "activation": "relu"}
    residual, plain = MBConv(6, 12, 6, **settings), MBConv(6, 12, 8, **settings)
    residual.drop_connect = plain.drop_connect = 1 - 1e-7
    assert torch.equal(residual.train()(x), x)
    assert plain.train()(x).abs().sum() > 0
    assert not torch.equal(residual.eval()(x), x)


def test_dropout_is_the_heads() -> None:
    """Dropout reaches the classifiers that have it, before their last linear layer."""
    for name in ("c_nas", "dc_nas_seq", "mobilenet_v2", "mobilenet_v3_small"):
        layers = [layer.p for layer in build(MODELS[name], dropout=0.3).modules() if isinstance(layer, nn.Dropout)]
        assert layers == [0.3], name
