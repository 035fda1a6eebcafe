"""What stands under a table: how its cells are read, what its latencies suffer from, its data, protocol, device; nothing else."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dcnas_lineage.cells import NOISY, latencies_of, latency_doubts
from dcnas_lineage.records import read_record
from dcnas_schema.cells import Cell
from dcnas_schema.params import DenoiserSpec, Params
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import EvaluationMetadata, MeasuredLatency
from dcnas_tabulate.layout import Run
from dcnas_tabulate.records import scene_size
from dcnas_tabulate.tables import Table

PAPER_SIZE, PAPER_SCENES, PAPER_EPOCHS, PAPER_BATCH, PAPER_LEVELS = 96, 30_000, 100, 32, 11
"""Of the paper's Sec. 3: pixels a side (derived from its MACs, likely), scenes in all, epochs, scenes a timed pass, noise levels."""


def footer(params: Params, table: Table) -> str:
    """Return the notes under a printed table: facts of its own records, and the data's counts from the parameters."""
    runs = table.layout.runs
    paragraphs = [reading(params, table), doubts(table), f"Preset {params.preset}. {data_note(params, runs)}"]
    bullets = protocol_lines(runs) + accepted_lines(table)
    bullets += [f"device: {'; '.join(f'{name} {value}' for name, value in card_items(card))}" for card in cards(runs)]
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return "\n\n".join([text, "\n".join(f"- {line}" for line in bullets)]).strip() + "\n"


def reading(params: Params, table: Table) -> str:
    """Return how the table's cells are to be read; empty where it has none."""
    layout = table.layout
    found = _metadata(layout.runs)
    if not found:
        return ""
    keys = {column.key for column in layout.columns}
    levels = "the mean over all noise levels"
    if "psnr_db" in keys:
        levels += ", for PSNR also over those above 0, because without noise it is unbounded"
    if "top1_pct_at_sigma_0" in keys:
        levels += ", and top-1 at σ = 0 alone"
    parts = [
        f"Cells: mean over seeds ± half the width of its {percent(params.tabulate.confidence)} interval (Student); {levels}."
    ]
    if "psnr_pooled_db" in keys:
        parts.append(
            "Pooled PSNR is that of the mean squared error of all images of a level; the other is the mean of each image's."
        )
    if layout.rivals:
        parts.append(
            "A cell is marked better only where the interval of the difference between integrated and sequential, seed by seed, "
            "leaves out zero."
        )
    classify = not all(isinstance(run.spec, DenoiserSpec) for run in layout.runs)
    size = _sizes((metadata.cost.height, metadata.cost.width) for metadata in found)
    one = " with one of its two digits classified, as the paper's figures are" if classify else ""
    parts.append(f"MACs of one scene of {size} pixels{one}.")
    parts.append(_latency_reading([m.latency for m in found if m.latency], both_digits=classify))
    if any(column.reducer == "reference" for column in layout.columns):
        parts.append(
            "The paper's columns are its own, on its own device (GeForce RTX 3090) and data (MNIST); its latency is not synchronised."
        )
    return " ".join(parts)


def doubts(table: Table) -> str:
    """Return what the mark of the table's latencies means here; empty where none bears it."""
    reasons = {
        reason for cell in _latency_cells(table) for reason in latency_doubts(latencies_of(cell.sources, Path()))
    }
    if not reasons:
        return ""
    return (
        f"{NOISY} Noisy, not to be relied on: {'; '.join(sorted(reasons))}. The records have the counts; to time one again: "
        "dvc repro --force --single-item evaluate@MODEL-SEED."
    )


def accepted_lines(table: Table) -> list[str]:
    """Return how many timed passes each latency is of, and whether others' share of the processors was told."""
    timed = [(cell.row, found) for cell in _latency_cells(table) if (found := latencies_of(cell.sources, Path()))]
    if not timed:
        return []
    counts = (f"{row} {', '.join(map(accepted, found))}" for row, found in timed)
    lines = [f"timed passes accepted, of those taken, seed by seed: {'; '.join(counts)}"]
    everyone = [latency for _, found in timed for latency in found]
    if untold := sum(latency.others_pct is None for latency in everyone):
        lines.append(f"what other programs took meanwhile was not told for {untold} of {len(everyone)} latencies")
    return lines


