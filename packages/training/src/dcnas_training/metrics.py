"""Image quality and accuracy by the protocol, per image, so that any mean can be taken later."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dcnas_harness.errors import BadInputError

SSIM_WINDOW = 11
"""Height and width of SSIM's window in pixels."""


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

    Raises:
        BadInputError: The images are smaller than the window, where the library would leave the smoothing out.
    """
    from pytorch_msssim import ssim

    height, width = image.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise BadInputError(
            f"an image is {height}x{width} pixels; SSIM's window takes {SSIM_WINDOW}x{SSIM_WINDOW} or more",
            remedy="enlarge the images",
        )
    values: Tensor = ssim(image.float(), clean.float(), data_range=1.0, size_average=False)
    return values


def correct_among(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], most_likely: int
) -> Bool[Tensor, " batch"]:
    """
    Return where the label is among the `most_likely` classes: top-1 and top-5 are the means for 1 and 5.

    Args:
        most_likely: Where there are no more classes than that, every image is right.
    """
    count = min(most_likely, logits.shape[1])
    return (logits.topk(count, dim=1).indices == labels[:, None]).any(1)


def correct_digits(
    logits: Float[Tensor, "batch digits classes"], labels: Int[Tensor, "batch digits"]
) -> Bool[Tensor, "batch digits"]:
    """Return where the most likely class is the digit's."""
    return logits.argmax(-1) == labels
