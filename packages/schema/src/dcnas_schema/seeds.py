"""All randomness comes from seeds derived from one, each for one purpose. No torch, for what draws a genotype needs none."""

import numpy as np

PURPOSES = (
    *("weights", "shuffle", "noise", "validation_noise", "crops", "jitter_order", "dropout", "genotype"),
    *("paths", "gumbel", "architecture_shuffle", "architecture_noise"),
)
"""New ones go to the end: a purpose's seed depends on its place."""


def derive_seed(seed: int, purpose: str) -> int:
    """Return the seed of one purpose: independent of those of the others."""
    return int(np.random.SeedSequence([seed, PURPOSES.index(purpose)]).generate_state(1, np.uint64)[0] >> 1)


def derive_step_seed(seed: int, purpose: str, epoch: int, step: int) -> int:
    """Return the seed of one purpose in one step of one epoch, both from 1: it needs no state, so a resumed run draws the same."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), epoch, step])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
