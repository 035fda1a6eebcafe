"""The audit as it is printed."""

import os
from collections import Counter
from pathlib import Path

from dcnas_lineage.audit import Link, audit_cells, find_cells, load_cell_map


def print_audit(root: Path, table: str, cell_name: str | None) -> bool:
    """Print the walk of one cell, or the verdicts of all; return whether every link holds."""
    name = Path(os.path.relpath(Path(table).resolve(), root)) if Path(table).is_absolute() else Path(table)
    cell_map = load_cell_map(name, root)
    cells = find_cells(cell_map, cell_name)
    verdicts: Counter[str] = Counter()
    for cell, links in audit_cells(name, cells, cell_map, root):
        broken = next((link for link in links if link.problem), None)
        verdicts["BROKEN" if broken else "HOLDS"] += 1
        if cell_name is not None:
            for link in links:
                print(_line(link))
        if broken:
            print(f"BROKEN {cell.row}, {cell.column}: {broken.what}: {broken.problem}")
        elif cell_name is not None:
            print("HOLDS")
    if cell_name is None:
        print(f"{name}: {verdicts['HOLDS']} cells hold, {verdicts['BROKEN']} are broken")
    return not verdicts["BROKEN"]


def _line(link: Link) -> str:
    mark = "✗" if link.problem else "✓"
    text = f"{'   ' * link.depth}{mark} {link.what}"
    if link.detail:
        text += f"  ({link.detail})"
    return f"{text}\n{'   ' * link.depth}  {link.problem}" if link.problem else text
