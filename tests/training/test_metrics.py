"""Image quality by the protocol: analytic values, and agreement with torchmetrics and scikit-image."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from skimage.data import astronaut
from skimage.metrics import structural_similarity
from torch import Tensor

from dcnas_training.metrics import correct_digits, psnr_db, squared_error_per_image, ssim_per_image

Golden = Callable[[str, str], Any]


def photographs(count: int = 4, size: int = 64) -> Tensor:
    """Return crops of a real photograph, count x 3 x size x size in [0, 1]."""
    image = torch.from_numpy(astronaut()).permute(2, 0, 1).float() / 255
    return torch.stack([image[:, 40 * i : 40 * i + size, 60 * i : 60 * i + size] for i in range(count)])


def with_noise(clean: Tensor, sigma: float) -> Tensor:
    """Return noisy images, each at a level of its own around `sigma`, clamped as restored ones are."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    levels = sigma * torch.linspace(0.5, 1.5, len(clean)).view(-1, 1, 1, 1)
    return (clean + levels * noise).clamp(0, 1)


def test_psnr_of_a_constant_error(golden: Golden) -> None:
    """Off by 10/255 everywhere is 28.13 dB, off by the whole range is 0 dB, no error is infinite."""
    clean = torch.full((2, 3, 8, 8), 0.5, dtype=torch.float64)
    errors = squared_error_per_image(torch.stack([clean[0] + 10 / 255, clean[1] - 10 / 255]), clean)
    assert psnr_db(errors).tolist() == [golden("training", "psnr_10_of_255")] * 2
    black, white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    assert psnr_db(squared_error_per_image(black, white)).item() == golden("training", "psnr_off_by_the_range")
    assert psnr_db(squared_error_per_image(white, white)).item() == math.inf


def test_one_channel_stands_for_three_equal_ones() -> None:
    """A clean scene given as its one stored channel scores as the scene in three."""
    clean = photographs()[:, :1]
    image = with_noise(clean.expand(-1, 3, -1, -1), 0.2)
    assert torch.equal(
        squared_error_per_image(image, clean), squared_error_per_image(image, clean.expand(-1, 3, -1, -1))
    )


def test_psnr_agrees_with_torchmetrics_per_image() -> None:
    """Image by image, and in the mean over images, PSNR is torchmetrics' with dim=(1, 2, 3) and data range 1."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    clean = photographs()
    noisy = with_noise(clean, 0.3)
    ours = psnr_db(squared_error_per_image(noisy, clean))
    for reduction, value in (("none", ours), ("elementwise_mean", ours.mean())):
        theirs = peak_signal_noise_ratio(noisy, clean, data_range=1.0, dim=(1, 2, 3), reduction=reduction)
        torch.testing.assert_close(value, theirs.double(), rtol=0, atol=1e-4)


def test_the_pooled_psnr_is_another_figure() -> None:
    """PSNR of the mean error lies below the mean of the PSNRs wherever errors differ (Jensen)."""
    errors = squared_error_per_image(with_noise(photographs(), 0.3), photographs())
    assert psnr_db(errors.mean()) < psnr_db(errors).mean() - 0.5


def test_errors_are_summed_in_double_precision() -> None:
    """A tiny error on a large image is not lost in the sum."""
    clean = torch.zeros(1, 3, 256, 256)
    assert squared_error_per_image(clean + 1e-4, clean).item() == pytest.approx(1e-8, rel=1e-6)
    assert squared_error_per_image(clean, clean).dtype == torch.float64


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
def test_ssim_agrees_with_scikit_image(sigma: float) -> None:
    """With Wang's settings over the valid region, SSIM is scikit-image's to 1e-4, for each image."""
    clean = photographs()
    noisy = with_noise(clean, sigma)
    ours = ssim_per_image(noisy, clean)
    for i in range(len(clean)):
        pair = (image[i].permute(1, 2, 0).double().numpy() for image in (noisy, clean))
        _, whole = structural_similarity(
            *pair,
            channel_axis=-1,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert ours[i].item() == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-4)


def test_ssim_at_its_ends(golden: Golden) -> None:
    """An image equals itself with 1; black and white share nothing but the constant; worse noise scores lower."""
    clean = photographs()
    assert ssim_per_image(clean, clean).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    black, white = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    assert ssim_per_image(black, white).item() == golden("training", "ssim_black_and_white")
    scores = [ssim_per_image(with_noise(clean, sigma), clean).mean().item() for sigma in (0.05, 0.1, 0.2, 0.5)]
    assert scores == sorted(scores, reverse=True)


def test_a_digit_is_right_where_its_most_likely_class_is() -> None:
    """Each digit of each scene is judged by itself."""
    logits = torch.zeros(2, 2, 10)
    for scene, digit, label in ((0, 0, 3), (0, 1, 9), (1, 0, 0), (1, 1, 5)):
        logits[scene, digit, label] = 1.0
    assert correct_digits(logits, torch.tensor([[3, 8], [0, 5]])).tolist() == [[True, False], [True, True]]
