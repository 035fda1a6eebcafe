"""A plan and its outcomes as text, table and drawing."""

from collections import Counter
from collections.abc import Sequence

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
