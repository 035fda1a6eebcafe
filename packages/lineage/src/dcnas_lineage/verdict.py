"""What an audit says of a number, and of each step on the way to it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dcnas_harness.errors import ExitCode


class Verdict(StrEnum):
    """From the best to the worst."""

    HOLDS = "HOLDS"
    STALE = "STALE"
    """The chain is whole, but code, parameters or data have moved on since: a new run may give another number."""
    UNVERIFIABLE = "UNVERIFIABLE"
    """Something that the answer needs is not there: a file, a run record, a commit."""
    BROKEN = "BROKEN"
    """Two things on the way contradict each other."""

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of an audit whose worst verdict this is."""
        return _CODES[self]


_CODES = {
    Verdict.HOLDS: ExitCode.OK,
    Verdict.STALE: ExitCode.AUDIT_STALE,
    Verdict.UNVERIFIABLE: ExitCode.AUDIT_UNVERIFIABLE,
    Verdict.BROKEN: ExitCode.AUDIT_BROKEN,
}
_ORDER = list(Verdict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One step of the walk."""

    depth: int
    """0 is the cell."""
    what: str
    """The file, cell or run."""
    detail: str
    """Hash, pipeline stage, seed, commit."""
    problem: str | None = None
    """What is wrong; `None` where the link holds."""
    verdict: Verdict = Verdict.HOLDS
    """HOLDS just where there is no problem."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of the verdicts; HOLDS where there are none."""
    return max(verdicts, key=_ORDER.index, default=Verdict.HOLDS)


def first_failing(links: Iterable[Link]) -> Link | None:
    """Return the first link with the worst verdict of all; `None` where all hold."""
    links = list(links)
    whole = worst(link.verdict for link in links)
    return None if whole is Verdict.HOLDS else next(link for link in links if link.verdict is whole)
