"""What stands under a table on photos: how its cells are read, what it says against itself, and where it differs from the paper."""

from collections.abc import Sequence
from pathlib import Path

from dcnas_lineage.cells import DERIVED, NOISY, doubts_of, latencies_of
from dcnas_schema.cells import LATENCIES, Cell
from dcnas_schema.photo_records import PhotoEvaluationMetadata
from dcnas_schema.photos import PhotosMetadata
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import MeasuredLatency
from dcnas_tabulate.notes import accepted, card_items, either, percent
from dcnas_tabulate.paper_rows import CLEAN
from dcnas_tabulate.photo_layout import LEFT_OUT, TWO_MODELS, PhotoRun, PhotoTables, is_random
from dcnas_tabulate.photo_records import SearchRun
from dcnas_tabulate.photo_tables import PhotoTable
from dcnas_tabulate.tables import Table

PAPER_SIZE, PAPER_CLASSES, PAPER_EPOCHS, PAPER_BATCH, PAPER_SEARCH_EPOCHS = 224, 100, 250, 32, 90
"""Of the paper's Sec. 4: pixels a side, classes, epochs of retraining, photos a timed pass, epochs of a search."""
PAPER_PHOTOS = 127_720
"""Of ImageNet-100 as TF-NAS lists it: training photos, those of the architecture split included."""
_OF_TABLE = {
    "2": f"{DERIVED} The paper's Table 2 lost its PSNR column: those of the UNets are its Table 3's, that of D-NAS M follows from the "
    "text (0.6 dB above UNet-S).",
    "3": "Rows of two models are a separate denoiser beside a separate classifier, at the sum of their MACs, parameters and latencies "
    "(medians add up, and so do the ends of the spreads); their quality is that of the denoiser and of the classifier on noisy photos.",
    "4": "The header of the paper's Table 4 has PSNR and SSIM the wrong way round; here each stands under its own name.",
    "5": "The paper's nets of Table 5 were searched on clean photos, so its DC-NAS L differs from that of its Table 3.",
    CLEAN: "The paper prints two figures of these experiments in its text, the means of two searches; those of its Figures 5 and 6 are "
    "not printed. Trained on clean photos; the paper tests on clean ones too (σ = 0).",
}


def photo_footer(settings: PhotoTables, splits: dict[str, PhotosMetadata], table: PhotoTable) -> str:
    """Return the notes under a printed table: facts of its own records, and of the photo set."""
    runs = table.trained
    paragraphs = [
        photo_reading(settings, runs),
        photo_table_note(table),
        photo_doubts(table.table),
        f"Preset {settings.preset}. {photo_data_note(splits, runs)}",
    ]
    bullets = photo_protocol_lines(runs) + photo_accepted_lines(table.table)
    bullets += [f"device: {'; '.join(': '.join(item) for item in card_items(card))}" for card in photo_cards(runs)]
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return "\n\n".join([text, "\n".join(f"- {line}" for line in bullets)]).strip() + "\n"


def search_footer(settings: PhotoTables, runs: Sequence[SearchRun]) -> str:
    """Return the notes under the printed table of searches."""
    bullets = [f"device: {card.name}, {card.threads} threads" for card in search_cards(runs)]
    return "\n\n".join([search_reading(settings, runs), "\n".join(f"- {line}" for line in bullets)]).strip() + "\n"


