"""Randomness from one seed: a generator for each purpose, none like another."""

import torch

from dcnas_schema.seeds import PURPOSES, derive_seed
from dcnas_training.seeds import generator


def test_seeds_of_all_purposes_differ() -> None:
    """No purpose of any seed shares its stream with another, and every seed fits a torch generator."""
    derived = [derive_seed(seed, purpose) for seed in (0, 1, 2, 2**32 - 1) for purpose in PURPOSES]
    assert len(set(derived)) == len(derived)
    assert all(0 <= seed < 2**63 for seed in derived)


def test_a_generator_repeats_itself_and_ignores_the_global_one() -> None:
    """Seed and purpose decide the stream alone."""
    draws = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            draws.append(torch.rand(5, generator=generator(3, "noise", torch.device("cpu"))))
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(5, generator=generator(3, "shuffle", torch.device("cpu"))))
