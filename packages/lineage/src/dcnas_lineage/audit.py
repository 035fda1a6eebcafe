"""
Where does a printed number come from, and does it still hold?

The walk: cell -> record -> weights and training log -> data, genotype -> architecture -> latency profile; every byte hashed again. Beside
each file stands the run that made it (`run_checks`).
"""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from dcnas_harness.errors import BadInputError, DcnasError
from dcnas_lineage.cells import derive
from dcnas_lineage.hashing import Hasher
from dcnas_lineage.lock import Lock, LockedFile
from dcnas_lineage.provenances import provenance_of
from dcnas_lineage.records import forget
from dcnas_lineage.run_checks import RunChecks
from dcnas_lineage.verdict import Link, Verdict
from dcnas_schema.cells import LATENCIES, Cell, CellMap, DrawnSeries, FigureMap
from dcnas_schema.json_files import read_json_record
from dcnas_schema.provenance import Provenance
from dcnas_schema.run_record import RunRecord


def audit_cells(
    table: Path, cells: Iterable[Cell], cell_map: CellMap, root: Path, runs: RunChecks | None = None
) -> Iterator[tuple[Cell, list[Link]]]:
    """
    Walk from each cell down to the data; yield it with every link of its walk. A file is hashed once, however many cells use it.

    Args:
        table: Path of the table without suffix, relative to `root`, such as results/table_1.

        root: The project's folder.

        runs: The checks of the runs behind the files; `None` leaves them out. Tables of one audit share it.
    """
    forget()
    walk = _Walk(table, cell_map, root, runs)
    for cell in cells:
        yield cell, list(walk.cell(cell))


