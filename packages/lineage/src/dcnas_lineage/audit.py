"""Where does a printed number come from, and does it still hold? The walk cell -> record -> weights -> data, every byte hashed again."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from dcnas_harness.errors import BadInputError, CorruptArtefactError, DcnasError
from dcnas_harness.files import read_json, sha256_of
from dcnas_lineage.cells import derive, read_record
from dcnas_lineage.lock import Lock, md5_as_locked
from dcnas_schema.cells import Cell, CellMap
from dcnas_schema.parquet import read_parquet
from dcnas_schema.provenance import Provenance
from dcnas_schema.records import TRAINING_LOG, TrainingMetadata


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One step of the walk."""

    depth: int
    """0 is the cell."""
    what: str
    """The file or cell."""
    detail: str
    """Hash, pipeline stage, seed, commit."""
    problem: str | None
    """Why the link is broken; `None` where it holds."""


def audit_cells(table: Path, cells: Iterable[Cell], cell_map: CellMap, root: Path) -> Iterator[tuple[Cell, list[Link]]]:
    """
    Walk from each cell down to the data; yield it with every link of its walk. A file is hashed once, however many cells use it.

    Args:
        table: Path of the table without suffix, relative to `root`, such as results/table_1.

        root: The project's folder.
    """
    walk = _Walk(table, cell_map, root)
    for cell in cells:
        yield cell, list(walk.cell(cell))


def load_cell_map(table: Path, root: Path) -> CellMap:
    """
    Return the cell map of a table.

    Raises:
        BadInputError: There is no such table.

        CorruptArtefactError: Its cell map is damaged.
    """
    path = root / f"{table}.cells.json"
    if not path.is_file():
        known = sorted(
            f"{p.parent.relative_to(root)}/{p.name.removesuffix('.cells.json')}"
            for p in root.glob("results/*.cells.json")
        )
        raise BadInputError(
            f"There is no table {table}: {path} does not exist.",
            remedy=f"known are {', '.join(known) or 'none; run: dvc repro'}",
        )
    try:
        return CellMap.model_validate(read_json(path))
    except ValidationError as error:
        raise CorruptArtefactError(f"{path} is not a cell map:\n{error}", remedy="run: dvc repro tabulate") from error


def find_cells(cell_map: CellMap, name: str | None) -> list[Cell]:
    """
    Return the cell called "ROW,COLUMN" (without the unit in parentheses too), or all cells for `None`.

    Raises:
        BadInputError: No cell has this name.
    """
    if name is None:
        return list(cell_map.cells)
    names = {f"{cell.row},{cell.column}": cell for cell in cell_map.cells}
    short = {key.rsplit(" (", 1)[0]: cell for key, cell in names.items()}
    cell = names.get(name) or short.get(name)
    if cell is None:
        near = difflib.get_close_matches(name, [*names], n=3, cutoff=0.3)
        raise BadInputError(
            f"{cell_map.table} has no cell {name!r}.",
            remedy=f"near are {'; '.join(near) or 'none'} (give it as 'ROW,COLUMN')",
        )
    return [cell]