def data_note(params: Params, runs: Sequence[Run]) -> str:
    """Return what the figures of `runs` are of, and where that differs from the paper."""
    digits, counts = params.generate_data.digits, params.generate_data.digits.scenes
    made = f"{counts.train} for training, {counts.validation} for validation, {counts.test} for testing"
    found = _metadata(runs)
    if not found:
        return f"Scenes of {digits.source} digits: {made}, from disjoint source digits."
    paths = [path for run in runs for path in run.paths]
    sizes = [scene_size(path) for path in paths]
    tested = sorted({read_record(path)[0]["images"][0].as_py() for path in paths})
    epochs = sorted({metadata.epochs for metadata in found})
    note = f"Scenes of {digits.source} digits: {made}, from disjoint source digits; "
    note += f"quality is of {either(tested)} scenes of {_sizes(sizes)} pixels"
    costed = [(metadata.cost.height, metadata.cost.width) for metadata in found]
    note += "." if set(costed) == set(sizes) else f", while cost and latency are of {_sizes(costed)} pixels."
    batches = {metadata.latency.batch for metadata in found if metadata.latency}
    levels = {len(metadata.protocol.sigmas) for metadata in found}
    total = counts.train + counts.validation + counts.test
    differences = [
        (
            set(sizes) != {(PAPER_SIZE, PAPER_SIZE)},
            f"scenes of {_sizes(sizes)} pixels (paper: likely {PAPER_SIZE}x{PAPER_SIZE})",
        ),
        (total != PAPER_SCENES, f"{total} scenes in all (paper: {PAPER_SCENES:,})"),
        (digits.source != "mnist", f"{digits.source} digits (paper: MNIST)"),
        (set(epochs) != {PAPER_EPOCHS}, f"{either(epochs)} epochs (paper: {PAPER_EPOCHS})"),
        (levels != {PAPER_LEVELS}, f"{either(levels)} noise levels (paper: {PAPER_LEVELS})"),
        (
            bool(batches) and batches != {PAPER_BATCH},
            f"timed passes of {either(batches)} scenes (paper: {PAPER_BATCH})",
        ),
    ]
    unlike = [text for differs, text in differences if differs]
    return f"{note} Unlike the paper: {'; '.join(unlike)}." if unlike else note


def protocol_lines(runs: Sequence[Run]) -> list[str]:
    """Return how the figures of `runs` were measured: noise, the metrics that are there, every precision that was used."""
    found = _metadata(runs)
    if not found:
        return []
    protocol = found[0].protocol  # the same in all but for the precision
    sigmas = ", ".join(f"{sigma:g}" for sigma in protocol.sigmas)
    clip = "clipped to [0, 1]" if protocol.clip_noisy else "not clipped"
    lines = [f"noise: σ in {sigmas} of the [0, 1] range; noisy images {clip}; seed {protocol.noise_seed}"]
    if any(run.spec.kind != "classifier" for run in runs if run.paths):
        lines += [f"PSNR: {protocol.psnr}", f"SSIM: {protocol.ssim}"]
    return [*lines, f"precision: {either(metadata.protocol.precision for metadata in found)}"]


def cards(runs: Sequence[Run]) -> list[DeviceCard]:
    """Return the different cards of the devices that made the records of `runs`."""
    found = (metadata.card for metadata in _metadata(runs))
    return list({card.model_dump_json(): card for card in found}.values())


def card_items(card: DeviceCard) -> list[tuple[str, str]]:
    """Return what the device gives, then what it does not with the reason."""
    values = card.model_dump()
    absent = values.pop("absent")
    items = [(name, str(value)) for name, value in values.items() if value is not None]
    return items + [(f"{name} absent", reason) for name, reason in absent.items()]


def percent(share: float) -> str:
    """Return 0.975 as 97.5%: no digit is rounded away."""
    return f"{100 * share:g}%"


def _latency_reading(measured: Sequence[MeasuredLatency], *, both_digits: bool) -> str:
    if not measured:
        return "Latency: not measured (evaluate.latency.measure is off)."
    batches, precisions = ({getattr(one, name) for one in measured} for name in ("batch", "precision"))
    bands = {one.canary_band_pct for one in measured if one.canary_band_pct is not None}
    both = ", both digits of each classified" if both_digits else ""
    rejected = (
        "; passes left out that faulted in pages, waited for a processor, or stood beside a reference op more than "
        f"{either(f'{band:g}' for band in bands)}% slower than its best"
        if bands
        else ""
    )
    return (
        "Latency: median over seeds of the medians [least 5th, greatest 95th percentile of any seed] of the wall time of a synchronised "
        f"pass of a whole batch of {either(batches)} scenes{both}, in {either(precisions)}{rejected}."
    )


def accepted(latency: MeasuredLatency) -> str:
    """Return how many timed passes a latency is of, of how many."""
    return f"{latency.repeats} unjudged" if latency.raw is None else f"{latency.kept}/{latency.raw}"


def _latency_cells(table: Table) -> list[Cell]:
    return [cell for row in table.rows for cell in row if cell is not None and cell.reducer == "median_spread"]


def _metadata(runs: Sequence[Run]) -> list[EvaluationMetadata]:
    return [metadata for run in runs for metadata in run.metadata]


def _sizes(sizes: Iterable[tuple[int, int]]) -> str:
    return either(f"{height}x{width}" for height, width in sizes)


def either(values: Iterable[int | str]) -> str:
    """Return the different values, each once, in order: numbers by size, texts by letter."""
    return " or ".join(map(str, sorted(set(values), key=lambda value: (isinstance(value, str), value))))
