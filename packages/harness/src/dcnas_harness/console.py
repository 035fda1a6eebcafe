"""Progress on long work: a live bar in a terminal, plain lines with an ETA elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 5.0


class ProgressReport:
    """Counts finished units of `total` and says how far the work is; made by `progress`."""

    def __init__(self, label: str, total: int, bar: Progress | None) -> None:
        self._label, self._total, self._bar = label, total, bar
        self._task = bar.add_task(label, total=total, note="") if bar else None
        self._start = self._last_line = time.monotonic()
        self._first: int | None = None

    def update(self, done: int, note: str = "") -> None:
        """Report `done` of `total` units finished; `note` says what matters now (a loss, a rate)."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = done - 1  # a resumed run starts in the middle: its rate counts from here
        if done < self._total and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        left = (self._total - done) * (now - self._start) / max(done - self._first, 1)
        eta = "done" if done >= self._total else f"ETA {timedelta(seconds=round(left))}"
        print(f"{self._label}: {done}/{self._total} {eta} {note}".rstrip(), flush=True)


@contextmanager
def progress(label: str, total: int) -> Iterator[ProgressReport]:
    """Show the progress of `total` units of work under `label` while the block runs."""
    console = Console()
    if not console.is_terminal:
        yield ProgressReport(label, total, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
        yield ProgressReport(label, total, bar)
