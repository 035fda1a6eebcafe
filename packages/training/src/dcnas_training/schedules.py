"""The learning rate of TF-NAS's retraining: cosine, with a linear warm-up for large batches, one value an epoch."""

import math

from dcnas_schema.photo_training import WarmupParams


def cosine_rate(epoch: int, *, epochs: int, peak: float, warmup: WarmupParams, batch_size: int) -> float:
    """
    Return the learning rate of an epoch.

    The cosine falls from `peak` in the first epoch and would meet 0 in the one after the last. While it warms up, epoch k of n has k/n of
    what the cosine says; with batches of at most `warmup.above_batch` it does not warm up.

    Args:
        epoch: From 1.

    Source: TF-NAS (arXiv:2008.05314), reference code `train_eval.py`.
    """
    rate = peak * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
    if epoch <= warmup.epochs and batch_size > warmup.above_batch:
        rate *= epoch / warmup.epochs
    return rate


def peak_rate(learning_rate: float, *, batch_size: int, of_batch: int | None) -> float:
    """
    Return the highest learning rate of a run.

    Args:
        of_batch: The batch size that `learning_rate` is for: the rate is scaled in proportion to the batch (Goyal et al.,
            arXiv:1706.02677); `None` leaves it as it is.
    """
    return learning_rate if of_batch is None else learning_rate * batch_size / of_batch
