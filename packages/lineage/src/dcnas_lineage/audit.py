"""
Where does a printed number come from, and does it still hold?

The walk: cell -> record -> weights and training log -> data, genotype -> architecture -> latency profile; every byte hashed again.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dcnas_harness.errors import BadInputError, DcnasError
from dcnas_harness.files import sha256_of
from dcnas_lineage.cells import derive
from dcnas_lineage.lock import Lock, md5_as_locked
from dcnas_lineage.records import read_genotype, read_record, read_search, read_training
from dcnas_schema.cells import Cell, CellMap
from dcnas_schema.json_files import read_json_record
from dcnas_schema.latency import ENTRIES, ProfileMetadata
from dcnas_schema.parquet import read_parquet
from dcnas_schema.photo_records import ChosenGenotype
from dcnas_schema.provenance import Provenance
from dcnas_schema.search_log import ArchitectureRecord


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
    return read_json_record(path, CellMap)


def find_cells(cell_map: CellMap, name: str | None) -> list[Cell]:
    """
    Return the cell called "ROW,COLUMN" (without the unit in parentheses too, where only one is meant), or all cells for `None`.

    Raises:
        BadInputError: No cell has this name, or several have it without what stands in parentheses.
    """
    if name is None:
        return list(cell_map.cells)
    names = {f"{cell.row},{cell.column}": cell for cell in cell_map.cells}
    short = [key for key, cell in names.items() if f"{cell.row},{cell.column.rsplit(' (', 1)[0]}" == name]
    cell = names.get(short[0] if len(short) == 1 and name not in names else name)
    if cell is None:
        near = short or difflib.get_close_matches(name, [*names], n=3, cutoff=0.3)
        raise BadInputError(
            f"{cell_map.table} has no cell {name!r}.",
            remedy=f"near are {'; '.join(near) or 'none'} (give it as 'ROW,COLUMN')",
        )
    return [cell]


class _Walk:
    def __init__(self, table: Path, cell_map: CellMap, root: Path) -> None:
        self._table, self._map, self._root = table, cell_map, root
        self._lock = Lock(root)
        made = self._lock.producer_of(f"{table}.md")
        self._tabulated = "tabulate" if made is None else made.stage
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
                yield self._given_file(1, source, self._tabulated, expected)
            else:
                yield from self._artefact(1, source, self._tabulated, expected)

    def _cell_problem(self, cell: Cell) -> str | None:
        printed = self._printed.get((cell.row, cell.column))
        wanted = f"**{cell.text}**" if cell.marked_better else cell.text
        if printed != wanted:
            return f"the table prints {printed!r}, its cell map says {wanted!r}"
        try:
            derived = derive(cell, confidence=self._map.confidence, root=self._root).text
        except (DcnasError, OSError, KeyError, ValueError) as error:
            return f"it cannot be derived again: {error}"
        return None if derived == cell.text else f"derived again from its sources it is {derived!r}"

    def _artefact(self, depth: int, path: str, consumer: str, expected: str | None) -> Iterator[Link]:
        """A file: the link to it, then, where it carries provenance, the links to all that it was made from."""
        link = self._made_file(depth, path, expected, consumer)
        try:
            provenance = _provenance(self._root / path)
        except DcnasError as error:
            yield Link(depth=depth, what=path, detail=link.detail, problem=link.problem or str(error))
            return
        if provenance is None:
            yield link
            return
        dirty = f", with changes in {', '.join(provenance.dirty)}" if provenance.dirty else ""
        seed = "" if provenance.seed is None else f"seed {provenance.seed}, "
        origin = f"{seed}commit {(provenance.commit or 'unknown')[:12]}{dirty}, on {provenance.device.name}"
        yield Link(depth=depth, what=path, detail=f"{link.detail}, {origin}", problem=link.problem)
        reader = self._reader(path, provenance)
        for source, sha256 in provenance.inputs.items():
            yield from self._artefact(depth + 1, source, reader, sha256)

    def _reader(self, path: str, provenance: Provenance) -> str:
        """Return the pipeline stage that made `path` and thereby read its inputs: dvc.lock's name for it, the item that the file names."""
        made = self._lock.producer_of(path)
        name, of_a_matrix, _ = ("", "", "") if made is None else made.stage.partition("@")
        return f"{name or provenance.stage}@{provenance.item}" if of_a_matrix or not name else name

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


_READERS: dict[str, Callable[[Path], Provenance]] = {
    "record.parquet": lambda path: read_record(path)[1].provenance,
    "log.parquet": lambda path: read_training(path).provenance,
    "genotype.json": lambda path: read_genotype(path).provenance,
    "architecture.json": lambda path: read_json_record(path, ArchitectureRecord).provenance,
    "search.parquet": lambda path: read_search(path)[1].provenance,
    "profile.parquet": lambda path: read_parquet(path, ENTRIES, ProfileMetadata)[1].provenance,
}
"""File name -> how to read the provenance that such a file carries."""


@cache
def _provenance(path: Path) -> Provenance | None:
    """Return the provenance that a file carries; `None` for weights and data, whose own inputs are not walked."""
    if path.name in _READERS:
        return _READERS[path.name](path)
    return _of_chosen(path) if path.suffix == ".json" else None


def _of_chosen(path: Path) -> Provenance | None:
    """
    Return the provenance of FOLDER/MODEL/SEED.json, the genotype that was chosen for a model.

    The file has none, that of all stands in FOLDER; of its inputs those remain that this model's genotype comes from.
    """
    folder = path.parents[1]
    if not (folder / "provenance.json").is_file():
        return None
    chosen = read_json_record(path, ChosenGenotype)
    provenance = read_json_record(folder / "provenance.json", Provenance)
    search = f"/{chosen.search}/{chosen.search_seed}/"
    inputs = {
        source: sha256
        for source, sha256 in provenance.inputs.items()
        if search in f"/{source}" or (chosen.drawn is not None and source.endswith("profile.parquet"))
    }
    return provenance.model_copy(update={"inputs": inputs})


@cache
def _hashes(locked: Path, path: Path) -> tuple[str, str] | None:
    """Return the MD5 of what dvc.lock names and the SHA-256 of the file; each is read once a process."""
    if not path.is_file():
        return None
    return md5_as_locked(locked), sha256_of(path)


def _printed_cells(table: Path) -> dict[tuple[str, str], str]:
    """Return (row, column) -> text of the Markdown table in a file, the mark of better cells included; empty where it is no text."""
    try:
        lines = [line for line in table.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    except (OSError, UnicodeDecodeError):
        return {}
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    if not rows:
        return {}
    titles = rows[0]
    return {(row[0], title): text for row in rows[2:] for title, text in zip(titles, row, strict=False)}
