"""What stands under a table: how its cells are read, what its latencies suffer from, its data, protocol, device; nothing else."""

from collections.abc import Sequence

from dcnas_lineage.records import read_record
from dcnas_schema.params import DenoiserSpec, Params
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import EvaluationMetadata
from dcnas_tabulate import sentences
from dcnas_tabulate.layout import Run
from dcnas_tabulate.records import scene_size
from dcnas_tabulate.sentences import counted
from dcnas_tabulate.tables import Table

PAPER_SIZE, PAPER_SCENES, PAPER_EPOCHS, PAPER_BATCH, PAPER_LEVELS = 96, 30_000, 100, 32, 11
"""Of the paper's Sec. 3: pixels a side (derived from its MACs, likely), scenes in all, epochs, scenes a timed pass, noise levels."""


def footer(params: Params, table: Table) -> str:
    """Return the notes under a printed table: facts of its own records, and the data's counts from the parameters."""
    runs = table.layout.runs
    paragraphs = [reading(params, table), doubts(table), f"Preset {params.preset}. {data_note(params, runs)}"]
    exact = sentences.exact_lines(path for run in runs for path in run.paths)
    bullets = [*protocol_lines(runs), *exact, *sentences.accepted_lines(table), *sentences.device_lines(cards(runs))]
    return sentences.footer(paragraphs, bullets)


def reading(params: Params, table: Table) -> str:
    """Return how the table's cells are to be read; empty where it has none."""
    layout = table.layout
    found = _metadata(layout.runs)
    if not found:
        return ""
    parts = [sentences.cells_reading(params.tabulate.confidence, {column.key for column in layout.columns})]
    if layout.rivals:
        parts.append(
            "A cell is marked better only where the interval of the difference between integrated and sequential, over the seeds that "
            "both have and trained for as many epochs, leaves out zero."
        )
    classify = not all(isinstance(run.spec, DenoiserSpec) for run in layout.runs)
    size = sentences.sizes((metadata.cost.height, metadata.cost.width) for metadata in found)
    one = " with one of its two digits classified, as the paper's figures likely are (derived)" if classify else ""
    parts.append(f"MACs of one scene of {size} pixels{one}.")
    things = "scene, both digits of each classified" if classify else "scene"
    timed = [metadata.latency for metadata in found if metadata.latency]
    parts.append(sentences.latency_reading(timed, things=things, switch="evaluate.latency.measure"))
    if any(column.reducer == "reference" for column in layout.columns):
        parts.append(sentences.papers_columns("its own data (MNIST)", timing="the device is not stated"))
    return " ".join(parts)


def doubts(table: Table) -> str:
    """Return what the mark of the table's latencies means here; empty where none bears it."""
    return sentences.doubts(table, again=": dvc repro --force --single-item evaluate@MODEL-SEED")


def data_note(params: Params, runs: Sequence[Run]) -> str:
    """Return what the figures of `runs` are of, and where that differs from the paper."""
    digits, counts = params.generate_data.digits, params.generate_data.digits.scenes
    made = f"{counts.train} for training, {counts.validation} for validation, {counts.test} for testing"
    found = _metadata(runs)
    if not found:
        return f"Scenes of {digits.source} digits: {made}, from disjoint source digits."
    paths = [path for run in runs for path in run.paths]
    scored = [scene_size(path) for path in paths]
    tested = sorted({read_record(path)[0]["images"][0].as_py() for path in paths})
    epochs = sorted({metadata.epochs for metadata in found})
    note = f"Scenes of {digits.source} digits: {made}, from disjoint source digits; "
    note += f"quality is of {counted(tested, f'scene of {sentences.sizes(scored)} pixels')}"
    costed = [(metadata.cost.height, metadata.cost.width) for metadata in found]
    note += "." if set(costed) == set(scored) else f", while cost and latency are of {sentences.sizes(costed)} pixels."
    batches = {metadata.latency.batch for metadata in found if metadata.latency}
    levels = {len(metadata.protocol.sigmas) for metadata in found}
    total = counts.train + counts.validation + counts.test
    differences = [
        (
            set(scored) != {(PAPER_SIZE, PAPER_SIZE)},
            f"scenes of {sentences.sizes(scored)} pixels (paper: likely {PAPER_SIZE}x{PAPER_SIZE})",
        ),
        (total != PAPER_SCENES, f"{counted([total], 'scene')} in all (paper: {PAPER_SCENES:,})"),
        (digits.source != "mnist", f"{digits.source} digits (paper: MNIST)"),
        (set(epochs) != {PAPER_EPOCHS}, f"{counted(epochs, 'epoch')} (paper: {PAPER_EPOCHS})"),
        (levels != {PAPER_LEVELS}, f"{counted(levels, 'noise level')} (paper: {PAPER_LEVELS})"),
        (
            bool(batches) and batches != {PAPER_BATCH},
            f"timed passes of {counted(batches, 'scene')} (paper: {PAPER_BATCH})",
        ),
    ]
    return sentences.unlike_the_paper(note, differences)


def protocol_lines(runs: Sequence[Run]) -> list[str]:
    """Return how the figures of `runs` were measured: noise, the metrics that are there, every precision that was used."""
    found = _metadata(runs)
    restored = any(run.spec.kind != "classifier" for run in runs if run.paths)
    return sentences.protocol_lines([one.protocol for one in found], pictures="images", restored=restored)


def cards(runs: Sequence[Run]) -> list[DeviceCard]:
    """Return the different cards of the devices that made the records of `runs`."""
    return sentences.different_cards(metadata.card for metadata in _metadata(runs))


def _metadata(runs: Sequence[Run]) -> list[EvaluationMetadata]:
    return [metadata for run in runs for metadata in run.metadata]
