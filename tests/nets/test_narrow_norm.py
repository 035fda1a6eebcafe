"""Batch norm for few channels: PyTorch's own mathematics, on several threads, for maps of any size."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dcnas_nets.narrow_norm import BatchNorm2d


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Compute on two threads meanwhile: on one the layer is PyTorch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def features(shape: tuple[int, int, int, int], *, seed: int = 0) -> Tensor:
    """Return a channels_last map whose channels have different means, far from zero, and variances."""
    generator = torch.Generator().manual_seed(seed)
    channels = torch.arange(1.0, shape[1] + 1).view(1, -1, 1, 1)
    drawn = torch.randn(shape, generator=generator) * channels + 3 * channels
    return drawn.contiguous(memory_format=torch.channels_last)


def layers(channels: int, momentum: float | None) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Return our layer and PyTorch's in float64, with equal scales and shifts."""
    ours, theirs = BatchNorm2d(channels, momentum=momentum), nn.BatchNorm2d(channels, momentum=momentum).double()
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(torch.linspace(0.5, 2, channels))
            layer.bias.copy_(torch.linspace(-1, 1, channels))
    return ours, theirs


def rows_are_read(out: Tensor) -> bool:
    """Whether `out` comes from the form for few channels."""
    return "RowsNorm" in type(out.grad_fn).__name__


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    "shape", [(32, 8, 24, 24), (2, 12, 6, 10), (3, 3, 5, 8), (1, 15, 32, 2), (4, 1, 9, 4)], ids=str
)
def test_it_computes_what_batch_norm_computes(shape: tuple[int, int, int, int], momentum: float | None) -> None:
    """Output, gradients of input, scale and shift, and running statistics over three batches are those of float64, to fp32's rounding."""
    ours, theirs = layers(shape[1], momentum)
    for seed in range(3):
        x = features(shape, seed=seed).requires_grad_()
        exact = x.detach().double().requires_grad_()
        weights = torch.randn(shape, generator=torch.Generator().manual_seed(9 + seed))
        out, expected = ours(x), theirs(exact)
        assert rows_are_read(out), "the form under test was not at work"
        assert out.is_contiguous(memory_format=torch.channels_last)
        given = torch.autograd.grad((out * weights).sum(), (x, ours.weight, ours.bias))
        wanted = torch.autograd.grad((expected * weights).sum(), (exact, theirs.weight, theirs.bias))
        for mine, true in zip((out, *given), (expected, *wanted), strict=True):
            torch.testing.assert_close(mine.double(), true, rtol=2e-5, atol=2e-5 * float(true.detach().abs().max()))
    for mine, true in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine.double(), true.double(), rtol=1e-5, atol=1e-6)


def test_what_follows_may_write_into_its_result() -> None:
    """A ReLU in place behind it gives the gradients of one that is not."""
    found = []
    for inplace in (True, False):
        layer, x = layers(8, 0.1)[0], features((4, 8, 8, 8)).requires_grad_()
        nn.functional.relu(layer(x), inplace=inplace).square().sum().backward()  # type: ignore[no-untyped-call] # torch gives it no types
        assert x.grad is not None
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def contiguous(x: Tensor) -> Tensor:
    """Return the map in NCHW order."""
    return x.contiguous()


@pytest.mark.parametrize(
    ("channels", "height", "change", "threads"),
    [
        (16, 8, None, 2),
        (8, 8, contiguous, 2),
        (8, 8, Tensor.double, 2),
        (8, 8, None, 1),
        (3, 5, None, 2),
    ],
    ids=["wide enough", "contiguous", "float64", "one thread", "an odd number of pixels"],
)
def test_elsewhere_it_is_pytorchs(channels: int, height: int, change: object, threads: int) -> None:
    """Where PyTorch's kernel is as fast, or rows would not come out even, its result is taken bit for bit."""
    torch.set_num_threads(threads)
    x = features((3, channels, height, height)).requires_grad_()
    x = change(x).detach().requires_grad_() if callable(change) else x
    ours = BatchNorm2d(channels).to(x.dtype)
    out = ours(x)
    assert not rows_are_read(out)
    assert torch.equal(out, nn.BatchNorm2d(channels).to(x.dtype)(x))


def test_in_eval_mode_it_takes_the_running_statistics() -> None:
    """After training on a batch, eval mode normalises by the running statistics, as `nn.BatchNorm2d` does."""
    ours, theirs = layers(8, 0.1)
    x = features((4, 8, 8, 8))
    ours(x), theirs(x.double())
    torch.testing.assert_close(ours.eval()(x).double(), theirs.eval()(x.double()), rtol=1e-5, atol=1e-5)
