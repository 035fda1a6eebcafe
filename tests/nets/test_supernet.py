"""The supernet against a naive one: a module a candidate, outputs weighted and summed, nothing shared, nothing fused."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcnas_harness.errors import BadInputError
from dcnas_nets.candidates import Candidate
from dcnas_nets.mixed import Form, MixedBlock
from dcnas_nets.search_norm import norm_act
from dcnas_nets.supernet import Supernet, build_supernet
from dcnas_schema.space import OP_SETS, OPS, PLACES, OpName, Place, width_bounds

Watching = Callable[[bool], AbstractContextManager[object]]
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
FORMS: tuple[tuple[Form, bool], ...] = (("plain", False), ("plain", True), ("fused", False))
"""Each form, and the plain one in layers too, as it runs where it is not written out."""
STAGES = (2, 3, 4, 4, 4, 1)


class NaiveOp(nn.Module):
    """A candidate as a reader of the paper would write it."""

    def __init__(self, place: Place, op: OpName, candidate: Candidate) -> None:
        super().__init__()
        mid, kernel, squeeze = candidate.width, OPS[op].kernel_size, candidate.squeeze
        act = nn.ReLU if place.activation == "relu" else nn.SiLU
        self.expand = nn.Sequential(nn.Conv2d(place.in_channels, mid, 1, bias=False), norm(mid), act())
        depthwise = nn.Conv2d(mid, mid, kernel, place.stride, kernel // 2, groups=mid, bias=False)
        self.depthwise = nn.Sequential(depthwise, norm(mid), act())
        self.se = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(mid, squeeze, 1), act(), nn.Conv2d(squeeze, mid, 1))
            if squeeze
            else None
        )
        self.project = nn.Sequential(nn.Conv2d(mid, place.out_channels, 1, bias=False), norm(place.out_channels))
        self.residual = place.stride == 1 and place.in_channels == place.out_channels
        self.double()
        pairs = self.pairs(candidate)
        for own, theirs in pairs:
            own.data.copy_(theirs.data)

    def pairs(self, candidate: Candidate) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return our parameters, each with the candidate's."""
        own = [self.expand[0].weight, self.depthwise[0].weight, self.project[0].weight]
        theirs = [candidate.expand, candidate.depthwise, candidate.project]
        if self.se is not None:
            own += [self.se[1].weight, self.se[1].bias, self.se[3].weight, self.se[3].bias]
            theirs += [candidate.se_reduce, candidate.se_reduce_bias, candidate.se_expand, candidate.se_expand_bias]
        return list(zip(own, theirs, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Expand, convolve, excite, project, add."""
        features = self.depthwise(self.expand(x))
        if self.se is not None:
            features = features * torch.sigmoid(self.se(features))
        features = self.project(features)
        return features + x if self.residual else features


def norm(channels: int) -> nn.Module:
    """Batch norm of the search."""
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


def block_of(place: Place, size: int, form: Form) -> MixedBlock:
    """Return a mixed op in float64 whose candidates have uneven widths and channels that are not the first."""
    generator = torch.Generator().manual_seed(place.in_channels + size)
    ops = OP_SETS[size]
    widths = [width_bounds(place.in_channels, OPS[op])[0] + number for number, op in enumerate(ops)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        block = MixedBlock(place, ops, widths, form).double()
    for candidate in block.of():
        candidate.take(torch.randperm(candidate.most, generator=generator)[: candidate.width].sort().values)
    return block


def compare(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Require equal gradients, all of them present and not all zero."""
    for own, theirs in pairs:
        assert own.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(own.grad, theirs.grad, **CLOSE)
    assert any(bool(own.grad.abs().max() > 1e-6) for own, _ in pairs if own.grad is not None)


@pytest.mark.parametrize(("form", "in_layers"), FORMS)
@pytest.mark.parametrize(("number", "size"), [(0, 8), (1, 6), (2, 4), (5, 8), (9, 6), (13, 8), (14, 4), (17, 8)])
def test_a_mixed_op_is_the_naive_sum(watching: Watching, number: int, size: int, form: Form, in_layers: bool) -> None:
    """Output and every gradient of all candidates at once agree with separate modules in float64, wherever the block stands."""
    place = PLACES[number]
    block = block_of(place, size, form)
    naive = [NaiveOp(place, op, candidate) for op, candidate in zip(OP_SETS[size], block.of(), strict=True)]
    generator = torch.Generator().manual_seed(number)
    image = torch.randn((3, place.in_channels, 6, 5), generator=generator, dtype=torch.float64)
    logits = torch.randn(size, generator=generator, dtype=torch.float64)
    upstream = torch.randn((3, place.out_channels, *_after(place, 6, 5)), generator=generator, dtype=torch.float64)
    ours, theirs = (
        (image.clone().requires_grad_(), logits.clone().requires_grad_()),
        (
            image.clone().requires_grad_(),
            logits.clone().requires_grad_(),
        ),
    )
    with watching(in_layers):
        output = block.all(ours[0].contiguous(memory_format=torch.channels_last), ours[1].softmax(0))
    weights = theirs[1].softmax(0)
    expected: Tensor = sum((weights[i] * op(theirs[0]) for i, op in enumerate(naive)), torch.zeros(()))
    torch.testing.assert_close(output, expected, **CLOSE)
    (output * upstream).sum().backward()
    (expected * upstream).sum().backward()
    pairs = [pair for op, candidate in zip(naive, block.of(), strict=True) for pair in op.pairs(candidate)]
    compare([*zip(ours, theirs, strict=True), *pairs])


@pytest.mark.parametrize("in_layers", [False, True])
@pytest.mark.parametrize("number", [0, 1, 5, 13, 17])
def test_one_candidate_alone_is_the_naive_module(watching: Watching, number: int, in_layers: bool) -> None:
    """A sampled op's output and every gradient agree with a separate module in float64, with and without SE."""
    place = PLACES[number]
    block = block_of(place, 8, "plain")
    for index in (1, 6):
        naive = NaiveOp(place, OP_SETS[8][index], block.of()[index])
        image = torch.randn((3, place.in_channels, 5, 6), generator=torch.Generator().manual_seed(1)).double()
        ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
        with watching(in_layers):
            output = block.one(ours, index)
        expected = naive(theirs)
        torch.testing.assert_close(output, expected, **CLOSE)
        output.square().sum().backward()
        expected.square().sum().backward()
        compare([(ours, theirs), *naive.pairs(block.of()[index])])


class NaiveNet:
    """A naive supernet on the weights of ours: fixed parts are shared, candidates are modules of their own."""

    def __init__(self, net: Supernet) -> None:
        self.net = net
        self.ops = [
            [NaiveOp(place, op, candidate) for op, candidate in zip(net.ops, net.at(number).of(), strict=True)]
            for number, place in enumerate(PLACES)
        ]

    def run(self, image: Tensor, weights: Tensor, depth_weights: Sequence[Tensor] | None) -> tuple[Tensor, Tensor]:
        """Return logits and restored images; a sampled path is a row of zeros and a one."""
        x = self.net.stem[1](self.net.stem[0](image))
        maps, place = [x], 0
        for number, depth in enumerate(STAGES):
            outputs = []
            for _ in range(depth):
                row = weights[place]
                x = sum((row[i] * op(x) for i, op in enumerate(self.ops[place]) if row[i] != 0), torch.zeros(()))
                outputs.append(x)
                place += 1
            if depth_weights is not None:
                x = sum((w * output for w, output in zip(depth_weights[number], outputs, strict=True)), torch.zeros(()))
            maps.append(x)
        logits = self.net.tail[1](self.net.tail[0](x))
        up = maps[4]
        for level, skip in zip(self.net.decoder, (maps[2], maps[1], maps[0], None), strict=True):
            up = level(up, skip)
        return logits, up


def whole_net(size: int) -> Supernet:
    """Return a supernet with decoder in float64, all widths at their least."""
    widths = [[width_bounds(place.in_channels, OPS[op])[0] for op in OP_SETS[size]] for place in PLACES]
    return build_supernet(OP_SETS[size], widths, classes=5, seed=0, decoder=True).double()


@pytest.fixture(scope="module")
def net() -> Supernet:
    """A supernet of six ops; tests leave its weights as they are."""
    return whole_net(6)


def depths_and_image() -> tuple[list[Tensor], Tensor]:
    """Return unequal weights of the depths, and images."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(depth, generator=generator, dtype=torch.float64) for depth in STAGES]
    return weights, torch.rand((2, 3, 48, 48), generator=generator, dtype=torch.float64)


def test_an_architecture_step_sees_the_naive_net(watching: Watching, net: Supernet) -> None:
    """In both forms, logits, restored images and the gradients of alphas and betas are those of the naive net in float64."""
    betas, image = depths_and_image()
    alphas = torch.randn((len(PLACES), 6), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    found: list[tuple[Any, ...]] = []
    for form, in_layers in (("naive", False), *FORMS):
        own = [alphas.clone().requires_grad_(), *(beta.clone().requires_grad_() for beta in betas)]
        weights, depths = own[0].softmax(1), [beta.softmax(0) for beta in own[1:]]
        if form == "naive":
            logits, restored = NaiveNet(net).run(image, weights, depths)
        else:
            for place in range(len(PLACES)):
                net.at(place).form = form  # type: ignore[assignment] # one of FORMS
            with watching(in_layers):
                output = net.mixed(image, weights, depths)
            assert output.logits is not None
            assert output.restored is not None
            logits, restored = output.logits, output.restored
        (logits.square().sum() + restored.square().mean()).backward(inputs=own)
        gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in own]
        found.append((logits, restored, gradients))
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], **CLOSE)
    assert float(found[0][2][0].abs().max()) > 1e-3


def test_two_sampled_paths_are_two_passes_of_the_naive_net(net: Supernet) -> None:
    """Both paths of a bi-sampling step, stems run once: outputs and all gradients are those of two whole naive passes added."""
    betas, image = depths_and_image()
    depths = [beta.softmax(0) for beta in betas]
    paths = [[place % 6 for place in range(18)], [(place + 1) % 6 for place in range(18)]]
    outputs = net.paths(image, paths, depths)
    loss = sum((o.logits.square().sum() + o.restored.square().mean() for o in outputs), torch.zeros(()))
    loss.backward()
    fixed = {name: value for name, value in net.named_parameters() if not name.startswith("blocks")}
    ours = {name: value.grad.clone() for name, value in fixed.items()}
    for value in fixed.values():
        value.grad = None
    naive, passes = NaiveNet(net), []
    for path, output in zip(paths, outputs, strict=True):
        rows = nn.functional.one_hot(torch.tensor(path), 6).double()
        passes.append(naive.run(image, rows, depths))
        torch.testing.assert_close(output.logits, passes[-1][0], **CLOSE)
        torch.testing.assert_close(output.restored, passes[-1][1], **CLOSE)
    sum((logits.square().sum() + up.square().mean() for logits, up in passes), torch.zeros(())).backward()
    for name, value in fixed.items():
        torch.testing.assert_close(ours[name], value.grad, **CLOSE)
    for place in range(18):
        for index, (op, candidate) in enumerate(zip(naive.ops[place], net.at(place).of(), strict=True)):
            if index in (paths[0][place], paths[1][place]):
                compare(op.pairs(candidate))
            else:
                assert candidate.expand.grad is None, "an op that was not sampled has no gradient"


def test_without_betas_a_stage_ends_with_its_last_block() -> None:
    """Removed beta gives the output of depth weights that are 1 at full depth."""
    net = whole_net(4)
    _, image = depths_and_image()
    path = [[1] * 18]
    full = [nn.functional.one_hot(torch.tensor(depth - 1), depth).double() for depth in STAGES]
    (removed,), (learned,) = net.paths(image, path), net.paths(image, path, full)
    torch.testing.assert_close(removed.logits, learned.logits, **CLOSE)
    torch.testing.assert_close(removed.restored, learned.restored, **CLOSE)


def test_the_classification_search_has_no_decoder() -> None:
    """Without a decoder there is no restored image, and no weight of one."""
    net = build_supernet(OP_SETS[4], [[64] * 4 for _ in PLACES], classes=3, seed=0)
    (output,) = net.paths(torch.rand(2, 3, 40, 50), [[0] * 18])
    assert output.restored is None
    assert output.logits is not None
    assert output.logits.shape == (2, 3)
    assert not any("decoder" in name for name, _ in net.named_parameters())


def test_what_runs_are_slices() -> None:
    """The parameters are as wide as the channels in use, at first three quarters: no masked full-width work."""
    candidate = block_of(PLACES[1], 8, "plain").of()[5]
    candidate.take(torch.tensor([0, 2, 5]))
    shapes = {name: tuple(value.shape) for name, value in candidate.named_parameters()}
    assert shapes == {
        "expand": (3, 24, 1, 1),
        "depthwise": (3, 1, 3, 3),
        "project": (24, 3, 1, 1),
        "se_reduce": (48, 3, 1, 1),
        "se_reduce_bias": (48,),
        "se_expand": (3, 48, 1, 1),
        "se_expand_bias": (3,),
    }


def test_switched_off_channels_keep_their_weights_and_come_back() -> None:
    """A new width takes the channels of the greatest depthwise norm in the whole store; trained values survive being switched off."""
    net = build_supernet(OP_SETS[4], [[64] * 4 for _ in PLACES], classes=3, seed=0)
    candidate = net.at(1).of()[0]
    before = candidate.store("expand").clone()
    norms = torch.arange(candidate.most).flip(0).float() + 1
    depthwise = (norms / 9).view(-1, 1, 1, 1).expand(-1, 1, 3, 3)
    candidate.restore({**candidate.to_save(), "depthwise": depthwise})
    candidate.take(torch.arange(50, 96))
    with torch.no_grad():
        candidate.expand.fill_(7.0)
        candidate.depthwise[3].fill_(-1e3)  # channel 53 becomes the strongest
    net.rescale({1: (0, 40)})
    assert candidate.active.tolist() == [*range(39), 53]
    assert candidate.width == 40
    torch.testing.assert_close(candidate.store("expand")[50:], torch.full_like(before[50:], 7.0))
    torch.testing.assert_close(candidate.store("expand")[:50], before[:50])
    torch.testing.assert_close(candidate.expand[-1], torch.full_like(before[0], 7.0))


def test_a_saved_supernet_comes_back_bit_for_bit() -> None:
    """Weights, those switched off included, and channels in use are those that were saved."""
    net = whole_net(4)
    net.rescale({0: (1, 100), 17: (3, 999)})
    saved = net.to_save()
    other = build_supernet(net.ops, [[64] * 4 for _ in PLACES], classes=5, seed=1, decoder=True).double()
    other.restore(saved)
    _, image = depths_and_image()
    path = [[number % 4 for number in range(18)]]
    assert torch.equal(net.paths(image, path)[0].logits, other.paths(image, path)[0].logits)  # type: ignore[arg-type] # a classifier has logits
    assert other.widths() == net.widths()
    for place in range(len(PLACES)):
        for own, copy in zip(net.at(place).of(), other.at(place).of(), strict=True):
            assert all(torch.equal(value, copy.to_save()[name]) for name, value in own.to_save().items())


def test_weights_depend_on_the_seed_alone() -> None:
    """One seed gives one supernet, another another, and the global generator stays as it was."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    nets = [build_supernet(OP_SETS[4], [[64] * 4 for _ in PLACES], classes=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    stores = [net.at(9).of()[2].store("project") for net in nets]
    assert torch.equal(stores[0], stores[1])
    assert not torch.equal(stores[0], stores[2])


def test_too_small_images_are_refused() -> None:
    """Below 32 pixels the last network stage has no pixel: an error names the size."""
    net = build_supernet(OP_SETS[4], [[64] * 4 for _ in PLACES], classes=3, seed=0)
    with pytest.raises(BadInputError, match="31x64"):
        net.paths(torch.rand(2, 3, 31, 64), [[0] * 18])


def test_swish_behind_batch_norm_has_the_right_gradient() -> None:
    """Finite differences agree with the backward pass that makes the normalised map again."""
    x = torch.randn((3, 2, 3, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda value: norm_act(value, "swish"), (x,))


def _after(place: Place, *size: int) -> tuple[int, ...]:
    return tuple(-(-one // place.stride) for one in size)
