"""The maps that stand beside printed tables and figures: where every cell and every drawn series comes from, and by which rule."""

from typing import Literal

from dcnas_schema.provenance import Record

Reducer = Literal[
    "label",
    "mean_ci",
    "value",
    "median_spread",
    "reference",
    "count",
    "paths",
    "range",
    "sum_range",
    "sum_spread",
    "predicted",
    "prediction_error",
    "genotype",
    "genotype_spread",
    "oscillation",
]
"""
How a cell follows from its sources: `label` and `paths` repeat the row's own names; `mean_ci` is the mean over seeds of the
pointed-to values with its interval; `value` is one value that all sources share; `median_spread` is the median over seeds of
the medians, with the least 5th and the greatest 95th percentile of any seed, and a dagger where a record is noisy or the seeds lie too
far apart; `reference` is the paper's figure; `count` is the number of sources.

Of photos: `range` is the least to the greatest of a value that nets of several searches need not share; `sum_range` and `sum_spread` add
up those of models that run one after another; `predicted` is the median over seeds of the predicted latencies, with the ends of their
intervals; `prediction_error` is the mean over seeds of the predictions' errors in per cent of the measured latency. Of searches:
`genotype` is a figure of a derived net, `genotype_spread` its predicted or measured latency with interval or percentiles, `oscillation`
the mean number of argmax flips a block in the last third of a search log.
"""
SPREADS: frozenset[Reducer] = frozenset(
    {"mean_ci", "median_spread", "range", "sum_range", "sum_spread", "predicted", "prediction_error", "genotype_spread"}
)
"""Those that give a value with a lower and an upper end."""
LATENCIES: frozenset[Reducer] = frozenset({"median_spread", "sum_spread"})
"""Those of the measured latencies of records."""


class Cell(Record):
    """One cell of a printed table."""

    row: str
    column: str
    text: str
    reducer: Reducer
    pointer: str
    """
    Column of the record (mean over noise levels), or field of its metadata or of a genotype, or `table,model,variant,field` of the
    paper's CSV; of `sum_range` the field and how many models there are, of `sum_spread` that number. Of `median_spread` and `sum_spread`
    `device` is the time on the device, whose ends are the least and the greatest median of any seed.
    """
    decimals: int
    skip_sigma_zero: bool = False
    only_sigma_zero: bool = False
    """Which noise levels the mean is over, where not over all."""
    of_measured: bool = False
    """Whether a figure that follows from a measured latency bears the mark of one that is not to be relied on."""
    marked_better: bool = False
    sources: tuple[str, ...]
    """Paths of the files that the cell was computed from, in the order of the seeds."""


class CellMap(Record):
    """All cells of one table."""

    version: Literal[1] = 1
    table: str
    confidence: float
    cells: tuple[Cell, ...]
    source_sha256: dict[str, str]
    """Path -> SHA-256 of every source file, as read."""


class DrawnSeries(Record):
    """One line, set of points or column of pictures in a figure."""

    label: str
    pointer: str
    """Columns of the sources, fields of their metadata, or of the paper's CSV that were drawn, with commas between."""
    sources: tuple[str, ...]
    """Paths of the files that it was drawn from."""


class FigureMap(Record):
    """What one figure shows; stands beside it as NAME.figure.json."""

    version: Literal[1] = 1
    figure: str
    files: dict[str, str]
    """File name -> SHA-256 of each form of the figure: light, dark, SVG, PNG."""
    series: tuple[DrawnSeries, ...]
    source_sha256: dict[str, str]
    """Path -> SHA-256 of every source file, as read."""
