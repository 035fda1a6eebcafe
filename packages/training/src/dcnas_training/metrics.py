"""Image quality and accuracy by the protocol, per image, so that any mean can be taken later."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def squared_error_per_image(
    image: Float[Tensor, "batch 3 height width"], clean: Float[Tensor, "batch ch height width"]
) -> Float[Tensor, " batch"]:
    """Return the mean squared error of each image, in float64; `clean` may hold one of its three equal channels."""
    return (image.double() - clean.double()).square().mean((1, 2, 3))


def psnr_db(squared_error: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Return the PSNR [dB] of mean squared errors at data range 1; infinite where the error is 0."""
    return -10 * torch.log10(squared_error)


def ssim_per_image(
    image: Float[Tensor, "batch 3 height width"], clean: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, " batch"]:
    """
    Return the SSIM of each image (Wang et al. 2004: 11x11 Gaussian window, sigma 1.5, valid region, mean over channels), data range 1.

    Images smaller than the window are refused by the library with a ValueError or AssertionError of its own.
    """
    from pytorch_msssim import ssim

    values: Tensor = ssim(image.float(), clean.float(), data_range=1.0, size_average=False)
    return values


def correct_digits(
    logits: Float[Tensor, "batch digits classes"], labels: Int[Tensor, "batch digits"]
) -> Bool[Tensor, "batch digits"]:
    """Return where the most likely class is the digit's."""
    return logits.argmax(-1) == labels
