"""How the device was over all the runs that measured one profile: an interruption must not make the noise gate forget."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import read_json, write_json
from dcnas_latency.bystanders import Bystanders
from dcnas_latency.rig import Rig
from dcnas_schema.provenance import DeviceState, Record

Timed = tuple[float, DeviceState]
"""Seconds since the start, and the device then."""


class Session(Record):
    """One run, from its start to its end or its interruption; or several, one after the other."""

    seconds: float
    others_share: float | None
    """Of all processors' time, 0 to 1; `None` where the system does not tell."""
    states: tuple[Timed, ...]


class Sessions:
    """
    Watches this run from its making on, and keeps beside its samples what it saw, after every measured round.

    A run that measures nothing, because an earlier one measured it all, leaves no trace: its quiet would thin out the others' noise.

    Args:
        polled: Gives what another watch has seen so far, in seconds since about now.

        folder: That of the samples; `None` keeps nothing.

    Raises:
        CorruptArtefactError: What an earlier run kept is damaged.
    """

    def __init__(self, rig: Rig, polled: Callable[[], Sequence[Timed]], folder: Path | None) -> None:
        self._rig, self._polled = rig, polled
        self._earlier = [] if folder is None else _read_all(folder)
        self._path = None if folder is None else folder / f"session-{len(self._earlier)}.json"
        self._looks: list[Timed] = []
        self._measured = False
        self._others, self._start = Bystanders(), time.monotonic()

    def look(self) -> None:
        """Take the state of now."""
        self._looks.append((time.monotonic() - self._start, self._rig.state()))

    def after_round(self) -> None:
        """Take the state of now, and keep this run so far: it has measured."""
        self.look()
        self._measured = True
        if self._path is not None:
            write_json(self._path, self._this().model_dump(mode="json"))

    def all(self) -> Session:
        """Return all runs that measured as if they had been one: times run on, shares are weighted by time."""
        sessions = [*self._earlier, self._this()] if self._measured or not self._earlier else self._earlier
        seconds, states, others = 0.0, [], 0.0
        told = all(one.others_share is not None for one in sessions)
        for one in sessions:
            states += [(round(seconds + when, 3), state) for when, state in one.states]
            seconds += one.seconds
            others += (one.others_share or 0.0) * one.seconds
        return Session(seconds=seconds, others_share=others / seconds if told else None, states=tuple(states))

    def _this(self) -> Session:
        states = sorted([*self._looks, *self._polled()], key=lambda one: one[0])
        return Session(seconds=time.monotonic() - self._start, others_share=self._others.share(), states=tuple(states))


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
