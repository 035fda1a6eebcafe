"""How the device was over all the runs that measured one profile: an interruption must not make the noise gate forget."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import read_json, write_json
from dcnas_latency.bystanders import Bystanders
from dcnas_latency.rig import Rig, RigSample
from dcnas_latency.seen import summarise
from dcnas_schema.provenance import DeviceState, Record

Timed = tuple[float, DeviceState]
"""Seconds since the start, and the device then."""


class Session(Record):
    """One run, from its start to its end or its interruption; or several, one after the other."""

    seconds: float
    others_share: float | None
    """Of the time of the cores that are timed on, 0 to 1; `None` where the system does not tell."""
    states: tuple[Timed, ...]
    timed: tuple[tuple[float, float], ...]
    """Begin and end of the spans in which samples were taken, in seconds since the start."""
    canary: tuple[tuple[float, float], ...]
    """Seconds since the start, and the canary's median in ms over the samples of the span that ended then."""
    counters_rise: dict[str, int]
    """Time in ns, by reason, that the device was slowed within the runs; what happened between two runs is no fault of theirs."""


class Sessions:
    """
    Watches this run from its making on, and keeps beside its samples what it saw, after every measured round.

    A run that measures nothing, because an earlier one measured it all, leaves no trace: its quiet would thin out the others' noise.

    Args:
        polled: Gives what another watch has seen so far, in seconds since about now.

        folder: That of the samples; `None` keeps nothing.

        cores: Those that are timed on, whose time others may take; all, where none are named.

    Raises:
        CorruptArtefactError: What an earlier run kept is damaged.
    """

    def __init__(
        self, rig: Rig, polled: Callable[[], Sequence[Timed]], folder: Path | None, cores: Sequence[int] = ()
    ) -> None:
        self._rig, self._polled = rig, polled
        self._earlier = [] if folder is None else _read_all(folder)
        self._path = None if folder is None else folder / f"session-{len(self._earlier)}.json"
        self._looks: list[Timed] = []
        self._timed: list[tuple[float, float]] = []
        self._canary: list[tuple[float, float]] = []
        self._measured = False
        self._others, self._start = Bystanders(cores), time.monotonic()

    def look(self) -> None:
        """Take the state of now."""
        self._looks.append((time.monotonic() - self._start, self._rig.state()))

    def after_turn(self, samples: Sequence[RigSample], seconds: float) -> None:
        """Note that `samples` were taken just now, in so many seconds, and how their canary was."""
        now = time.monotonic() - self._start
        self._timed.append((now - seconds, now))
        self._canary.append((now, statistics.median(sample.canary_ms for sample in samples)))

    def after_round(self) -> None:
        """Take the state of now, and keep this run so far: it has measured."""
        self.look()
        self._measured = True
        if self._path is not None:
            write_json(self._path, self._this().model_dump(mode="json"))

    def all(self) -> Session:
        """Return all runs that measured as if they had been one: times run on, shares are weighted by time."""
        sessions = [*self._earlier, self._this()] if self._measured or not self._earlier else self._earlier
        seconds, others = 0.0, 0.0
        states: list[Timed] = []
        timed: list[tuple[float, float]] = []
        canary: list[tuple[float, float]] = []
        rises: Counter[str] = Counter()
        told = all(one.others_share is not None for one in sessions)
        for one in sessions:
            states += [(round(seconds + when, 3), state) for when, state in one.states]
            timed += [(seconds + begin, seconds + end) for begin, end in one.timed]
            canary += [(round(seconds + when, 3), ms) for when, ms in one.canary]
            rises.update(one.counters_rise)
            seconds += one.seconds
            others += (one.others_share or 0.0) * one.seconds
        return Session(
            seconds=seconds,
            others_share=others / seconds if told else None,
            states=tuple(states),
            timed=tuple(timed),
            canary=tuple(canary),
            counters_rise=dict(rises),
        )

    def _this(self) -> Session:
        states = sorted([*self._looks, *self._polled()], key=lambda one: one[0])
        return Session(
            seconds=time.monotonic() - self._start,
            others_share=self._others.share(),
            states=tuple(states),
            timed=tuple(self._timed),
            canary=tuple(self._canary),
            counters_rise=summarise([state for _, state in states]).counters_rise,
        )


def _read_all(folder: Path) -> list[Session]:
    return [_read(folder / f"session-{number}.json") for number in range(len(list(folder.glob("session-*.json"))))]


def _read(path: Path) -> Session:
    try:
        return Session.model_validate(read_json(path))
    except (ValidationError, CorruptArtefactError) as error:
        raise CorruptArtefactError(
            f"{path} is damaged, and without it nobody knows how the device was while it was timed.",
            remedy=f"delete {path.parent}: the profile is then measured anew",
        ) from error
