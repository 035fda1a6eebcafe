"""Losses, accuracy, learning rate and SGD of Sec. 4, each against the formula by hand or torch's own."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from dcnas_harness.errors import BadInputError
from dcnas_schema.photo_training import PhotoLossParams, WarmupParams
from dcnas_schema.seeds import derive_step_seed
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.metrics import correct_among
from dcnas_training.optimizers import EagerSGD
from dcnas_training.photo_losses import denoising_loss, photo_loss, smoothed_cross_entropy, ssim_loss
from dcnas_training.schedules import cosine_rate, peak_rate
from dcnas_training.seeds import seeded

PAPER = PhotoLossParams(
    cross_entropy=0.1, denoising=0.9, charbonnier=0.8, ssim=0.2, charbonnier_epsilon=1e-3, label_smoothing=0.1
)
CPU = torch.device("cpu")


def batch(size: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return restored and clean photos, logits of five classes and labels at random."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(3, 3, size, size, generator=generator)
    restored = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    return restored, clean, torch.randn(3, 5, generator=generator), torch.tensor([1, 4, 0])


def scikit_ssim(restored: Tensor, clean: Tensor) -> float:
    """Return the mean SSIM by scikit-image with Wang's settings, channel by channel, over whole windows alone."""
    values = [
        structural_similarity(
            a.double().numpy(), b.double().numpy(), data_range=1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )[1][5:-5, 5:-5].mean()
        for a, b in zip(restored.flatten(0, 1), clean.flatten(0, 1), strict=True)
    ]  # fmt: skip
    return float(np.mean(values))


def test_the_ssim_loss_is_one_less_the_ssim() -> None:
    """It agrees with scikit-image's SSIM to 1e-5, is 0 where nothing is wrong, and has a finite gradient there and elsewhere."""
    restored, clean, _, _ = batch()
    assert ssim_loss(restored, clean).item() == pytest.approx(1 - scikit_ssim(restored, clean), abs=1e-5)
    for image in (restored, clean):
        leaf = image.clone().requires_grad_()
        loss = ssim_loss(leaf, clean)
        loss.backward()  # type: ignore[no-untyped-call] # torch
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    assert ssim_loss(clean, clean).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", [(10, 40), (40, 10)])
def test_images_smaller_than_the_window_are_refused_by_name(size: tuple[int, int]) -> None:
    """The library would leave the smoothing out with a warning; we name size, window and remedy. One window is enough."""
    image = torch.rand(1, 3, *size)
    with pytest.raises(BadInputError, match=rf"{size[0]}x{size[1]} pixels(.|\n)*11x11(.|\n)*enlarge"):
        ssim_loss(image, image)
    assert ssim_loss(torch.zeros(1, 3, 11, 11), torch.ones(1, 3, 11, 11)).isfinite()


def by_hand() -> tuple[float, float, float]:
    """Return Charbonnier, SSIM loss and smoothed cross-entropy of `batch`, number by number."""
    restored, clean, logits, labels = batch()
    roots = [math.sqrt((a - b) ** 2 + 1e-6) for a, b in zip(restored.flatten(), clean.flatten(), strict=True)]
    entropies = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = math.log(sum(map(math.exp, row)))
        shares = [0.1 / 5 + (0.9 if number == label else 0) for number in range(5)]
        entropies.append(sum(share * (log_sum - value) for share, value in zip(shares, row, strict=True)))
    return sum(roots) / len(roots), 1 - scikit_ssim(restored, clean), sum(entropies) / 3


def test_the_losses_are_equations_2_and_3() -> None:
    """L_Den = 0.8 Charbonnier + 0.2 (1 - SSIM), L_Both = 0.1 CE + 0.9 L_Den; a model with one task has its term unweighted."""
    restored, clean, logits, labels = batch()
    root, ssim, entropy = by_hand()
    denoising = 0.8 * root + 0.2 * ssim
    assert denoising_loss(restored, clean, PAPER).item() == pytest.approx(denoising, abs=1e-5)
    assert photo_loss(restored, None, clean, labels, PAPER).item() == pytest.approx(denoising, abs=1e-5)
    assert photo_loss(None, logits, clean, labels, PAPER).item() == pytest.approx(entropy, abs=1e-5)
    both = photo_loss(restored, logits, clean, labels, PAPER)
    assert both.item() == pytest.approx(0.1 * entropy + 0.9 * denoising, abs=1e-5)


def test_other_weights_are_used_and_an_ssim_of_weight_0_takes_any_size() -> None:
    """Weights of the parameters decide; without SSIM even images below its window train."""
    restored, clean, logits, labels = batch(size=8)
    root = PAPER.model_copy(update={"ssim": 0.0, "charbonnier": 2.0, "cross_entropy": 3.0, "denoising": 0.5})
    expected = 2 * torch.sqrt((restored - clean).square() + 1e-6).mean()
    assert denoising_loss(restored, clean, root).item() == pytest.approx(expected.item(), rel=1e-5)
    entropy = smoothed_cross_entropy(logits, labels, 0.1)
    total = photo_loss(restored, logits, clean, labels, root)
    assert total.item() == pytest.approx((3 * entropy + 0.5 * expected).item(), rel=1e-5)


