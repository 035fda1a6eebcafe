"""A layout becomes a table: cells derived, better ones marked, in Markdown, CSV, Parquet and a cell map."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dcnas_harness.files import atomic_write, sha256_of, write_text
from dcnas_lineage.cells import (
    NOISY,
    NOTHING,
    Derived,
    as_dict,
    derive,
    paired_interval_excludes_zero,
    seed_values,
)
from dcnas_schema.cells import LATENCIES, SPREADS, Cell, CellMap
from dcnas_tabulate.comparing import common_seeds, cut_to
from dcnas_tabulate.latency_keys import measured_key
from dcnas_tabulate.layout import Column, Layout, Run, cell_of, noisy_cell

Cells = Sequence[Cell | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table with all its cells derived."""

    layout: Layout
    rows: tuple[tuple[Cell | None, ...], ...]
    """One tuple a row, one cell a column; `None` where the column says nothing of the row."""
    values: tuple[tuple[Derived, ...], ...]


def build_table(layout: Layout, *, confidence: float, reference_file: Path) -> Table:
    """Derive every cell of `layout`."""
    better = _better_cells(layout, confidence, reference_file)
    columns = layout.columns
    lines: list[Cells] = [[make_cell(c, run, layout, reference_file) for c in columns] for run in layout.runs]
    marks = [[(run.model, column.title) in better for column in columns] for run in layout.runs]
    scored = next((run for run in layout.runs if run.paths), None)
    if layout.noisy_row and scored is not None:
        lines = [[noisy_cell(column, scored.paths[0]) for column in columns], *lines]
        marks = [[False] * len(columns), *marks]
    return derive_table(layout, lines, marks, confidence=confidence)


def derive_table(
    layout: Layout, lines: Sequence[Cells], marks: Sequence[Sequence[bool]], *, confidence: float
) -> Table:
    """
    Return the table of these cells, a line a row, each with its text and, where it is better, its mark.

    Args:
        marks: Whether a cell is better, one tuple a row.
    """
    values = [
        tuple(
            Derived(text=NOTHING, value=None) if cell is None else derive(cell, confidence=confidence, root=Path())
            for cell in line
        )
        for line in lines
    ]
    rows = tuple(
        tuple(
            cell and cell.model_copy(update={"text": derived.text, "marked_better": marked})
            for cell, derived, marked in zip(*parts, strict=True)
        )
        for parts in zip(lines, values, marks, strict=True)
    )
    return Table(layout=layout, rows=rows, values=tuple(values))


def make_cell(column: Column, run: Run, layout: Layout, reference_file: Path) -> Cell:
    """Return the cell of `run` in `column`, its text not yet derived."""
    if column.reducer == "label":
        return cell_of(column, run.label, pointer=run.label)
    if column.reducer == "count":
        return cell_of(column, run.label, pointer=str(run.wanted), sources=run.paths)
    if column.reducer == "reference":
        reference = layout.references.get(run.model, ("", "", ""))
        return cell_of(column, run.label, pointer=",".join((*reference, column.pointer)), sources=[reference_file])
    if column.device is not None:
        made = zip(run.paths, run.metadata, strict=True)
        return cell_of(column, run.label, sources=[path for path, m in made if measured_key(m) == column.device])
    return cell_of(column, run.label, sources=run.paths)


def write_table(table: Table, out: Path, *, confidence: float, footer: str) -> None:
    """Write the four forms of a table into `out`."""
    name = table.layout.name
    write_text(out / f"{name}.md", to_markdown(table) + "\n" + footer)
    write_text(out / f"{name}.csv", _to_csv(table))
    arrow = _to_arrow(table)
    with atomic_write(out / f"{name}.parquet") as temporary:
        pq.write_table(arrow, temporary, write_page_checksum=True)
    cells = tuple(cell for row in table.rows for cell in row if cell is not None)
    sources = sorted({source for cell in cells for source in cell.sources})
    cell_map = CellMap(
        table=name,
        confidence=confidence,
        cells=cells,
        source_sha256={source: sha256_of(Path(source)) for source in sources},
    )
    write_text(out / f"{name}.cells.json", cell_map.model_dump_json(indent=1) + "\n")


def to_markdown(table: Table) -> str:
    """Return the table as Markdown, columns aligned."""
    titles = [column.title for column in table.layout.columns]
    lines = [titles, *[[printed(cell) for cell in row] for row in table.rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    rule = ["-" * widths[0], *["-" * (width - 1) + ":" for width in widths[1:-1]], "-" * widths[-1]]
    text = [
        " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (lines[0], rule, *lines[1:])
    ]
    body = "\n".join(f"| {line} |" for line in text)
    empty = "" if table.rows else "\nNo model of this kind is in runs.models.\n"
    return f"## {table.layout.title}\n\n{body}\n{empty}"


def printed(cell: Cell | None) -> str:
    """Return a cell as it is printed: bold where it is better beyond its interval."""
    if cell is None:
        return NOTHING
    return f"**{cell.text}**" if cell.marked_better else cell.text


def _better_cells(layout: Layout, confidence: float, reference_file: Path) -> set[tuple[str, str]]:
    runs = {run.model: run for run in layout.runs}
    better = set()
    for a, b in layout.rivals:
        seeds = common_seeds(runs[a], runs[b])
        pair = [cut_to(runs[model], seeds) for model in (a, b)]
        for column in (column for column in layout.columns if column.compare):
            first, second = (seed_values(make_cell(column, run, layout, reference_file), Path()) for run in pair)
            if first and len(first) == len(second) and paired_interval_excludes_zero(first, second, confidence):
                better.add((a if column.compare * (sum(first) - sum(second)) > 0 else b, column.title))
    return better


def _records(table: Table) -> list[dict[str, object]]:
    records = []
    for row, values in zip(table.rows, table.values, strict=True):
        record: dict[str, object] = {}
        for column, cell, derived in zip(table.layout.columns, row, values, strict=True):
            if column.reducer in ("label", "paths"):
                record[column.title.lower()] = derived.text if cell is not None else ""
            elif column.reducer in SPREADS:
                record |= as_dict(derived, column.key)
            else:
                record[column.key] = derived.value
            if _may_be_noisy(column):
                told = cell is not None and derived.value is not None
                record[f"{column.key}_noisy"] = derived.text.endswith(NOISY) if told else None
        records.append(record)
    return records


def _to_csv(table: Table) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=_to_arrow(table).schema.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_records(table))
    return buffer.getvalue()


def _may_be_noisy(column: Column) -> bool:
    """Return whether cells of the column may bear the mark of a latency that is not to be relied on."""
    return column.of_measured or column.reducer in LATENCIES or column.pointer == "measured"


def _to_arrow(table: Table) -> pa.Table:
    fields: list[tuple[str, pa.DataType]] = []
    for column in table.layout.columns:
        if column.reducer in ("label", "paths"):
            fields.append((column.title.lower(), pa.string()))
        else:
            names = as_dict(Derived(text="", value=None), column.key) if column.reducer in SPREADS else [column.key]
            fields += [(name, pa.float64()) for name in names]
        if _may_be_noisy(column):
            fields.append((f"{column.key}_noisy", pa.bool_()))
    return pa.Table.from_pylist(_records(table), schema=pa.schema(fields))
