"""Which runs of two models may be compared seed by seed, on digits and on photos alike."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from dcnas_tabulate.layout import Run
from dcnas_tabulate.photo_layout import PhotoRun

AnyRun = Run | PhotoRun
_Run = TypeVar("_Run", Run, PhotoRun)
_MIN_PAIRS = 2
"""Of one difference there is no interval."""


def common_seeds(one: AnyRun, other: AnyRun) -> tuple[int, ...]:
    """Return the seeds that both runs have, where their differences can be judged: at least two, all trained for as many epochs."""
    seeds = tuple(seed for seed in one.seeds if seed in other.seeds)
    epochs = {metadata.epochs for run in (one, other) for metadata in run.metadata if metadata.seed in seeds}
    return seeds if len(seeds) >= _MIN_PAIRS and len(epochs) == 1 else ()


def cut_to(run: _Run, seeds: Sequence[int]) -> _Run:
    """Return the run with the records of these seeds alone, in its own order."""
    kept = [number for number, seed in enumerate(run.seeds) if seed in seeds]
    return replace(
        run,
        seeds=tuple(run.seeds[number] for number in kept),
        paths=tuple(run.paths[number] for number in kept),
        metadata=tuple(run.metadata[number] for number in kept),
    )
