"""Settings and subjects of the smallest size: 32x32 pixels, a batch of one, one thread."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from dcnas_latency.rig import Subject
from dcnas_schema.genotype import Genotype, parts_of, uniform_genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import LatencySetting
from dcnas_schema.space import NetKind


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Leave torch's number of threads as it was: a runtime sets it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def setting() -> Callable[..., LatencySetting]:
    """A function that gives a setting of the smallest size, with changed fields."""

    def make(**changes: Any) -> LatencySetting:
        fields: dict[str, Any] = {
            "runtime": "torch_eager",
            "batch": 1,
            "precision": "fp32",
            "memory_format": "contiguous",
            "height": 32,
            "width": 32,
            "classes": 10,
            "threads": 1,
        }
        if changes.get("runtime") == "onnxruntime":
            fields["provider"] = "CPUExecutionProvider"
        return LatencySetting(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def whole_net() -> Callable[..., Subject]:
    """A function that gives a net of a kind, with SE and without, of any size."""

    def make(kind: NetKind, genotype: Genotype | None = None, *, height: int = 32, width: int = 32) -> Subject:
        genotype = genotype or _mixed()
        parts = parts_of(kind, genotype, height=height, width=width, classes=10)
        return Subject(kind=kind, parts=parts, genotype=genotype)

    return make


@pytest.fixture(scope="session")
def alone() -> Callable[[Part], Subject]:
    """A function that gives a part alone."""
    return lambda part: Subject(kind=None, parts=(part,), genotype=None)


def _mixed() -> Genotype:
    """Return a genotype whose network stages have one or two blocks, with SE in every second one and both kernel sizes."""
    small, large = uniform_genotype("k3_e3", 2), uniform_genotype("k5_e3_se", 2)
    stages = tuple(
        (one[0],) if number % 2 else (one[0], *other[1:2])
        for number, (one, other) in enumerate(zip(small.stages, large.stages, strict=True))
    )
    return Genotype(stages=(large.stages[0], *stages[1:]))
