"""EagerAdam: torch's Adam bit for bit, without the compiler's import."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.optimizers import EagerAdam

STEPS = """
import sys, torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from dcnas_training.optimizers import EagerAdam
layer = torch.nn.Linear(3, 2)
optimizer = EagerAdam(layer.parameters(), lr=1e-3, fused=True)
schedule = ReduceLROnPlateau(optimizer)
for _ in range(2):
    optimizer.zero_grad(set_to_none=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule.step(1.0)
optimizer.load_state_dict(optimizer.state_dict())
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
print([name for name in sys.modules if name.startswith("torch._dynamo")])
"""


def trained(
    kind: type[torch.optim.Adam],
    *,
    fused: bool,
    memory_format: torch.memory_format = torch.contiguous_format,
    saved_in: Path | None = None,
) -> list[torch.Tensor]:
    """Return the weights and Adam's averages after ten steps on random batches, saved to a file and restored half-way where asked for."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 2, 3)).double()
    layers = layers.to(memory_format=memory_format)  # type: ignore[call-overload] # torch's stub lacks this
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    optimizer = kind(layers.parameters(), lr=1e-2, fused=fused)
    for step in range(10):
        if saved_in is not None and step == 5:
            checkpoints = CheckpointFolder(saved_in)
            checkpoints.save(1, optimizer.state_dict())
            found = checkpoints.newest()
            assert found is not None
            optimizer = kind(layers.parameters(), lr=1e-2, fused=fused)
            optimizer.load_state_dict(found[1])
        optimizer.zero_grad(set_to_none=True)
        image = torch.randn(2, 3, 7, 7, generator=generator, dtype=torch.float64)
        layers(image.contiguous(memory_format=memory_format)).square().mean().backward()
        optimizer.step()
    averages = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq", "step")]
    return [*layers.parameters(), *averages]


@pytest.mark.parametrize("fused", [True, False])
def test_ten_steps_are_adams_bit_for_bit(fused: bool) -> None:
    """Weights and averages after ten steps are those of `torch.optim.Adam`, to the last bit."""
    for ours, theirs in zip(trained(EagerAdam, fused=fused), trained(torch.optim.Adam, fused=fused), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("fused", [True, False])
def test_a_restored_optimizer_goes_on_bit_for_bit(
    tmp_path: Path, fused: bool, memory_format: torch.memory_format
) -> None:
    """Saved to disk and restored half-way, every average still belongs to its weight, in either memory format."""
    whole = trained(EagerAdam, fused=fused, memory_format=memory_format)
    halves = trained(EagerAdam, fused=fused, memory_format=memory_format, saved_in=tmp_path)
    for ours, theirs in zip(whole, halves, strict=True):
        assert torch.equal(ours, theirs)


def test_the_closure_is_called() -> None:
    """A closure's loss is returned, computed with gradients on, as in torch."""
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = EagerAdam([weight], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
        return loss

    loss = optimizer.step(closure)
    assert loss is not None
    assert loss.item() == 4.0
    assert weight.item() == pytest.approx(1.9)


def test_training_never_imports_the_compiler(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Steps, schedule, saving and restoring load no part of torch._dynamo, which would take seconds in each process."""
    done = python("-c", STEPS)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
