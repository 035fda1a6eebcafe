"""Which of several processes that train together this one is, as torchrun tells it; no torch here."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from dcnas_harness.errors import BadInputError, DcnasError
from dcnas_harness.process import die_with_parent

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_FIRST_WORD_S = 3.0
"""Time that the leader has for an error that all processes find alike; torchrun ends the others in a tenth of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """The place of a process among those of one run; by default it is the only one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number among the processes of this machine: that of its GPU."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def require_equal_shares(self, batch_size: int, *, key: str) -> None:
        """
        Check that all processes can take the same number of images of every batch.

        Args:
            key: The batch size's name in params.yaml.

        Raises:
            BadInputError: They cannot.
        """
        if batch_size % self.size:
            below = batch_size - batch_size % self.size
            sizes = f"{below} or {below + self.size}" if below else str(self.size)
            raise BadInputError(
                f"{key} is {batch_size}, which {self.size} processes cannot share equally.",
                where="params.yaml",
                remedy=f"make it a multiple of {self.size}, such as {sizes}, or start a number of processes that divides {batch_size}",
            )


def seat_of(variables: Mapping[str, str]) -> Seat:
    """
    Return the seat that torchrun's environment variables name; without all three of them the process is alone.

    Raises:
        BadInputError: They contradict each other.
    """
    if any(name not in variables for name in _NAMES):
        return Seat()
    try:
        rank, size, local_rank = (int(variables[name]) for name in _NAMES)
    except ValueError:
        rank, size, local_rank = -1, 0, 0
    if not 0 <= rank < size or local_rank < 0:
        raise BadInputError(
            ", ".join(f"{name} is {variables[name]!r}" for name in _NAMES) + ", which is no place among processes.",
            where="the environment",
            remedy="start the processes by torchrun, or unset these variables",
        )
    return Seat(rank=rank, size=size, local_rank=local_rank)


def take_seat() -> Seat:
    """
    Return this process's seat, and behave as it asks.

    Processes of a run die with torchrun. Those that do not lead write nothing, so that SIGTERM and Ctrl-C end them at once and without
    a word, even while they wait for another process; the leader says what is to be said.
    """
    seat = seat_of(os.environ)
    if seat.size > 1:
        die_with_parent(os.getppid())
    if not seat.leads:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return seat


@contextmanager
def leader_speaks_first(seat: Seat) -> Iterator[None]:
    """
    Hold an error of this process back for some seconds where it does not lead.

    An error that all find alike, such as a loss that is not finite, is then told once: torchrun ends this process after the leader. One
    that only this process has is told late.
    """
    try:
        yield
    except DcnasError:
        if not seat.leads:
            time.sleep(_FIRST_WORD_S)
        raise
