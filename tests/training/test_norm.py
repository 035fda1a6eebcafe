"""Batch norm's statistics computed anew: those of the weights at hand, nothing else touched."""

import torch
from torch import nn

from dcnas_training.norm import recalibrate_norm


def net() -> nn.Sequential:
    """A small net whose running statistics lag far behind its weights."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    for layer in (made[1], made[4]):
        assert isinstance(layer, nn.BatchNorm2d)
        layer.running_mean = torch.full_like(layer.running_mean, 5.0)  # type: ignore[arg-type] # a buffer, never None here
    return made


def test_one_pass_gives_that_batchs_statistics() -> None:
    """After one pass the net says in eval mode what it says of this batch in training mode, but for the variance's n - 1."""
    model, images = net(), torch.randn(64, 3, 8, 8)
    recalibrate_norm(model, [lambda: model(images)])
    first = model[1]
    assert isinstance(first, nn.BatchNorm2d)
    features = model[0](images)
    assert torch.allclose(first.running_mean, features.mean((0, 2, 3)), atol=1e-6)  # type: ignore[arg-type] # None only where a norm keeps no statistics
    assert torch.allclose(first.running_var, features.var((0, 2, 3)), rtol=1e-5)  # type: ignore[arg-type] # None only where a norm keeps no statistics
    model.eval()
    settled = model(images)
    model.train()
    assert torch.allclose(settled, model(images), atol=5e-3)


def test_several_passes_count_alike_and_weights_stay() -> None:
    """The statistics are the mean over the passes; weights and momenta are as before, and no gradient is left."""
    model, batches = net(), [torch.randn(16, 3, 8, 8), 3 + torch.randn(16, 3, 8, 8)]
    before = {name: value.clone() for name, value in model.named_parameters()}
    recalibrate_norm(model, [lambda batch=batch: model(batch) for batch in batches])  # type: ignore[misc] # the default binds
    first = model[1]
    assert isinstance(first, nn.BatchNorm2d)
    means = torch.stack([model[0](batch).mean((0, 2, 3)) for batch in batches])
    assert torch.allclose(first.running_mean, means.mean(0), atol=1e-5)  # type: ignore[arg-type] # None only where a norm keeps no statistics
    assert first.momentum == 0.1
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None


def test_dropout_is_off_and_nothing_is_drawn() -> None:
    """A layer behind dropout sees what it sees in eval mode; the global generator is as before, and the model in training mode."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4))
    images, before = torch.randn(16, 3, 8, 8), torch.get_rng_state()
    recalibrate_norm(model, [lambda: model(images)])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    norm = model[2]
    assert isinstance(norm, nn.BatchNorm2d)
    assert torch.allclose(norm.running_mean, model[0](images).mean((0, 2, 3)), atol=1e-6)  # type: ignore[arg-type] # None only where a norm keeps no statistics
