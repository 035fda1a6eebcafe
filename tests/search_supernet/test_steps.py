"""A weight step alone: how far it goes, what it leaves alone, and that it learns."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dcnas_nets.supernet import Supernet, build_supernet
from dcnas_schema.search_params import SearchSupernetParams
from dcnas_schema.space import OP_SETS, PLACES
from dcnas_search_supernet.steps import Images, WeightSteps
from dcnas_training.elasticity import starting_widths
from dcnas_training.execution import Execution

FIRST, SECOND = [0] * len(PLACES), [2] * len(PLACES)


@pytest.fixture
def ready(params: Callable[..., SearchSupernetParams]) -> Callable[..., tuple[Supernet, WeightSteps, Images]]:
    """A function that gives a supernet with its steps, and images."""

    def make(*, rate: float, **changes: Any) -> tuple[Supernet, WeightSteps, Images]:
        execution = Execution(device=torch.device("cpu"), precision="fp32", memory_format="channels_last")
        net = build_supernet(OP_SETS[4], starting_widths(OP_SETS[4], width_multiple=8), classes=3, seed=0)
        net.put_on(execution.device, execution.torch_format)
        image = torch.rand((6, 3, 32, 32), generator=torch.Generator().manual_seed(0))
        images = Images(network_input=image, clean=image, labels=torch.tensor([0, 1, 2, 0, 1, 2]))
        return net, WeightSteps(net, execution, params(**changes), rate=rate), images

    return make


@pytest.mark.parametrize("clip", [0.05, 0.1])
def test_a_step_is_as_long_as_the_clip_allows(clip: float, ready: Callable[..., Any]) -> None:
    """Without decay, all weights together move by rate x clip where the gradient is longer; ops that no path ran stay."""
    net, steps, images = ready(rate=0.5, clip=clip, weight_decay=0.0)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    steps.step(images, [FIRST, SECOND], None)
    moved = {name: value.detach() - before[name] for name, value in net.named_parameters()}
    length = torch.stack([change.square().sum() for change in moved.values()]).sum().sqrt()
    assert float(length) == pytest.approx(0.5 * clip, rel=1e-3)
    for name, change in moved.items():
        idle = "candidates.1." in name or "candidates.3." in name
        assert bool((change == 0).all()) == idle, name


def test_a_short_gradient_is_taken_as_it_is(ready: Callable[..., Any]) -> None:
    """Below the clip, every weight moves by rate x gradient."""
    net, steps, images = ready(rate=0.5, clip=1e6, weight_decay=0.0)
    before = [value.detach().clone() for value in net.parameters()]
    steps.step(images, [FIRST, SECOND], None)
    for value, was in zip(net.parameters(), before, strict=True):
        if value.grad is not None:
            torch.testing.assert_close(value.detach(), was - 0.5 * value.grad)


def test_paths_side_by_side_are_paths_in_turn(ready: Callable[..., Any]) -> None:
    """With two threads each path has one; weights after a step are those of one thread up to rounding, and the same each time."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            net, steps, images = ready(rate=0.05)
            found.append([steps.step(images, [FIRST, SECOND], None), *(value.detach() for value in net.parameters())])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for alone, together, again in zip(*found, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(together, again)


def test_steps_learn(ready: Callable[..., Any]) -> None:
    """On the same few images the loss of the same paths falls far, the second path starting later than the first."""
    _, steps, images = ready(rate=0.05)
    first = float(steps.step(images, [FIRST], None))
    losses = [float(steps.step(images, [FIRST, SECOND], None)) for _ in range(12)]
    assert losses[-1] < 0.5 * first
