"""The losses of Sec. 3, against the formula by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dcnas_schema.params import LossParams
from dcnas_training.losses import charbonnier, digit_cross_entropy, scene_loss

Golden = Callable[[str, str], Any]
EQUATION_1 = LossParams(cross_entropy=0.1, charbonnier=0.9, charbonnier_epsilon=1e-3)


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return restored and clean scenes, logits and labels at random."""
    generator = torch.Generator().manual_seed(0)
    restored, clean = torch.rand(2, 3, 6, 5, generator=generator), torch.rand(2, 1, 6, 5, generator=generator)
    return restored, clean, torch.randn(2, 2, 10, generator=generator), torch.tensor([[1, 2], [3, 9]])


def by_hand(restored: Tensor, clean: Tensor, logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return Charbonnier and cross-entropy, number by number."""
    pairs = zip(restored.flatten().tolist(), clean.expand_as(restored).flatten().tolist(), strict=True)
    roots = [math.sqrt((a - b) ** 2 + 1e-6) for a, b in pairs]
    entropies = [
        math.log(sum(map(math.exp, row))) - row[label]
        for row, label in zip(logits.flatten(0, 1).tolist(), labels.flatten().tolist(), strict=True)
    ]
    return sum(roots) / len(roots), sum(entropies) / len(entropies)


def test_charbonnier_by_hand(golden: Golden) -> None:
    """Errors of 0.1 and 0.2 with epsilon 1e-3 give the mean of their two roots; no error gives epsilon."""
    clean = torch.zeros(1, 1, 1, 2)
    restored = torch.tensor([0.1, -0.2]).expand(1, 3, 1, 2)
    assert charbonnier(restored, clean, 1e-3).item() == golden("training", "charbonnier_by_hand")
    assert charbonnier(clean.expand(1, 3, 1, 2), clean, 1e-3).item() == pytest.approx(1e-3)


def test_cross_entropy_of_equal_logits(golden: Golden) -> None:
    """Knowing nothing of ten classes costs ln 10, whatever the labels."""
    assert digit_cross_entropy(torch.zeros(3, 2, 10), torch.tensor([[0, 9]] * 3)).item() == golden(
        "training", "cross_entropy_of_equal_logits"
    )


def test_the_joint_loss_is_equation_1() -> None:
    """A model with both tasks is trained with 0.1 cross-entropy and 0.9 Charbonnier, both means."""
    restored, clean, logits, labels = batch()
    restoration, entropy = by_hand(restored, clean, logits, labels)
    assert scene_loss(restored, logits, clean, labels, EQUATION_1).item() == pytest.approx(
        0.1 * entropy + 0.9 * restoration, rel=1e-6
    )


def test_a_model_with_one_task_has_that_term_unweighted() -> None:
    """A denoiser's loss is Charbonnier alone, a classifier's cross-entropy alone."""
    restored, clean, logits, labels = batch()
    restoration, entropy = by_hand(restored, clean, logits, labels)
    assert scene_loss(restored, None, clean, labels, EQUATION_1).item() == pytest.approx(restoration, rel=1e-6)
    assert scene_loss(None, logits, clean, labels, EQUATION_1).item() == pytest.approx(entropy, rel=1e-6)


def test_the_weights_of_the_parameters_are_used() -> None:
    """Other weights and another epsilon give another loss, in proportion."""
    restored, clean, logits, labels = batch()
    only = [
        scene_loss(
            restored, logits, clean, labels, LossParams(cross_entropy=a, charbonnier=b, charbonnier_epsilon=1e-3)
        )
        for a, b in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0))
    ]
    torch.testing.assert_close(2 * only[0] + 3 * only[1], only[2])
    wide = LossParams(cross_entropy=0.0, charbonnier=1.0, charbonnier_epsilon=0.5)
    assert scene_loss(restored, logits, clean, labels, wide) > only[1] + 0.1


def test_half_precision_outputs_are_scored_in_full() -> None:
    """bf16 outputs of autocast are scored in float32: the loss itself is not rounded to bf16."""
    restored, clean, logits, labels = batch()
    loss = scene_loss(restored.bfloat16(), logits.bfloat16(), clean, labels, EQUATION_1)
    assert loss.dtype == torch.float32
    rounded = by_hand(restored.bfloat16().float(), clean, logits.bfloat16().float(), labels)
    assert loss.item() == pytest.approx(0.9 * rounded[0] + 0.1 * rounded[1], rel=1e-5)


def test_the_loss_has_a_gradient_where_nothing_is_wrong() -> None:
    """At zero error the root is smooth: its gradient is zero, not NaN."""
    restored = torch.zeros(1, 3, 4, 4, requires_grad=True)
    charbonnier(restored, torch.zeros(1, 1, 4, 4), 1e-3).backward()  # type: ignore[no-untyped-call] # torch ships backward without annotations
    assert restored.grad is not None
    assert restored.grad.abs().max() == 0