def photo_reading(settings: PhotoTables, runs: Sequence[PhotoRun]) -> str:
    """Return how the cells of any table of `runs` are to be read."""
    found = _metadata(runs)
    parts = [
        f"Cells: mean over seeds ± half the width of its {percent(settings.confidence)} interval (Student), none for a single seed; "
        "the mean over all noise levels, for PSNR also over those above 0."
    ]
    if len(settings.seeds) > 1:
        parts.append(
            "A cell is marked better only where it is so against every other single model of its section, seed by seed, with an interval "
            "of the difference that leaves out zero; intervals are not widened for the number of comparisons."
        )
    if found:
        size = either(f"{m.image_size}x{m.image_size}" for m in found)
        parts.append(f"MACs of one photo of {size} pixels; of nets of several searches, the least to the greatest.")
        parts.append(_latency_reading([m.latency.measured for m in found if m.latency.measured is not None]))
    if any(m.latency.predicted is not None for m in found):
        parts.append(
            "Predicted: by the latency profile, median over seeds [ends of the intervals]; beside it how far it is off, in per cent of "
            "what was measured. Nets outside the search space, and decoders of MBConvs, cannot be predicted."
        )
    if any(is_random(run.spec) for run in runs):
        parts.append("Random subnets: another one each seed, of the same predicted latency as the searched net.")
    parts.append(f"A row that params.yaml does not run is {LEFT_OUT}.")
    parts.append(
        "The paper's columns are its own, on its own device (GeForce RTX 3090) and photos (ImageNet-100); its latency is not synchronised."
    )
    return " ".join(parts)


def photo_table_note(table: PhotoTable) -> str:
    """Return what holds of this table alone; empty where nothing does."""
    if table.number == "3" and not any(row.kind == TWO_MODELS for row in table.rows):
        return ""
    return _OF_TABLE.get(table.number, "")


def photo_doubts(table: Table) -> str:
    """Return what the mark of the table's latencies means here; empty where none bears it."""
    reasons = {reason for cell in _latency_cells(table) for reason in doubts_of(cell.sources, Path())}
    if not reasons:
        return ""
    return (
        f"{NOISY} Noisy, not to be relied on: {'; '.join(sorted(reasons))}. The records have the counts; to time one again, repeat its "
        "evaluation (dvc repro --force --single-item)."
    )


def photo_accepted_lines(table: Table) -> list[str]:
    """Return how many timed passes each latency is of, and whether others' share of the processors was told."""
    timed = [
        (cell.row, found)
        for cell in _latency_cells(table)
        if cell.reducer == "median_spread" and (found := latencies_of(cell.sources, Path()))
    ]
    if not timed:
        return []
    counts = (f"{row} {', '.join(map(accepted, found))}" for row, found in timed)
    lines = [f"timed passes accepted, of those taken, seed by seed: {'; '.join(counts)}"]
    everyone = [latency for _, found in timed for latency in found]
    if untold := sum(latency.others_pct is None for latency in everyone):
        lines.append(f"what other programs took meanwhile was not told for {untold} of {len(everyone)} latencies")
    return lines


def photo_data_note(splits: dict[str, PhotosMetadata], runs: Sequence[PhotoRun]) -> str:
    """Return what the figures are of, and where that differs from the paper."""
    first, counts = splits["train"], {split: metadata.images for split, metadata in splits.items()}
    note = (
        f"Photos of the source {first.source}, {len(first.classes)} classes: {counts['train']} to train weights, "
        f"{counts['validation']} for the architecture of searches, {counts['test']} to test."
    )
    found = _metadata(runs)
    sizes, epochs = {m.image_size for m in found}, {m.epochs for m in found}
    batches = {m.latency.measured.batch for m in found if m.latency.measured is not None}
    training = counts["train"] + counts["validation"]
    differences = [
        (bool(sizes - {PAPER_SIZE}), f"{either(f'{s}x{s}' for s in sizes)} pixels (paper: {PAPER_SIZE}x{PAPER_SIZE})"),
        (len(first.classes) != PAPER_CLASSES, f"{len(first.classes)} classes (paper: {PAPER_CLASSES})"),
        (first.source != "imagenet100", f"{first.source} photos (paper: ImageNet-100)"),
        (training != PAPER_PHOTOS, f"{training:,} photos to train on (paper: {PAPER_PHOTOS:,})"),
        (bool(epochs - {PAPER_EPOCHS}), f"{either(epochs)} epochs (paper: {PAPER_EPOCHS})"),
        (bool(batches - {PAPER_BATCH}), f"timed passes of {either(batches)} photos (paper: {PAPER_BATCH})"),
        (bool(batches), "latency synchronised, on one device (paper: not synchronised, GeForce RTX 3090)"),
    ]
    unlike = [text for differs, text in differences if differs]
    return f"{note} Unlike the paper: {'; '.join(unlike)}." if unlike else note


