"""What stands in which row of Tables 2 to 6: the paper's rows, random subnets and pairs of models behind them, then further models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dcnas_schema.params import Params
from dcnas_schema.photo_models import (
    DCNasSeqSpec,
    DCNasSpec,
    DNasSpec,
    PhotoModelSpec,
    PhotoUNetSpec,
    SpaceSpec,
    images_of,
    task_of,
)
from dcnas_schema.photo_records import PhotoEvaluationMetadata
from dcnas_schema.search_params import SearchSpec
from dcnas_tabulate.paper_rows import (
    CLASSIFIER,
    CLEAN,
    DENOISER,
    INTEGRATED,
    PAPER_ROWS,
    SEQUENTIAL,
    Book,
    PaperRow,
    Size,
)

LEFT_OUT = "left out in this preset"
UNNAMED = "its target is none of S, M, L"
"""Why a row stays empty though a model runs that is searched in its way: nobody tells which of the paper's targets it aims at."""
FURTHER = -1
"""Group of the rows that no row of the paper describes: they are not compared."""
TWO_MODELS = "two models"
"""Kind of a row of a separate denoiser beside a separate classifier."""
TABLES = ("2", "3", "4", "5", "6", CLEAN)
_WITH_RANDOM = ("2", "3", "4", "5")
"""Tables of searched nets, in which the protocol asks for a random subnet of equal predicted latency: shown as left out if need be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoTables:
    """What the tables and figures on photos take from params.yaml."""

    preset: str
    confidence: float
    """Level of the intervals over seeds."""
    models: Mapping[str, PhotoModelSpec]
    run_models: Sequence[str]
    """Those that run; the rows of others are left out."""
    seeds: Sequence[int]
    searches: Mapping[str, SearchSpec]
    run_searches: Sequence[str]
    search_seeds: Sequence[int]
    sizes: Mapping[Size, str]
    """The paper's name of a target -> a search that aims at it; empty: by order."""
    train_on: str
    """Whether models are trained on the validation photos too."""

    @classmethod
    def of(cls, params: Params) -> "PhotoTables":
        """Return what they take from `params`."""
        return cls(
            preset=params.preset,
            confidence=params.tabulate.confidence,
            models=params.photo_models,
            run_models=params.photo_runs.models,
            seeds=params.photo_runs.seeds,
            searches=params.searches,
            run_searches=params.search_runs.searches,
            search_seeds=params.search_runs.seeds,
            sizes=params.tabulate.sizes,
            train_on=params.retrain_photos.train_on,
        )

    @property
    def book(self) -> Book:
        """
        The searches with the paper's names of their targets.

        Raises:
            BadInputError: A size is that of a search that is not there.
        """
        return Book.of(self.searches, running=self.run_searches, named=self.sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoRun:
    """The records of one model on photos: one a seed that was asked for and is there."""

    model: str
    label: str
    """Its name in curves and figures, which no other run has."""
    spec: PhotoModelSpec
    seeds: tuple[int, ...]
    paths: tuple[Path, ...]
    metadata: tuple[PhotoEvaluationMetadata, ...]
    wanted: int
    """Seeds asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row of a table before its cells are derived."""

    label: str
    kind: str
    """What the model does and how."""
    runs: tuple[PhotoRun, ...] = ()
    """None where it is left out; two where a denoiser and a classifier stand beside each other, in this order."""
    group: int = 0
    """Rows of one group are compared with each other."""
    absent: str = LEFT_OUT
    """Why there is no model in it, where there is none."""
    reference: tuple[str, str, str] | None = None
    """(table, model, variant) of the paper's row."""

    @property
    def run(self) -> PhotoRun | None:
        """The one model of the row; `None` where there is none, or two."""
        return self.runs[0] if len(self.runs) == 1 else None


def table_rows(runs: Sequence[PhotoRun], book: Book) -> dict[str, list[Row]]:
    """Return the rows of each table: the paper's, each with its random subnets behind it; pairs of models; then further models."""
    tables = {table: list(_paper_rows(table, runs, book)) for table in TABLES}
    placed = {row.run.model for rows in tables.values() for row in rows if row.run is not None}
    for run in runs:
        if run.model not in placed:
            tables[_home_of(run.spec, book)].append(
                Row(label=run.model, kind=kind_of(run.spec), runs=(run,), group=FURTHER)
            )
    return {table: _distinct(rows) for table, rows in tables.items()}


def kind_of(spec: PhotoModelSpec) -> str:
    """Return what a model does, in the words of the paper's Table 3."""
    if isinstance(spec, DCNasSeqSpec):
        return SEQUENTIAL
    return {"classify": CLASSIFIER, "denoise": DENOISER, "both": INTEGRATED}[task_of(spec)]


def is_random(spec: PhotoModelSpec) -> bool:
    """Return whether a model's genotype is drawn at random."""
    return isinstance(spec, SpaceSpec) and spec.random is not None


def searches_of(run: PhotoRun) -> int | None:
    """Return of how many searches a run's nets are; `None` where a model is not searched."""
    if not isinstance(run.spec, SpaceSpec) or run.spec.search is None:
        return None
    return len({metadata.search_seed for metadata in run.metadata})


def labels_of(models: Mapping[str, PhotoModelSpec], book: Book) -> dict[str, str]:
    """Return a name for each model that no other has: the paper's of its first row that fits, else its own."""
    labels: dict[str, str] = {}
    for model, spec in models.items():
        row = next((row for row in PAPER_ROWS if row.match(spec, book)), None)
        clean = ", clean" if images_of(spec) == "clean" and row is not None and row.table != CLEAN else ""
        label = model if row is None else f"{row.label}{clean}"
        labels[model] = f"{label} ({model})" if label in labels.values() else label
    return labels


def _paper_rows(table: str, runs: Sequence[PhotoRun], book: Book) -> Iterator[Row]:
    taken: set[str] = set()
    random_rows = 0
    rows = [paper for paper in PAPER_ROWS if paper.table == table]
    for number, paper in enumerate(rows):
        run = next((run for run in runs if run.model not in taken and paper.match(run.spec, book)), None)
        taken |= set() if run is None else {run.model}
        if run is None and not paper.printed and any(paper.match(other.spec, book) for other in runs):
            continue  # the same net stands in an earlier row
        row = Row(
            label=paper.label,
            kind=paper.kind,
            runs=() if run is None else (run,),
            group=paper.group,
            absent=LEFT_OUT if run is None and not _unnamed(paper, runs, book) else UNNAMED,
            reference=paper.reference,
        )
        yield row
        for subnet in _random_rows(row, runs):
            random_rows += 1
            yield subnet
        if table == "3" and (number + 1 == len(rows) or rows[number + 1].group != paper.group):
            yield from _pairs(paper.group, rows, runs, book)
    if table in _WITH_RANDOM and not random_rows:
        yield Row(label="random subnet of equal predicted latency", kind="random", group=FURTHER)


def _unnamed(paper: PaperRow, runs: Sequence[PhotoRun], book: Book) -> bool:
    """Return whether a model that runs would stand in the row, if its target had the row's size."""
    of_any_size = replace(book, any_size=True)
    return any(book.size_of(run.spec) is None and paper.match(run.spec, of_any_size) for run in runs)


def _random_rows(row: Row, runs: Sequence[PhotoRun]) -> Iterator[Row]:
    """Yield the random subnets that have the predicted latency of the row's searched net."""
    spec = None if row.run is None else row.run.spec
    if not isinstance(spec, SpaceSpec) or spec.search is None:
        return
    for run in runs:
        other = run.spec
        if (
            isinstance(other, SpaceSpec)
            and other.random is not None
            and other.random.like == spec.search
            and _shape(other) == _shape(spec)
        ):
            label = f"random subnet at the latency of {row.label}"
            yield Row(label=label, kind=f"{row.kind}, random", runs=(run,), group=row.group)


def _shape(spec: SpaceSpec) -> tuple[object, ...]:
    return spec.kind, getattr(spec, "decoder", None), images_of(spec)


def _pairs(group: int, rows: Sequence[PaperRow], runs: Sequence[PhotoRun], book: Book) -> Iterator[Row]:
    """Yield every separate denoiser of a section beside every separate classifier of it: what a joint model competes with."""
    found = {
        kind: [
            (paper.label, run)
            for paper in rows
            if paper.group == group and paper.kind == kind
            for run in runs
            if paper.match(run.spec, book)
        ]
        for kind in (DENOISER, CLASSIFIER)
    }
    for denoiser, first in found[DENOISER]:
        for classifier, second in found[CLASSIFIER]:
            yield Row(label=f"{denoiser} + {classifier}", kind=TWO_MODELS, runs=(first, second), group=group)


def _home_of(spec: PhotoModelSpec, book: Book) -> str:
    """Return the table that a model which no row of the paper describes is added to."""
    if images_of(spec) == "clean":
        return CLEAN
    if isinstance(spec, DNasSpec | PhotoUNetSpec):
        return "2"
    if isinstance(spec, DCNasSeqSpec):
        return "5"
    if isinstance(spec, DCNasSpec):
        search = book.search_of(spec)
        other_search = search is not None and (search.bound != "classifier" or book.size_of(spec) == "M")
        return "6" if spec.decoder != "conv" else "4" if other_search else "3"
    return "3"


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, with the model's name behind a label that an earlier row bears."""
    seen: set[str] = set()
    distinct = []
    for row in rows:
        label = row.label
        if label in seen:
            label = f"{label} ({', '.join(run.model for run in row.runs)})"
        seen.add(label)
        distinct.append(replace(row, label=label))
    return distinct