class _Walk:
    def __init__(self, table: Path, cell_map: CellMap, root: Path) -> None:
        self._table, self._map, self._root = table, cell_map, root
        self._lock = Lock(root)
        self._printed = _printed_cells(root / f"{table}.md")

    def cell(self, cell: Cell) -> Iterator[Link]:
        name = f"{self._table}: {cell.row!r}, {cell.column!r} = {cell.text!r}"
        yield Link(
            depth=0, what=name, detail=f"rule {cell.reducer} {cell.pointer}".rstrip(), problem=self._cell_problem(cell)
        )
        for suffix in (".md", ".cells.json"):
            yield self._made_file(1, f"{self._table}{suffix}", None)
        for source in cell.sources:
            expected = self._map.source_sha256.get(source)
            if cell.reducer == "reference":
                yield self._given_file(1, source, "tabulate", expected)
            else:
                yield from self._record(source, expected)

    def _cell_problem(self, cell: Cell) -> str | None:
        printed = self._printed.get((cell.row, cell.column))
        if printed != cell.text:
            return f"the table prints {printed!r}, its cell map says {cell.text!r}"
        try:
            derived = derive(cell, confidence=self._map.confidence, root=self._root).text
        except (DcnasError, OSError, KeyError, ValueError) as error:
            return f"it cannot be derived again: {error}"
        return None if derived == cell.text else f"derived again from its sources it is {derived!r}"

    def _record(self, source: str, expected: str | None) -> Iterator[Link]:
        yield from self._artefact(1, source, "tabulate", expected, self._record_provenance, self._evaluated)

    def _record_provenance(self, path: str) -> Provenance:
        return read_record(self._root / path)[1].provenance

    def _evaluated(self, depth: int, provenance: Provenance) -> Iterator[Link]:
        consumer = f"evaluate@{provenance.item}"
        for path, sha256 in provenance.inputs.items():
            if path.endswith("log.parquet"):
                yield from self._artefact(depth, path, consumer, sha256, self._log_provenance, self._trained)
            else:
                yield self._made_file(depth, path, sha256, consumer)

    def _log_provenance(self, path: str) -> Provenance:
        return read_parquet(self._root / path, TRAINING_LOG, TrainingMetadata)[1].provenance

    def _trained(self, depth: int, provenance: Provenance) -> Iterator[Link]:
        for path, sha256 in provenance.inputs.items():
            yield self._made_file(depth, path, sha256, f"retrain@{provenance.item}")

    def _artefact(
        self,
        depth: int,
        path: str,
        consumer: str,
        expected: str | None,
        provenance_of: Callable[[str], Provenance],
        below: Callable[[int, Provenance], Iterator[Link]],
    ) -> Iterator[Link]:
        """A file that carries provenance: the link to it, then the links below it."""
        link = self._made_file(depth, path, expected, consumer)
        try:
            provenance = provenance_of(path)
        except DcnasError as error:
            yield Link(depth=depth, what=path, detail=link.detail, problem=link.problem or str(error))
            return
        dirty = f", with changes in {', '.join(provenance.dirty)}" if provenance.dirty else ""
        origin = f"seed {provenance.seed}, commit {(provenance.commit or 'unknown')[:12]}{dirty}, on {provenance.device.name}"
        yield Link(depth=depth, what=path, detail=f"{link.detail}, {origin}", problem=link.problem)
        yield from below(depth + 1, provenance)

    def _made_file(self, depth: int, path: str, sha256: str | None, consumer: str | None = None) -> Link:
        """A file that a pipeline stage made: its hash is the one in dvc.lock, on both sides of the edge, and the one its reader saw."""
        producer = self._lock.producer_of(path)
        if producer is None:
            return Link(depth=depth, what=path, detail="", problem="no pipeline stage of dvc.yaml has it in dvc.lock")
        actual = _hashes(self._root / producer.path, self._root / path)
        if actual is None:
            return Link(depth=depth, what=path, detail="", problem="the file is missing (dvc pull, or dvc repro)")
        detail = f"md5 {actual[0][:12]}, made by {producer.stage}"
        problem = None
        if actual[0] != producer.md5:
            problem = f"its md5 is {actual[0]}, dvc.lock says {producer.md5}"
        elif sha256 is not None and actual[1] != sha256:
            problem = f"its sha256 is {actual[1]}, its reader ({consumer or 'the table'}) saw {sha256}"
        elif consumer is not None:
            problem = self._edge_problem(path, consumer)
        return Link(depth=depth, what=path, detail=detail, problem=problem)

    def _given_file(self, depth: int, path: str, consumer: str, sha256: str | None) -> Link:
        """A file of the repository itself: its hash is the one that its reader saw and dvc.lock holds."""
        entry = self._lock.dependency_of(consumer, path)
        actual = _hashes(self._root / path, self._root / path)
        if entry is None or actual is None:
            return Link(
                depth=depth, what=path, detail="", problem=f"it is missing, or {consumer} does not have it in dvc.lock"
            )
        problem = None
        if actual[0] != entry.md5:
            problem = f"its md5 is {actual[0]}, dvc.lock says {entry.md5}"
        elif sha256 is not None and actual[1] != sha256:
            problem = f"its sha256 is {actual[1]}, {consumer} saw {sha256}"
        return Link(depth=depth, what=path, detail=f"md5 {actual[0][:12]}, read by {consumer}", problem=problem)

    def _edge_problem(self, path: str, consumer: str) -> str | None:
        read = self._lock.dependency_of(consumer, path)
        if read is None:
            return f"dvc.lock does not say that {consumer} read it"
        locked = _hashes(self._root / read.path, self._root / path)
        if locked is None or locked[0] != read.md5:
            return f"{consumer} read another {read.path} (dvc.lock says {read.md5})"
        return None


@cache
def _hashes(locked: Path, path: Path) -> tuple[str, str] | None:
    """Return the MD5 of what dvc.lock names and the SHA-256 of the file; each is read once a process."""
    if not path.is_file():
        return None
    return md5_as_locked(locked), sha256_of(path)


def _printed_cells(table: Path) -> dict[tuple[str, str], str]:
    """Return (row, column) -> text of the Markdown table in a file, without the mark of better cells; empty where it is no text."""
    try:
        lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    except (OSError, UnicodeDecodeError):
        return {}
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    if not rows:
        return {}
    titles = rows[0]
    return {(row[0], title): text.strip("*") for row in rows[2:] for title, text in zip(titles, row, strict=False)}
