"""All randomness comes from generators derived from one seed, each for one purpose; never from global state."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

PURPOSES = (
    *("weights", "shuffle", "noise", "validation_noise", "crops", "jitter_order", "dropout", "genotype"),
    *("paths", "gumbel", "architecture_shuffle", "architecture_noise"),
)
"""New ones go to the end: a purpose's seed depends on its place."""


def derive_seed(seed: int, purpose: str) -> int:
    """Return the seed of one purpose: independent of those of the others."""
    return int(np.random.SeedSequence([seed, PURPOSES.index(purpose)]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """Return the generator of one purpose on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))


def derive_step_seed(seed: int, purpose: str, epoch: int, step: int) -> int:
    """Return the seed of one purpose in one step of one epoch, both from 1: it needs no state, so a resumed run draws the same."""
    sequence = np.random.SeedSequence([seed, PURPOSES.index(purpose), epoch, step])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """
    Seed torch's global generator of `device` while the block runs, and leave it as it was.

    For layers that draw from it and take no other, such as dropout of torch and of libraries.
    """
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call] # torch gives it no types
        source = torch.cuda.default_generators[device.index or 0]
    else:
        source = torch.default_generator
    before = source.get_state()
    source.manual_seed(seed)
    try:
        yield
    finally:
        source.set_state(before)
