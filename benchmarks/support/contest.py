"""Contenders that take turns: every round times each of them once, so that a change in the machine's load meets them alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from support.bystanders import Bystanders, wait_for_quiet

_WARM_UP_BATCHES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to do the work."""

    name: str
    run: Callable[[int], None]
    """Process that many batches."""
    images: int
    """Images per batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """How long to measure."""

    rounds: int
    seconds: float
    """About the length of a turn."""
    patience_s: float
    """How long to wait, before each round, for other programs to leave the processors alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Median, least and greatest of one figure over the rounds."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise `values`."""
        return cls(median=statistics.median(values), least=min(values), greatest=max(values))

    def __str__(self) -> str:
        digits = 2 if self.median < 10 else 0
        return f"{self.median:.{digits}f} ({self.least:.{digits}f} to {self.greatest:.{digits}f})"

    def rounded(self) -> dict[str, float]:
        """Return the three figures for JSON."""
        return {"median": round(self.median, 3), "min": round(self.least, 3), "max": round(self.greatest, 3)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """What the rounds gave."""

    rates: dict[str, list[float]]
    """Images/s of each contender in each round."""
    others: list[float | None]
    """Share of all processors' time that other programs took in each round, 0 to 1; `None` where the system does not tell."""

    def ratio(self, over: str, under: str) -> Spread:
        """Return images/s of `over` divided by those of `under`, round by round."""
        return Spread.of([a / b for a, b in zip(self.rates[over], self.rates[under], strict=True)])

    def rate(self, name: str) -> Spread:
        """Return images/s of one contender."""
        return Spread.of(self.rates[name])

    def others_rounded(self) -> list[float | None]:
        """Return `others` for JSON."""
        return [None if share is None else round(share, 3) for share in self.others]


def race(contenders: Sequence[Contender], device: torch.device, *, turns: Turns) -> Race:
    """
    Time every contender once a round.

    A turn is a fixed number of batches, at least two, that took about `turns.seconds` when calibrated; one untimed batch goes before it,
    and the device is synchronised at both ends. The order of the turns rotates from round to round.
    """
    wait_for_quiet(turns.patience_s)
    batches = {contender.name: _calibrate(contender, device, turns.seconds) for contender in contenders}
    found = Race(rates={contender.name: [] for contender in contenders}, others=[])
    for number in range(turns.rounds):
        wait_for_quiet(turns.patience_s)
        watch, first = Bystanders(), number % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            contender.run(1)
            count = batches[contender.name]
            found.rates[contender.name].append(count * contender.images / _seconds(contender, device, count))
        found.others.append(watch.share())
        _show(found, turns.rounds)
    return found


def _calibrate(contender: Contender, device: torch.device, seconds: float) -> int:
    contender.run(_WARM_UP_BATCHES)
    return max(2, math.ceil(seconds * 2 / _seconds(contender, device, 2)))


def _seconds(contender: Contender, device: torch.device, batches: int) -> float:
    _synchronize(device)
    began = time.perf_counter()
    contender.run(batches)
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _show(found: Race, rounds: int) -> None:
    rates = ", ".join(f"{name} {values[-1]:.0f}" for name, values in found.rates.items())
    others = found.others[-1]
    taken = "" if others is None else f"; others took {others:.0%} of the processors"
    print(f"round {len(found.others)}/{rounds}: {rates}{taken}", flush=True)
