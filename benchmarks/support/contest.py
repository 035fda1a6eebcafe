"""Contenders that take turns: every round times each of them once, so that a change in the machine's load meets them alike."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dcnas_latency.bystanders import Bystanders, wait_for_quiet

_WARM_UP_BATCHES = 3
_DISTURBED = 0.10
"""Share of the processors: a thread that waits for its turn makes all threads of a step wait, so that a little takes much."""
_LEAST_QUIET = 3
_MOST_ATTEMPTS = 3


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
class Round:
    """One turn of every contender."""

    rates: dict[str, float]
    """Images/s of each contender."""
    others: float | None
    """Greatest share of all processors' time that other programs took in a turn, 0 to 1; `None` where the system does not tell."""

    @property
    def disturbed(self) -> bool:
        """Whether other programs took enough to spoil the comparison."""
        return self.others is not None and self.others > _DISTURBED

    def for_json(self) -> dict[str, object]:
        """Return the figures, rounded."""
        rates = {name: round(rate, 1) for name, rate in self.rates.items()}
        return {"images_per_s": rates, "others_share": None if self.others is None else round(self.others, 3)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """What the rounds gave."""

    counted: list[Round]
    left_out: list[Round]
    """Rounds that other programs disturbed; none where no more than two were undisturbed, and then all count."""

    @property
    def names(self) -> list[str]:
        """The contenders."""
        return list(self.counted[0].rates)

    def rate(self, name: str) -> Spread:
        """Return images/s of one contender."""
        return Spread.of([one.rates[name] for one in self.counted])

    def ratio(self, over: str, under: str) -> Spread:
        """Return images/s of `over` divided by those of `under`, round by round."""
        return Spread.of([one.rates[over] / one.rates[under] for one in self.counted])

    def rounds_for_json(self) -> dict[str, list[dict[str, object]]]:
        """Return every round, counted or not."""
        return {
            "counted": [one.for_json() for one in self.counted],
            "left_out": [one.for_json() for one in self.left_out],
        }


def race(contenders: Sequence[Contender], device: torch.device, *, turns: Turns) -> Race:
    """
    Time every contender once a round, until `turns.rounds` rounds were undisturbed, in at most three times as many.

    A turn is a fixed number of batches, at least two, that took about `turns.seconds` when calibrated; one untimed batch goes before it,
    and the device is synchronised at both ends. The order of the turns rotates from round to round.
    """
    wait_for_quiet(turns.patience_s)
    batches = {contender.name: _calibrate(contender, device, turns.seconds) for contender in contenders}
    rounds: list[Round] = []
    quiet: list[Round] = []
    while len(quiet) < turns.rounds and len(rounds) < _MOST_ATTEMPTS * turns.rounds:
        wait_for_quiet(turns.patience_s)
        first = len(rounds) % len(contenders)
        rounds.append(_round([*contenders[first:], *contenders[:first]], device, batches))
        quiet = [one for one in rounds if not one.disturbed]
        _show(rounds[-1], len(quiet), turns.rounds)
    if len(quiet) < _LEAST_QUIET:
        return Race(counted=rounds, left_out=[])
    return Race(counted=quiet, left_out=[one for one in rounds if one.disturbed])


def _round(contenders: Sequence[Contender], device: torch.device, batches: dict[str, int]) -> Round:
    rates, shares = {}, []
    for contender in contenders:
        contender.run(1)
        watch, count = Bystanders(), batches[contender.name]
        rates[contender.name] = count * contender.images / _seconds(contender, device, count)
        shares.append(watch.share())
    known = [share for share in shares if share is not None]
    return Round(rates={name: rates[name] for name in batches}, others=max(known, default=None))


def _calibrate(contender: Contender, device: torch.device, seconds: float) -> int:
    contender.run(_WARM_UP_BATCHES)
    return max(2, math.ceil(seconds / min(_seconds(contender, device, 1) for _ in range(3))))


def _seconds(contender: Contender, device: torch.device, batches: int) -> float:
    _synchronize(device)
    began = time.perf_counter()
    contender.run(batches)
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _show(one: Round, quiet: int, rounds: int) -> None:
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in one.rates.items())
    taken = f"; others took up to {one.others:.0%} of the processors: left out" if one.disturbed else ""
    print(f"round {quiet}/{rounds}: {rates}{taken}", flush=True)
