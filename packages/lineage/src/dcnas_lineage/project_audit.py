"""The audit of a project: some or all cells of some or all tables, each with its verdict, in one walk."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dcnas_harness.errors import BadInputError, DcnasError
from dcnas_lineage.audit import audit_cells, audit_series, find_cells, load_cell_map
from dcnas_lineage.gitstate import History
from dcnas_lineage.graph import load_graph
from dcnas_lineage.hashing import Hasher
from dcnas_lineage.run_checks import RunChecks
from dcnas_lineage.store import Fetch, Store, cache_of
from dcnas_lineage.verdict import Link, Verdict, first_failing, worst
from dcnas_schema.cells import Cell, CellMap, FigureMap
from dcnas_schema.json_files import read_json_record

_LOCK = "dvc.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """One number, or drawn series, with its verdict and the walk that led to it."""

    subject: str
    """The table or figure, such as results/table_1."""
    row: str
    column: str
    text: str
    links: tuple[Link, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the walk."""
        return worst(link.verdict for link in self.links)

    @property
    def failing(self) -> Link | None:
        """The first edge that is to blame; `None` where the number holds."""
        return first_failing(self.links)


def known_tables(root: Path) -> list[Path]:
    """Return the tables of results/ that have a cell map, without suffix, from the project's folder."""
    maps = sorted((root / "results").glob("*.cells.json"))
    return [path.with_name(path.name.removesuffix(".cells.json")).relative_to(root) for path in maps]


def audit_tables(
    root: Path,
    tables: Iterable[Path],
    figures: Iterable[str] = (),
    *,
    cell: str | None = None,
    remote: Fetch | None = None,
    cache: Path | None = None,
) -> Iterator[Audited]:
    """
    Walk from cells of tables down to the data, and yield each with its verdict; every file is hashed once.

    Args:
        tables: Without suffix, from the project's folder.

        figures: Their maps, from the project's folder.

        cell: "ROW,COLUMN" of the one cell; all without it.

        remote: How to read DVC's remote; `None` leaves it out.

        cache: DVC's cache; the project's own without it.

    Raises:
        BadInputError: There is no such table or cell, or dvc.yaml, dvc.lock or params.yaml is missing or no YAML.

        CorruptArtefactError: A cell map is damaged.
    """
    chosen = [(table, load_cell_map(table, root)) for table in tables]
    wanted = [(table, cells, find_cells(cells, cell)) for table, cells in chosen]
    with ExitStack() as stack:
        try:
            runs = _checks(root, stack, remote, cache)
        except DcnasError as error:
            if not (root / _LOCK).is_file() or _LOCK not in str(error):
                raise
            yield from _all_broken(wanted, str(error))
            return
        for table, cell_map, cells in wanted:
            for found, links in audit_cells(table, cells, cell_map, root, runs):
                yield _audited(table, found, links)
        for path in figures:
            drawn = read_json_record(root / path, FigureMap)
            for series, links in audit_series(path, drawn, root, runs):
                subject = path.removesuffix(".figure.json")
                yield Audited(
                    subject=subject, row=series.label, column=series.pointer, text="drawn", links=tuple(links)
                )


def known_figures(root: Path) -> list[str]:
    """Return the maps of the figures of results/, from the project's folder."""
    return sorted(path.relative_to(root).as_posix() for path in (root / "results").glob("figures*/*.figure.json"))


def _checks(root: Path, stack: ExitStack, remote: Fetch | None, cache: Path | None) -> RunChecks:
    history: History | None = stack.enter_context(History(root))
    if history is not None and history.head is None:
        history = None
    store = Store(cache_of(root) if cache is None else cache, remote)
    return RunChecks(load_graph(root), Hasher(root), history, store)


def _all_broken(wanted: Sequence[tuple[Path, CellMap, list[Cell]]], problem: str) -> Iterator[Audited]:
    link = Link(depth=1, what=_LOCK, detail="", problem=problem.replace("\n", " "), verdict=Verdict.BROKEN)
    for table, _, cells in wanted:
        for cell in cells:
            yield _audited(table, cell, [link])


def _audited(table: Path, cell: Cell, links: Iterable[Link]) -> Audited:
    return Audited(subject=table.as_posix(), row=cell.row, column=cell.column, text=cell.text, links=tuple(links))


def require_tables(root: Path) -> list[Path]:
    """
    Return all tables of results/.

    Raises:
        BadInputError: There are none.
    """
    tables = known_tables(root)
    if not tables:
        raise BadInputError(f"{root / 'results'} holds no tables.", remedy="run: make repro (or dvc pull)")
    return tables
