"""Nets of the search space: their cost, their order of parts, any image size and seeds."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from dcnas_harness.errors import BadInputError
from dcnas_nets.blocks import build_part, part_inputs
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.space import SpaceNet, build_space_net, part_names
from dcnas_schema.genotype import STAGE_DEPTHS, Genotype, parts_of, uniform_genotype
from dcnas_schema.sampling import random_genotype
from dcnas_schema.space import NET_KINDS, NetKind, OpName

Golden = Callable[[str, str], Any]
SIZES = [(32, 32), (33, 33), (47, 65), (64, 100)]
MIXED: tuple[OpName, ...] = ("k3_e3", "k5_e6_se")

every_kind = pytest.mark.parametrize("kind", NET_KINDS)
every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


def drawn() -> Genotype:
    """Return a random genotype of both kernel sizes, with SE and without."""
    return random_genotype(np.random.Generator(np.random.PCG64(0)), ops=MIXED)


def shortened(genotype: Genotype, depths: dict[int, int]) -> Genotype:
    """Return `genotype` with only the first blocks of the network stages named in `depths`."""
    return Genotype(stages=tuple(blocks[: depths.get(stage)] for stage, blocks in enumerate(genotype.stages, start=1)))


@cache
def net(kind: NetKind, genotype: Genotype | None = None) -> SpaceNet:
    """
    Return a net with seven classes in eval mode, its batch norms set to random statistics so that no path is an identity.

    It is made once for all tests, which leave it as it is.
    """
    model = build_space_net(kind, genotype or drawn(), classes=7, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias, std=0.3, generator=generator)
    return model.eval()


@cache
def parts_alone(kind: NetKind) -> list[nn.Module]:
    """Return the parts of a net, each made by itself; the size in the keys makes no difference."""
    return [build_part(part) for part in parts_of(kind, drawn(), height=64, width=64, classes=7)]


def image(height: int, width: int, batch: int = 1) -> Tensor:
    """Return a random image."""
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("kind", "ratio"),
    [("c_nas", 3), ("c_nas", 4), ("c_nas", 6), ("dc_nas", 3), ("dc_nas", 4), ("dc_nas", 6), ("d_nas", 4)],
)
def test_uniform_nets_cost_what_the_layer_table_gives(golden: Golden, kind: NetKind, ratio: int) -> None:
    """With k3 blocks without SE and one expand ratio, MACs without biases and parameters are those counted on paper."""
    model = build_space_net(kind, uniform_genotype("k3_e6" if ratio == 6 else "k3_e3", ratio), classes=100, seed=0)
    assert count_parameters(model) / 1e6 == golden("space", f"{kind}_e{ratio}_parameters_m")
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.bias = None
    assert count_macs(model, torch.zeros(1, 3, 224, 224)) / 1e6 == golden("space", f"{kind}_e{ratio}_macs_m")


@every_kind
@every_size
def test_any_size_goes_through(kind: NetKind, size: tuple[int, int]) -> None:
    """One image and a batch of two, of even, odd and oblong sizes, come out at the size they went in, with the kind's outputs only."""
    model = net(kind)
    with torch.inference_mode():
        for batch in (1, 2):
            restored, logits = model(image(*size, batch))
            assert (restored is None) == (kind == "c_nas")
            assert (logits is None) == (kind == "d_nas")
            if restored is not None:
                assert restored.shape == (batch, 3, *size)
                assert restored.isfinite().all()
            if logits is not None:
                assert logits.shape == (batch, 7)
                assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(33, 33), (47, 65)])
def test_odd_sizes_are_padded_by_repeating_the_edge(size: tuple[int, int]) -> None:
    """An odd image gives what the image with its last row and column repeated to a multiple of 16 gives, cut back."""
    model, small = net("dc_nas"), image(*size)
    large = functional.pad(small, (0, -size[1] % 16, 0, -size[0] % 16), mode="replicate")
    with torch.inference_mode():
        odd, even = model(small), model(large)
    torch.testing.assert_close(odd.restored, even.restored[..., : size[0], : size[1]])
    torch.testing.assert_close(odd.logits, even.logits)


@every_kind
@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_an_image_below_32_pixels_is_refused(kind: NetKind, size: tuple[int, int]) -> None:
    """The refusal names the size that came and the least one."""
    with pytest.raises(BadInputError, match=rf"{size[0]}x{size[1]} pixels.*32x32 or more"):
        net(kind)(image(*size))


@every_kind
@every_size
def test_the_parts_run_in_order_on_inputs_of_their_keys(kind: NetKind, size: tuple[int, int]) -> None:
    """In a real pass each part gets the shapes that its key promises, in the order of `parts_of`, and one mark follows each."""
    model, genotype = net(kind), drawn()
    events: list[str] = []
    shapes: list[list[tuple[int, ...]]] = []

    def watch(name: str) -> RemovableHandle:
        def hook(_: nn.Module, arguments: tuple[Tensor | None, ...]) -> None:
            events.append(name)
            shapes.append([tuple(x.shape) for x in arguments if x is not None])

        return model.parts[name].register_forward_pre_hook(hook)

    with ExitStack() as hooks, torch.inference_mode():
        for name in model.parts:
            hooks.enter_context(watch(name))
        model.run(image(*size, batch=2), lambda: events.append("mark"))
    parts = parts_of(kind, genotype, height=size[0], width=size[1], classes=7)
    names = part_names(kind, genotype)
    assert events == [event for name in names for event in (name, "mark")]
    assert len(names) == len(parts)
    assert shapes == [[tuple(x.shape) for x in part_inputs(part, batch=2)] for part in parts]


