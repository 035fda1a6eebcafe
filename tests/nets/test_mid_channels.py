"""Candidates written out: what they share, keep and refuse. That they are the naive modules is in test_supernet.py."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from dcnas_nets import mid_channels
from dcnas_nets.mid_channels import runs_written_out
from dcnas_nets.mixed import MixedBlock
from dcnas_schema.space import OP_SETS, PLACES, Place

Watching = Callable[[bool], AbstractContextManager[object]]
SWISH, RELU = PLACES[9], PLACES[1]


def block_at(place: Place) -> MixedBlock:
    """Return the eight candidates of a place in float64, of uneven widths."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(place.in_channels)
        return MixedBlock(place, OP_SETS[8], [24 + 8 * number for number in range(8)], "plain").double()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Return float64 normal numbers that want a gradient."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("place", [SWISH, RELU])
@pytest.mark.parametrize("share_bytes", [1, 3_000, 10**9])
def test_how_candidates_are_united_makes_no_difference(
    same_function: Callable[..., Any],
    watching: Watching,
    monkeypatch: pytest.MonkeyPatch,
    place: Place,
    share_bytes: int,
) -> None:
    """Each alone, some together or all of a kernel size: outputs and all gradients are those of layers in float64."""
    block, x, logits = block_at(place), drawn(2, place.in_channels, 4, 5), drawn(8, seed=1)
    with watching(True):
        wanted = block.all(x, logits.softmax(0))
    monkeypatch.setattr(mid_channels, "_SHARE_BYTES", share_bytes)
    mid_channels._shares.cache_clear()  # it knows the limit that was
    found = block.all(x, logits.softmax(0))
    mid_channels._shares.cache_clear()
    assert "Candidates" in str(found.grad_fn)
    assert "Candidates" not in str(wanted.grad_fn)
    same_function(found, wanted, [x, logits, *block.parameters()])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_one_candidate_on_any_map(
    same_function: Callable[..., Any], watching: Watching, memory_format: torch.memory_format, size: int
) -> None:
    """Maps down to one pixel, in both memory formats, give what layers give."""
    block, x = block_at(SWISH), drawn(3, SWISH.in_channels, size, size)
    for op in (0, 7):
        with watching(True):
            wanted = block.one(x, op)
        found = block.one(x.contiguous(memory_format=memory_format), op)
        same_function(found, wanted, [x, *block.of()[op].parameters()])


def test_a_pass_that_trains_no_weight_gives_none_a_gradient() -> None:
    """The input and the candidates' weights in the sum get the gradients that they get otherwise, and the candidates' weights none."""
    block, x, logits = block_at(SWISH), drawn(2, SWISH.in_channels, 4, 4), drawn(8, seed=1)
    gradients = []
    for trains in (True, False):
        x.grad = logits.grad = None
        block.zero_grad(set_to_none=True)
        block.all(x, logits.softmax(0), trains=trains).square().sum().backward()
        assert {weight.grad is None for weight in block.parameters()} == {not trains}
        gradients.append((x.grad, logits.grad))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


def test_an_input_without_gradient_costs_none() -> None:
    """At the first place of an architecture step the sum's weights alone get a gradient, and it is the right one."""
    block, x, logits = block_at(SWISH), drawn(2, SWISH.in_channels, 4, 4), drawn(8, seed=1)
    block.all(x, logits.softmax(0), trains=False).square().sum().backward()
    wanted, logits.grad = logits.grad, None
    block.all(x.detach(), logits.softmax(0), trains=False).square().sum().backward()
    torch.testing.assert_close(logits.grad, wanted, rtol=1e-12, atol=1e-12)


def test_a_graph_is_kept_as_long_as_autograd_keeps_it() -> None:
    """Twice with `retain_graph` gives the same gradients twice; once without, a second time is refused, not answered wrongly."""
    block, x = block_at(SWISH), drawn(2, SWISH.in_channels, 4, 4)
    inputs = [x, *block.of()[7].parameters()]
    loss = block.one(x, 7).square().sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    second = torch.autograd.grad(loss, inputs)
    for found, wanted in zip(second, first, strict=True):
        assert torch.equal(found, wanted)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, inputs)


def test_an_input_changed_before_backward_is_noticed() -> None:
    """Who overwrites the map or a weight between the passes is told, as by torch's own layers."""
    block, x = block_at(SWISH), drawn(2, SWISH.in_channels, 4, 4)
    x.data = x.data.contiguous(memory_format=torch.channels_last)
    for changed in (x, block.of()[0].expand):
        loss = block.one(x, 0).square().sum()
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_the_input_is_left_as_it_is() -> None:
    """Maps are overwritten inside, the caller's are not: neither the input nor the gradient that comes in."""
    block, x = block_at(SWISH), drawn(2, SWISH.in_channels, 4, 4)
    x.data = x.data.contiguous(memory_format=torch.channels_last)
    before, output = x.detach().clone(), block.all(x, torch.full((8,), 1 / 8, dtype=torch.float64))
    pull = torch.randn_like(output)
    kept = pull.clone()
    torch.autograd.grad(output, x, pull)
    assert torch.equal(x, before)
    assert torch.equal(pull, kept)


def test_layers_run_where_something_else_is_asked_for(watching: Watching) -> None:
    """In lower precision, and where somebody puts other functions in torch's place, it is the layers that run."""
    x, weight = torch.zeros(1, 2, 3, 3), torch.zeros(4, 2, 1, 1)
    assert runs_written_out(x, weight)
    assert runs_written_out(x.double(), weight.double())
    assert not runs_written_out(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs_written_out(x, weight)
    with watching(True):
        assert not runs_written_out(x, weight)
