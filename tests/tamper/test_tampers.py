"""Every lie is caught with its verdict, and the edge named; nothing else is called one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tampers import FALSE_ALARMS, TAMPERS, Tamper, audited, outcome

from dcnas_lineage.verdict import Verdict


@pytest.mark.parametrize("tamper", TAMPERS, ids=lambda tamper: tamper.name)
def test_a_lie_is_caught_at_its_edge(tamper: Tamper, damaged: Path) -> None:
    """The worst verdict is the one expected, and the first failing link of the first such cell is the edge that was tampered with."""
    tamper.do(damaged)
    verdict, blamed = outcome(audited(damaged, remote=tamper.remote))
    assert (verdict, tamper.edge in blamed) == (tamper.verdict, True), blamed


@pytest.mark.parametrize("change", FALSE_ALARMS, ids=lambda change: change.name)
def test_what_is_no_lie_holds(change: Tamper, copies: Callable[[], Path]) -> None:
    """Every cell of every table holds after a change that leaves the numbers' ground as it was."""
    root = copies()
    change.do(root)
    verdict, blamed = outcome(audited(root))
    assert verdict is Verdict.HOLDS, blamed


def test_an_honest_project_holds(honest: Path) -> None:
    """Every cell of every table of an undisturbed run, the remote's objects included."""
    cells = audited(honest, remote=True)
    assert len(cells) > 15
    assert outcome(cells) == (Verdict.HOLDS, "")