def test_the_names_of_a_joint_net_tell_its_order() -> None:
    """Stems, encoder, class branch, decoder; a shortened network stage lacks its last blocks."""
    names = part_names("dc_nas", shortened(drawn(), {1: 1, 2: 2, 3: 1, 4: 1, 5: 2}))
    encoder = ["stage1_block0", "stage2_block0", "stage2_block1", "stage3_block0", "stage4_block0"]
    branch = ["stage5_block0", "stage5_block1", "stage6_block0", "feature_mix", "head"]
    decoder = ["decoder0", "decoder1", "decoder2", "decoder3"]
    assert list(names) == ["first_stem", "second_stem", *encoder, *branch, *decoder]
    assert part_names("c_nas", drawn())[-1] == "head"
    assert len(part_names("d_nas", drawn())) == 2 + 13 + 4


@every_kind
def test_forward_and_run_agree(kind: NetKind) -> None:
    """The marks change no number."""
    model, x = net(kind), image(40, 56)
    with torch.inference_mode():
        plain, marked = model(x), model.run(x, lambda: None)
    for one, other in zip(plain, marked, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


DEPTHS: list[dict[int, int]] = [{}, {1: 1}, {2: 1}, {2: 2}, {3: 1}, {4: 3}, {5: 1}, {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}]


@pytest.mark.parametrize("depths", DEPTHS, ids=str)
def test_the_decoder_joins_the_outputs_of_the_encoders_network_stages(depths: dict[int, int]) -> None:
    """
    Decoder and class branch take the output of network stage 4, whatever blocks were dropped.

    The levels join the outputs of network stages 2 and 1 and of the second stem; the last joins none.
    """
    genotype = shortened(drawn(), depths)
    model = net("dc_nas", genotype)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, tuple[Tensor | None, ...]] = {}
    with ExitStack() as hooks, torch.inference_mode():
        for name, part in model.parts.items():
            before = part.register_forward_pre_hook(lambda _, arguments, name=name: inputs.__setitem__(name, arguments))
            after = part.register_forward_hook(lambda _, __, output, name=name: outputs.__setitem__(name, output))
            hooks.enter_context(before)
            hooks.enter_context(after)
        restored, _ = model(image(48, 64))
    last = {stage: f"stage{stage}_block{depths.get(stage, STAGE_DEPTHS[stage - 1]) - 1}" for stage in (1, 2, 4)}
    joined = [inputs[f"decoder{level}"][1:] for level in range(4)]
    assert inputs["decoder0"][0] is outputs[last[4]]
    assert inputs["stage5_block0"][0] is outputs[last[4]]
    assert joined[0][0] is outputs[last[2]]
    assert joined[1][0] is outputs[last[1]]
    assert joined[2][0] is outputs["second_stem"]
    assert joined[3] in ((), (None,))
    assert restored is not None
    assert restored.shape == (1, 3, 48, 64)


def test_a_joint_net_learns_in_every_parameter() -> None:
    """Both losses together give each parameter a finite gradient, in training mode with the in-place activations."""
    model = build_space_net("dc_nas", drawn(), classes=7, seed=0).train()
    restored, logits = model(image(32, 32, batch=4))
    (
        functional.l1_loss(restored, image(32, 32, batch=4)) + functional.cross_entropy(logits, torch.arange(4))
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_kind
@pytest.mark.parametrize("size", [(47, 65), (64, 64)])
def test_the_cost_of_a_net_is_the_sum_of_its_parts(kind: NetKind, size: tuple[int, int]) -> None:
    """What the latency table adds up is the whole net: MACs and parameters of the parts made alone are those of the net."""
    parts = parts_of(kind, drawn(), height=size[0], width=size[1], classes=7)
    model, modules = net(kind), parts_alone(kind)
    macs = sum(count_macs(m, *part_inputs(part, batch=1)) for m, part in zip(modules, parts, strict=True))
    assert count_macs(model, image(*size)) == macs
    assert count_parameters(model) == sum(map(count_parameters, modules))


def test_weights_depend_on_the_seed_alone() -> None:
    """The same seed gives the same weights, another seed others; the global generator stays as it was."""
    torch.rand(3)
    before = torch.get_rng_state()
    nets = [build_space_net("dc_nas", drawn(), classes=3, seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(before, torch.get_rng_state())
    same, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in nets)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_dropout_reaches_the_head_alone() -> None:
    """A net made with dropout drops features before the linear layer in training, and nothing anywhere else."""
    layers = [layer for layer in net("c_nas").modules() if isinstance(layer, nn.Dropout)]
    model = build_space_net("c_nas", drawn(), classes=3, seed=0, dropout=0.2)
    dropping = [(name, layer.p) for name, layer in model.named_modules() if isinstance(layer, nn.Dropout)]
    assert layers == []
    assert dropping == [("parts.head.dropout", 0.2)]
