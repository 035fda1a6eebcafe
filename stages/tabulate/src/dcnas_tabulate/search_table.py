"""What each search ended with: its target, and the predicted and the measured latency of the net that was derived from it."""

from collections.abc import Sequence

from dcnas_schema.cells import Cell, Reducer
from dcnas_tabulate.layout import SOURCE, Column, Layout, cell_of
from dcnas_tabulate.photo_layout import LEFT_OUT, PhotoTables
from dcnas_tabulate.photo_records import SearchRun
from dcnas_tabulate.tables import Cells, Table, derive_table

_WORDS = ("Search", "Ops", "β", "Images", "Loss", "Bounds", "Wanted")
_COLUMNS = (
    *(Column(title=title, key="", reducer="label") for title in _WORDS),
    Column(title="Target (ms)", key="target_ms", reducer="genotype", pointer="target_ms"),
    Column(title="Predicted (ms)", key="predicted_ms", reducer="genotype_spread", pointer="predicted"),
    Column(
        title="Predicted off target (%)",
        key="target_error_pct",
        reducer="genotype",
        pointer="target_error_pct",
        decimals=1,
    ),
    Column(title="Measured (ms)", key="measured_ms", reducer="genotype_spread", pointer="measured"),
    Column(
        title="Prediction off (%)",
        key="prediction_error_pct",
        reducer="genotype",
        pointer="prediction_error_pct",
        decimals=1,
        of_measured=True,
    ),
    Column(
        title="Off target (%)",
        key="off_target_pct",
        reducer="genotype",
        pointer="off_target_pct",
        decimals=1,
        of_measured=True,
    ),
    Column(title="MACs (M)", key="macs_m", reducer="genotype", pointer="macs_m", decimals=1),
    Column(title="Parameters", key="parameters", reducer="genotype", pointer="parameters", decimals=0),
    Column(title="Oscillation", key="oscillation", reducer="oscillation"),
    SOURCE,
)


def search_label(run: SearchRun) -> str:
    """Return the name of a search with its seed."""
    return f"{run.search}, seed {run.seed}"


def build_search_table(settings: PhotoTables, runs: Sequence[SearchRun], *, confidence: float) -> Table:
    """Return a row a search and seed, in the order of params.yaml; searches that do not run stand below as left out."""
    lines: list[tuple[str, str, SearchRun | None]] = [(search_label(run), run.search, run) for run in runs]
    lines += [(search, search, None) for search in settings.searches if search not in settings.run_searches]
    cells: list[Cells] = []
    for label, search, run in lines:
        words = _words(settings, label, search)
        cells.append([_cell(column, label, words, run) for column in _COLUMNS])
    title = "Searches: target, predicted and measured latency of the derived nets"
    layout = Layout(name="searches", title=title, columns=_COLUMNS, runs=())
    return derive_table(layout, cells, [[False] * len(_COLUMNS)] * len(cells), confidence=confidence)


def _words(settings: PhotoTables, label: str, search: str) -> dict[str, str]:
    spec = settings.searches[search]
    loss = {"classification": "L_CE", "both": "L_Both"}[spec.loss]
    beta = {"removed": "removed", "sink": "learned"}[spec.beta]
    words = (label, str(spec.ops), beta, spec.images, loss, spec.bound, str(spec.target))
    return dict(zip(_WORDS, words, strict=True))


def _cell(column: Column, label: str, words: dict[str, str], run: SearchRun | None) -> Cell | None:
    reducer: Reducer = column.reducer
    pointer, sources = column.pointer, []
    if reducer == "label":
        pointer = words[column.title]
    elif run is None:
        if reducer != "paths":
            return None
        reducer, pointer = "label", LEFT_OUT
    elif reducer == "oscillation":
        sources = [run.log]
    elif reducer == "paths":
        sources = [run.genotype, run.log]
    else:
        sources = [run.genotype]
    return cell_of(column, label, reducer=reducer, pointer=pointer, sources=sources)