def test_half_precision_outputs_are_scored_in_full() -> None:
    """bf16 outputs of autocast give a float32 loss, near that of the full ones."""
    restored, clean, logits, labels = batch()
    loss = photo_loss(restored.bfloat16(), logits.bfloat16(), clean, labels, PAPER)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(photo_loss(restored, logits, clean, labels, PAPER).item(), rel=0.02)


def test_top_k_is_whether_the_label_is_among_the_k_most_likely() -> None:
    """Label of rank 2: wrong at top-1, right at top-2; with fewer classes than k everything is right."""
    logits = torch.tensor([[0.1, 3.0, 2.0, -1.0], [9.0, 8.0, 7.0, 6.0]])
    labels = torch.tensor([2, 3])
    assert [correct_among(logits, labels, k).tolist() for k in (1, 2, 4, 5)] == [
        [False, False], [True, False], [True, True], [True, True],
    ]  # fmt: skip


def test_the_rate_falls_along_a_cosine_as_torchs_does() -> None:
    """Without warm-up it is torch's CosineAnnealingLR over all epochs, to the last digits."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    none = WarmupParams(epochs=0, above_batch=0)
    for epoch in range(1, 8):
        ours = cosine_rate(epoch, epochs=7, peak=0.2, warmup=none, batch_size=512)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        schedule.step()


def test_large_batches_warm_up_and_small_ones_do_not() -> None:
    """Above the limit epoch k of five has k/5 of the cosine's rate, from the sixth all of it; at the limit there is no warm-up."""
    warmup, none = WarmupParams(epochs=5, above_batch=256), WarmupParams(epochs=0, above_batch=0)
    for batch_size, shares in ((512, [0.2, 0.4, 0.6, 0.8, 1, 1]), (256, [1] * 6)):
        for epoch, share in enumerate(shares, start=1):
            cosine = cosine_rate(epoch, epochs=250, peak=0.2, warmup=none, batch_size=batch_size)
            rate = cosine_rate(epoch, epochs=250, peak=0.2, warmup=warmup, batch_size=batch_size)
            assert rate == pytest.approx(share * cosine)


def test_the_rate_scales_with_the_batch_where_asked() -> None:
    """A quarter of the batch that the rate is for gives a quarter of the rate; `None` leaves it."""
    assert peak_rate(0.2, batch_size=128, of_batch=512) == pytest.approx(0.05)
    assert peak_rate(0.2, batch_size=128, of_batch=None) == 0.2


def stepped(kind: type[torch.optim.SGD], *, momentum: float, saved_in: Path | None = None) -> list[Tensor]:
    """Return the weights after six steps of SGD on channels_last weights, saved to a file and restored half-way where asked for."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 2, 3)).double()
    layers = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stub lacks this
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    settings = {"lr": 1e-2, "momentum": momentum, "weight_decay": 1e-3, "fused": True}
    optimizer = kind(layers.parameters(), **settings)
    for step in range(6):
        if saved_in is not None and step == 3:
            checkpoints = CheckpointFolder(saved_in)
            checkpoints.save(1, optimizer.state_dict())
            found = checkpoints.newest()
            assert found is not None
            optimizer = kind(layers.parameters(), **settings)
            optimizer.load_state_dict(found[1])
        optimizer.zero_grad(set_to_none=True)
        layers(torch.randn(2, 3, 7, 7, generator=generator, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return list(layers.parameters())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_torchs_bit_for_bit_also_when_restored(tmp_path: Path, momentum: float) -> None:
    """Weights after six steps are those of `torch.optim.SGD`, at a stretch or saved to disk and restored half-way."""
    expected = stepped(torch.optim.SGD, momentum=momentum)
    for ours in (stepped(EagerSGD, momentum=momentum), stepped(EagerSGD, momentum=momentum, saved_in=tmp_path)):
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_dropout_is_seeded_without_touching_the_global_generator() -> None:
    """The same step drops the same, another step, epoch, seed or purpose something else; outside, nothing has been drawn."""
    layer, ones = nn.Dropout(0.5), torch.ones(64)
    seeds = [derive_step_seed(*key) for key in ((0, "dropout", 1, 1), (0, "dropout", 1, 2), (0, "dropout", 2, 1),
             (1, "dropout", 1, 1), (0, "noise", 1, 1))]  # fmt: skip
    before = torch.get_rng_state()
    dropped = []
    for seed in (seeds[0], *seeds):
        with seeded(seed, CPU):
            dropped.append(layer(ones))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(dropped[0], dropped[1])
    assert len({tuple(one.tolist()) for one in dropped}) == len(seeds)
