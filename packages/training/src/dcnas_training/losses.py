"""Losses of Sec. 3."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dcnas_schema.params import LossParams


def charbonnier(
    restored: Float[Tensor, "batch 3 height width"], clean: Float[Tensor, "batch ch height width"], epsilon: float
) -> Float[Tensor, ""]:
    """
    Mean of sqrt((restored - clean)^2 + epsilon^2) (Barron, arXiv:1701.03077); `clean` may hold one of its three equal channels.
    """
    return torch.sqrt((restored.float() - clean).square() + epsilon**2).mean()


def digit_cross_entropy(
    logits: Float[Tensor, "batch digits classes"], labels: Int[Tensor, "batch digits"]
) -> Float[Tensor, ""]:
    """Cross-entropy over all digits of the batch."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def scene_loss(
    restored: Tensor | None, logits: Tensor | None, clean: Tensor, labels: Tensor, params: LossParams
) -> Float[Tensor, ""]:
    """
    Eq. 1 of the paper for a joint model; its one term, unweighted, for a model with one task.
    """
    if restored is None:
        assert logits is not None, "a model has at least one task"
        return digit_cross_entropy(logits, labels)
    restoration = charbonnier(restored, clean, params.charbonnier_epsilon)
    if logits is None:
        return restoration
    return params.cross_entropy * digit_cross_entropy(logits, labels) + params.charbonnier * restoration