def photo_protocol_lines(runs: Sequence[PhotoRun]) -> list[str]:
    """Return how the figures of `runs` were measured."""
    found = _metadata(runs)
    if not found:
        return []
    protocol = found[0].protocol  # the same in all but for the precision
    sigmas = ", ".join(f"{sigma:g}" for sigma in protocol.sigmas)
    clip = "clipped to [0, 1]" if protocol.clip_noisy else "not clipped"
    return [
        f"noise: σ in {sigmas} of the [0, 1] range; noisy photos {clip}; seed {protocol.noise_seed}",
        f"PSNR: {protocol.psnr}",
        f"SSIM: {protocol.ssim}",
        f"precision: {either(m.protocol.precision for m in found)}",
    ]


def photo_cards(runs: Sequence[PhotoRun]) -> list[DeviceCard]:
    """Return the different cards of the devices that made the records of `runs`."""
    return list({m.card.model_dump_json(): m.card for m in _metadata(runs)}.values())


def search_cards(runs: Sequence[SearchRun]) -> list[DeviceCard]:
    """Return the different cards of the devices that derived the genotypes of `runs`."""
    cards = (run.derived.provenance.device for run in runs)
    return list({card.model_dump_json(): card for card in cards}.values())


def search_reading(settings: PhotoTables, runs: Sequence[SearchRun]) -> str:
    """Return how the table of searches is to be read."""
    parts = [
        "Latencies are of the net that the target bounds: predicted by the latency profile with its interval, measured [5th, 95th "
        "percentile]. Prediction off: in per cent of the measured latency. Off target: how far the measured latency lies from the target. "
        "Oscillation: argmax flips a block over the last third of the epochs."
    ]
    epochs = {run.metadata.params.epochs for run in runs}
    images = {run.metadata.weight_images for run in runs}
    if epochs:
        parts.append(
            f"Searched for {either(epochs)} epochs (paper: {PAPER_SEARCH_EPOCHS}) on {either(images)} photos for weights."
        )
    reasons = sorted({run.derived.not_measured for run in runs if run.derived.not_measured is not None})
    if reasons:
        parts.append(f"Not measured: {'; '.join(reasons)}.")
    if any(run.derived.measured is not None and run.derived.measured.noisy for run in runs):
        parts.append(f"{NOISY} Noisy, not to be relied on; the genotype has the counts.")
    parts.append(f"A search that params.yaml does not run is {LEFT_OUT}. Seeds: {either(settings.search_seeds)}.")
    return " ".join(parts)


def _latency_reading(measured: Sequence[MeasuredLatency]) -> str:
    if not measured:
        return "Latency: not measured (evaluate_photos.latency.measure is off)."
    batches, precisions = ({getattr(one, name) for one in measured} for name in ("batch", "precision"))
    sizes = either(f"{one.height}x{one.width}" for one in measured)
    return (
        "Latency: median over seeds of the medians [least 5th, greatest 95th percentile of any seed] of the wall time of a synchronised "
        f"pass of a whole batch of {either(batches)} photos of {sizes} pixels in {either(precisions)}."
    )


def _latency_cells(table: Table) -> list[Cell]:
    return [cell for row in table.rows for cell in row if cell is not None and cell.reducer in LATENCIES]


def _metadata(runs: Sequence[PhotoRun]) -> list[PhotoEvaluationMetadata]:
    return [metadata for run in runs for metadata in run.metadata]
