"""All randomness comes from generators derived from one seed, each for one purpose; never from global state."""

import numpy as np
import torch

PURPOSES = ("weights", "shuffle", "noise", "validation_noise")


def derive_seed(seed: int, purpose: str) -> int:
    """Return the seed of one purpose: independent of those of the others."""
    return int(np.random.SeedSequence([seed, PURPOSES.index(purpose)]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """Return the generator of one purpose on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))
