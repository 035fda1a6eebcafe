"""Torch's generators, seeded for one purpose each (`dcnas_schema.seeds`); never global state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dcnas_schema.seeds import derive_seed


def generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """Return the generator of one purpose on `device`."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))


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