def audit_series(
    path: str, drawn: FigureMap, root: Path, runs: RunChecks | None = None
) -> Iterator[tuple[DrawnSeries, list[Link]]]:
    """
    Walk from each series of a figure down to the data, as `audit_cells` does from cells.

    Args:
        path: Of the figure's map, from the project's folder.
    """
    walk = _Walk(Path(path), drawn, root, runs)
    for series in drawn.series:
        yield series, list(walk.series(path, drawn, series))


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
    def __init__(self, table: Path, cell_map: CellMap | FigureMap, root: Path, runs: RunChecks | None) -> None:
        self._table, self._root, self._runs = table, root, runs
        self._seen_by_table = cell_map.source_sha256
        self._confidence = cell_map.confidence if isinstance(cell_map, CellMap) else 0.0
        self._lock = Lock(root) if runs is None else runs.graph.lock
        hasher = Hasher(root)
        self._hashed = hasher.path if runs is None else runs.hashed
        made = self._lock.producer_of(f"{table}.md" if isinstance(cell_map, CellMap) else table.as_posix())
        self._tabulated = "tabulate" if made is None else made.stage
        self._printed = _printed_cells(root / f"{table}.md")
        self._provenances: dict[str, Provenance | None] = {}
        self._below: dict[tuple[int, str, str, str | None], list[Link]] = {}

    def cell(self, cell: Cell) -> Iterator[Link]:
        name = f"{self._table}: {cell.row!r}, {cell.column!r} = {cell.text!r}"
        below = self._all_below(cell)
        problem, detail = self._cell_problem(cell), f"rule {cell.reducer} {cell.pointer}".rstrip()
        if problem is not None and problem.startswith(_CANNOT) and any(link.problem for link in below):
            problem, detail = None, f"{detail}; {problem}"  # what is wrong with the source is said below
        verdict = Verdict.HOLDS if problem is None else Verdict.BROKEN
        yield Link(depth=0, what=name, detail=detail, problem=problem, verdict=verdict)
        yield from below

    def _all_below(self, cell: Cell) -> list[Link]:
        links = []
        for suffix in (".md", ".cells.json"):
            links.append(self._made_file(1, f"{self._table}{suffix}", None))
        links += self._run(1, self._tabulated)
        return _runs_once([*links, *self._sources(cell.sources)])

    def _sources(self, sources: Iterable[str]) -> Iterator[Link]:
        for source in sources:
            expected = self._seen_by_table.get(source)
            if (self._tabulated, source) in self._lock.dependencies and self._lock.producer_of(source) is None:
                yield self._given_file(1, source, self._tabulated, expected)
            else:
                yield from self._artefact(1, source, self._tabulated, expected)

    def series(self, path: str, drawn: FigureMap, series: DrawnSeries) -> Iterator[Link]:
        name = f"{path.removesuffix('.figure.json')}: {series.label!r}"
        yield Link(depth=0, what=name, detail=f"drawn from {series.pointer}")
        links = [self._drawing(PurePosixPath(path).with_name(file), sha256) for file, sha256 in drawn.files.items()]
        links += [self._made_file(1, path, None), *self._run(1, self._tabulated), *self._sources(series.sources)]
        yield from _runs_once(links)

    def _drawing(self, path: PurePosixPath, sha256: str) -> Link:
        hashed, problem, verdict = self._hashed(path.as_posix()), None, Verdict.HOLDS
        if hashed is None:
            problem, verdict = "the drawing is missing (dvc pull, or dvc repro)", Verdict.UNVERIFIABLE
        elif hashed.sha256 != sha256:
            problem, verdict = f"its sha256 is {hashed.sha256}, its map says {sha256}", Verdict.BROKEN
        return Link(depth=1, what=path.as_posix(), detail="drawing", problem=problem, verdict=verdict)

    def _cell_problem(self, cell: Cell) -> str | None:
        printed = self._printed.get((cell.row, cell.column))
        wanted = f"**{cell.text}**" if cell.marked_better else cell.text
        if printed != wanted:
            return f"the table prints {printed!r}, its cell map says {wanted!r}"
        if left_out := self._left_out(cell):
            return f"it leaves out {left_out}, which was there when the table was made"
        if cell.reducer in LATENCIES and (devices := self._devices(cell)) and len(devices) > 1:
            return f"its latencies are of several devices: {', '.join(sorted(devices))}"
        try:
            derived = derive(cell, confidence=self._confidence, root=self._root).text
        except (DcnasError, OSError, KeyError, ValueError) as error:
            return f"{_CANNOT}: {error}"
        if derived == cell.text:
            return None
        changed = any(
            (hashed := self._hashed(source)) is None or hashed.sha256 != self._seen_by_table.get(source)
            for source in cell.sources
        )
        return f"{_CANNOT}: a source changed" if changed else f"derived again from its sources it is {derived!r}"

    def _left_out(self, cell: Cell) -> str | None:
        """Return a seed's record that lay beside the cell's sources when the table was made, and is not one of them."""
        if self._runs is None or self._tabulated not in self._runs.graph.stages:
            return None
        record = self._runs.graph.stages[self._tabulated].record
        folders = {PurePosixPath(source).parents[1] for source in cell.sources if source.endswith("/record.parquet")}
        if record is None or not folders or cell.pointer.startswith("noisy_"):
            return None  # the noisy input is the same in every record
        seeds = _seeds(record.params)
        beside = [
            file.path
            for file in record.files_read()
            if file.path.endswith("/record.parquet")
            and PurePosixPath(file.path).parents[1] in folders
            and PurePosixPath(file.path).parent.name in seeds
        ]
        return None if cell.reducer in _OF_ONE else next((path for path in beside if path not in cell.sources), None)

    def _devices(self, cell: Cell) -> set[str]:
        found = set()
        for source in cell.sources:
            try:
                provenance = self._provenance(source)
            except DcnasError:
                continue  # the file's own link says so
            if provenance is not None:
                found.add(f"{provenance.device.name} ({provenance.device.fingerprint})")
        return found

    def _artefact(self, depth: int, path: str, consumer: str, expected: str | None) -> list[Link]:
        """A file: the link to it, then, where it carries provenance, the links to all that it was made from."""
        key = (depth, path, consumer, expected)
        if key not in self._below:
            self._below[key] = list(self._walked(*key))
        return self._below[key]

    def _walked(self, depth: int, path: str, consumer: str, expected: str | None) -> Iterator[Link]:
        link = self._made_file(depth, path, expected, consumer)
        maker = self._lock.producer_of(path)
        try:
            provenance = self._provenance(path)
        except DcnasError as error:
            told = link.problem or str(error)
            verdict = link.verdict if link.problem else Verdict.BROKEN
            yield Link(depth=depth, what=path, detail=link.detail, problem=told, verdict=verdict)
            return
        if provenance is None:
            yield link
            yield from self._run(depth + 1, maker.stage if maker else None)
            return
        problem: str | None = link.problem
        verdict = link.verdict
        if problem is None and (problem := self._contradiction(maker, provenance)) is not None:
            verdict = Verdict.BROKEN
        dirty = f", with changes in {', '.join(provenance.dirty)}" if provenance.dirty else ""
        seed = "" if provenance.seed is None else f"seed {provenance.seed}, "
        origin = f"{seed}commit {(provenance.commit or 'unknown')[:12]}{dirty}, on {provenance.device.name}"
        yield Link(depth=depth, what=path, detail=f"{link.detail}, {origin}", problem=problem, verdict=verdict)
        yield from self._run(depth + 1, maker.stage if maker else None)
        reader = self._reader(path, provenance)
        for source, sha256 in provenance.inputs.items():
            yield from self._artefact(depth + 1, source, reader, sha256)

    def _run(self, depth: int, name: str | None) -> Iterator[Link]:
        """The run of a pipeline stage: one link where all of it holds, else one for each edge that does not."""
        if self._runs is None or name is None or name not in self._runs.graph.stages:
            return
        record = self._runs.graph.stages[name].record
        detail = "no record" if record is None else f"{record.started}, {record.seconds:g} s, {record.machine.host}"
        findings = self._runs.of(name)
        for found in findings:
            what = f"run {name}: {found.edge}"
            yield Link(depth=depth, what=what, detail=detail, problem=found.problem, verdict=found.verdict)
        if not findings:
            yield Link(depth=depth, what=f"run {name}", detail=detail)

    def _contradiction(self, maker: LockedFile | None, provenance: Provenance) -> str | None:
        """Return what an artefact says of its making that the run record of its maker does not: seed, device, inputs."""
        if self._runs is None or maker is None or maker.stage not in self._runs.graph.stages:
            return None
        record = self._runs.graph.stages[maker.stage].record
        return None if record is None else next(_contradictions(record, provenance), None)

    def _provenance(self, path: str) -> Provenance | None:
        if path not in self._provenances:
            self._provenances[path] = provenance_of(self._root / path)
        return self._provenances[path]

    def _reader(self, path: str, provenance: Provenance) -> str:
        """Return the pipeline stage that made `path` and thereby read its inputs: dvc.lock's name for it, the item that the file names."""
        made = self._lock.producer_of(path)
        name, of_a_matrix, _ = ("", "", "") if made is None else made.stage.partition("@")
        return f"{name or provenance.stage}@{provenance.item}" if of_a_matrix or not name else name

    def _made_file(self, depth: int, path: str, sha256: str | None, consumer: str | None = None) -> Link:
        """A file that a pipeline stage made: its hash is the one in dvc.lock, on both sides of the edge, and the one its reader saw."""
        producer = self._lock.producer_of(path)
        if producer is None:
            unknown = "no pipeline stage of dvc.yaml has it in dvc.lock"
            return Link(depth=depth, what=path, detail="", problem=unknown, verdict=Verdict.BROKEN)
        actual, file = self._hashed(producer.path), self._hashed(path)
        if actual is None or file is None:
            missing = "the file is missing (dvc pull, or dvc repro)"
            return Link(depth=depth, what=path, detail="", problem=missing, verdict=Verdict.UNVERIFIABLE)
        detail = f"md5 {actual.md5[:12]}, made by {producer.stage}"
        problem: str | None = None
        verdict = Verdict.BROKEN
        if actual.md5 != producer.md5:
            problem = f"its md5 is {actual.md5}, dvc.lock says {producer.md5}"
        elif sha256 is not None and file.sha256 != sha256:
            problem = f"its sha256 is {file.sha256}, its reader ({consumer or 'the table'}) saw {sha256}"
        elif consumer is not None:
            problem = self._edge_problem(path, consumer)
        if problem is not None and actual.md5 == producer.md5 and self._moved_on(producer, consumer or self._tabulated):
            verdict, problem = Verdict.STALE, f"{producer.stage} made it anew after {consumer or 'the table'} read it"
        return Link(
            depth=depth, what=path, detail=detail, problem=problem, verdict=verdict if problem else Verdict.HOLDS
        )

    def _moved_on(self, producer: LockedFile, consumer: str) -> bool:
        """Return whether the checks of the consumer's run call this edge stale, and none of it broken."""
        if self._runs is None or consumer not in self._runs.graph.stages:
            return False
        found = [one.verdict for one in self._runs.of(consumer) if f" -> {consumer}" in one.edge]
        return Verdict.STALE in found and Verdict.BROKEN not in found and producer.stage in self._runs.graph.stages

    def _given_file(self, depth: int, path: str, consumer: str, sha256: str | None) -> Link:
        """A file of the repository itself: its hash is the one that its reader saw and dvc.lock holds."""
        entry, actual = self._lock.dependency_of(consumer, path), self._hashed(path)
        if entry is None or actual is None:
            missing = f"it is missing, or {consumer} does not have it in dvc.lock"
            return Link(depth=depth, what=path, detail="", problem=missing, verdict=Verdict.UNVERIFIABLE)
        problem: str | None = None
        verdict = Verdict.STALE
        if actual.md5 != entry.md5:
            problem = f"its md5 is {actual.md5}, dvc.lock says {entry.md5}: it changed since the table was made"
        elif sha256 is not None and actual.sha256 != sha256:
            problem, verdict = f"its sha256 is {actual.sha256}, {consumer} saw {sha256}", Verdict.BROKEN
        detail = f"md5 {actual.md5[:12]}, read by {consumer}"
        return Link(
            depth=depth, what=path, detail=detail, problem=problem, verdict=verdict if problem else Verdict.HOLDS
        )

    def _edge_problem(self, path: str, consumer: str) -> str | None:
        read = self._lock.dependency_of(consumer, path)
        if read is None:
            return f"dvc.lock does not say that {consumer} read it"
        locked = self._hashed(read.path)
        if locked is None or locked.md5 != read.md5:
            return f"{consumer} read another {read.path} (dvc.lock says {read.md5})"
        return None


