"""A plan and its outcomes as text, table and drawing."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from dcnas_flows.engine import Outcome, Plan, group_of

_WIDTH_WITHOUT_TERMINAL = 200


def describe(made: Plan) -> str:
    """Return one line that says how much is stale, and what."""
    stale = [step.name for step in made.stale]
    if not stale:
        return f"nothing is stale: all {len(made.steps)} pipeline stages are up to date"
    return f"{len(stale)} of {len(made.steps)} pipeline stages are stale: {', '.join(stale)}"


class Narrator:
    """
    Prints what stages say as they say it, each line whole, and how each ended.

    Args:
        total: How many stages will run.

        side_by_side: Whether several may speak at once: their lines then begin with their names.
    """

    def __init__(self, total: int, *, side_by_side: bool) -> None:
        self._total, self._side_by_side, self._ended = total, side_by_side, 0

    def line_of(self, name: str) -> Callable[[str], None]:
        """Return the function that prints a line of the stage `name`."""
        head = f"{name}: " if self._side_by_side else ""

        def say(line: str) -> None:
            if line.strip():
                _print(head + line.removeprefix(head))  # progress of a stage may begin with its name already

        return say

    def ended(self, outcome: Outcome) -> None:
        """Print how a stage ended."""
        self._ended += 1
        _print(f"[{self._ended}/{self._total}] {outcome.name}: {outcome.result.value}, {outcome.seconds:.1f} s")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # in one piece: several threads print
    sys.stdout.flush()


def print_times(outcomes: Sequence[Outcome]) -> None:
    """Print how long the stages of each group took, and how many there were."""
    groups: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.attempts:
            groups.setdefault(group_of(outcome.name), []).append(outcome.seconds)
    for group, seconds in groups.items():
        _print(f"{sum(seconds):8.1f} s  {group} ({len(seconds)} run)")


def rows(outcomes: Sequence[Outcome]) -> list[dict[str, str | int | float]]:
    """Return the outcomes as the rows of a table; times in seconds."""
    return [
        {
            "pipeline stage": outcome.name,
            "result": outcome.result.value,
            "exit code": outcome.exit_code,
            "attempts": outcome.attempts,
            "seconds": round(outcome.seconds, 1),
        }
        for outcome in outcomes
    ]


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print the outcomes as a table: framed in a terminal, plain columns elsewhere."""
    console = Console()
    terminal = console.is_terminal
    table = Table(box=SIMPLE if terminal else None, pad_edge=False)
    for number, heading in enumerate(rows(outcomes)[0]):
        table.add_column(heading, justify="left" if number < 2 else "right", no_wrap=not terminal)
    for row in rows(outcomes):
        table.add_row(*map(str, row.values()))
    console.print(table, width=None if terminal else _WIDTH_WITHOUT_TERMINAL)


def mermaid(made: Plan) -> str:
    """Return the graph as a Mermaid flowchart, the items of a matrix drawn as one node with their numbers."""
    total = Counter(group_of(step.name) for step in made.steps)
    stale = Counter(group_of(step.name) for step in made.stale)
    ids = {group: f"node{number}" for number, group in enumerate(total)}
    edges = dict.fromkeys((group_of(name), group_of(step.name)) for step in made.steps for name in step.upstream)
    nodes = [f'    {ids[group]}["{group}<br/>{stale[group]} of {total[group]} stale"]' for group in total]
    return "\n".join(["flowchart TD", *nodes, *(f"    {ids[above]} --> {ids[below]}" for above, below in edges)])
