"""Losses of Sec. 4, Eq. 2 and 3: Charbonnier and SSIM for what is restored, cross-entropy with label smoothing for what is classified."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dcnas_schema.photo_training import PhotoLossParams
from dcnas_training.losses import charbonnier
from dcnas_training.metrics import ssim_per_image


def ssim_loss(
    restored: Float[Tensor, "batch 3 height width"], clean: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, ""]:
    """
    One less the mean SSIM, as the protocol scores it: 0 where nothing is wrong, at most 2. `restored` is not clamped.

    Raises:
        BadInputError: The images are smaller than the window, 11x11 pixels.
    """
    return 1 - ssim_per_image(restored, clean).mean()


def denoising_loss(
    restored: Float[Tensor, "batch 3 height width"],
    clean: Float[Tensor, "batch 3 height width"],
    params: PhotoLossParams,
) -> Float[Tensor, ""]:
    """
    Eq. 2 of the paper: L_Den = `charbonnier` * L_Char + `ssim` * L_SSIM.

    Raises:
        BadInputError: `ssim` is not 0, and the images are smaller than SSIM's window.
    """
    loss = params.charbonnier * charbonnier(restored, clean, params.charbonnier_epsilon)
    return loss + params.ssim * ssim_loss(restored, clean) if params.ssim else loss


def smoothed_cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], label_smoothing: float
) -> Float[Tensor, ""]:
    """Mean cross-entropy; `label_smoothing` of each label's weight is spread over all classes (Szegedy et al., arXiv:1512.00567)."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def photo_loss(
    restored: Float[Tensor, "batch 3 height width"] | None,
    logits: Float[Tensor, "batch classes"] | None,
    clean: Float[Tensor, "batch 3 height width"],
    labels: Int[Tensor, " batch"],
    params: PhotoLossParams,
) -> Float[Tensor, ""]:
    """
    Eq. 3 of the paper for a joint model: L_Both = `cross_entropy` * L_CE + `denoising` * L_Den; its one term, unweighted, for a model
    with one task.

    Args:
        restored: Not clamped; `None` for a classifier.

        logits: `None` for a denoiser.

        clean: In [0, 1].
    """
    if restored is None:
        assert logits is not None, "a model has at least one task"
        return smoothed_cross_entropy(logits, labels, params.label_smoothing)
    restoration = denoising_loss(restored, clean, params)
    if logits is None:
        return restoration
    entropy = smoothed_cross_entropy(logits, labels, params.label_smoothing)
    return params.cross_entropy * entropy + params.denoising * restoration