def _contradictions(record: RunRecord, provenance: Provenance) -> Iterator[str]:
    if provenance.seed is not None and record.seed is not None and provenance.seed != record.seed:
        yield f"it says that its seed is {provenance.seed}, the run record {record.seed}"
    model, recorded = provenance.device.cpu_model, record.machine.cpu_model
    if model is not None and recorded is not None and model != recorded:
        yield f"it says that it was made on {model}, the run record {recorded}"
    uuids = {card.uuid for card in record.machine.gpus}
    if provenance.device.uuid is not None and uuids and provenance.device.uuid not in uuids:
        yield f"it says that it was made on GPU {provenance.device.uuid}, the run record {', '.join(sorted(uuids))}"
    read = {file.path: file.sha256 for file in record.files_read()}
    for source, sha256 in provenance.inputs.items():
        if read.get(source) != sha256:
            told = "dvc.yaml does not list" if source not in read else "the run record holds otherwise"
            yield f"it says that it was made from {source}, which {told}"


_CANNOT = "it cannot be derived again"
_OF_ONE = ("label", "paths", "reference", "genotype", "genotype_spread", "oscillation")


def _runs_once(links: Iterable[Link]) -> list[Link]:
    """Leave out what was said before of a run: many files may come from one."""
    told = dict[tuple[str, object], Link]()
    for number, link in enumerate(links):
        told.setdefault((link.what, link.problem if link.what.startswith("run ") else number), link)
    return list(told.values())


def _seeds(params: dict[str, object]) -> set[str]:
    """Return the seeds that the table's parameters name, as folders."""
    runs = [params.get("runs"), params.get("photo_runs")]
    return {str(seed) for section in runs if isinstance(section, dict) for seed in section["seeds"]}


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
