"""The audit of all tables as the flows see it: verdicts counted, and of each cell that does not hold the first failing edge."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_lineage.audit import audit_cells, load_cell_map

HOLDS = "HOLDS"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A printed number that does not hold."""

    table: str
    row: str
    column: str
    verdict: str
    edge: str
    """The file or cell where the walk to its data fails first."""
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TableAudit:
    """What the audit says of one table."""

    table: str
    verdicts: Counter[str]
    """How many cells have each verdict."""
    findings: tuple[Finding, ...]


def audited(root: Path, tables: Sequence[str]) -> Iterator[TableAudit]:
    """
    Walk from every cell of the tables to its data, and yield what was found, table by table.

    Args:
        root: The project's folder.

        tables: Names such as table_1; none means all in results/.

    Raises:
        BadInputError: There is no such table, or none at all.
    """
    names = [*tables] or [path.name.removesuffix(".cells.json") for path in sorted(root.glob("results/*.cells.json"))]
    if not names:
        raise BadInputError(f"{root / 'results'} holds no table to audit.", remedy="run: dcnas flow run")
    for name in names:
        path = Path("results") / name
        cell_map = load_cell_map(path, root)
        verdicts, findings = Counter[str](), list[Finding]()
        for cell, links in audit_cells(path, cell_map.cells, cell_map, root):
            broken = next((link for link in links if link.problem), None)
            verdict = "BROKEN" if broken else HOLDS
            verdicts[verdict] += 1
            if broken:
                where = {"table": name, "row": cell.row, "column": cell.column, "verdict": verdict}
                findings.append(Finding(**where, edge=broken.what, problem=str(broken.problem)))
        yield TableAudit(table=name, verdicts=verdicts, findings=tuple(findings))
