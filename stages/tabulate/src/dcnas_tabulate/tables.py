"""A layout becomes a table: cells derived, better ones marked, in Markdown, CSV, Parquet and a cell map."""

import csv
import io
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
from dcnas_tabulate.layout import Column, Layout, Run, make_cell, noisy_cell


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
    rows, values = [], []
    scored = next((run for run in layout.runs if run.paths), None)
    if layout.noisy_row and scored is not None:
        noisy = [noisy_cell(column, scored) for column in layout.columns]
        derived = [_derived(cell, confidence) for cell in noisy]
        rows.append(tuple(_with_text(c, d, marked=False) for c, d in zip(noisy, derived, strict=True)))
        values.append(tuple(derived))
    for run in layout.runs:
        cells = [make_cell(column, run, layout, reference_file) for column in layout.columns]
        derived = [_derived(cell, confidence) for cell in cells]
        marks = [(run.model, column.title) in better for column in layout.columns]
        rows.append(tuple(_with_text(c, d, marked=m) for c, d, m in zip(cells, derived, marks, strict=True)))
        values.append(tuple(derived))
    return Table(layout=layout, rows=tuple(rows), values=tuple(values))


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


def _derived(cell: Cell | None, confidence: float) -> Derived:
    return Derived(text=NOTHING, value=None) if cell is None else derive(cell, confidence=confidence, root=Path())


def _with_text(cell: Cell | None, derived: Derived, *, marked: bool) -> Cell | None:
    return None if cell is None else cell.model_copy(update={"text": derived.text, "marked_better": marked})


def _better_cells(layout: Layout, confidence: float, reference_file: Path) -> set[tuple[str, str]]:
    runs = {run.model: run for run in layout.runs}
    better = set()
    for column in layout.columns:
        for a, b in layout.rivals if column.compare else ():
            first, second = (_values(column, runs[model], layout, reference_file) for model in (a, b))
            if first and paired_interval_excludes_zero(first, second, confidence):
                better.add((a if column.compare * (sum(first) - sum(second)) > 0 else b, column.title))
    return better


def _values(column: Column, run: Run, layout: Layout, reference_file: Path) -> list[float]:
    return seed_values(make_cell(column, run, layout, reference_file), Path())


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
