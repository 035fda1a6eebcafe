"""What stands under a table on photos: how its cells are read, what it says against itself, and where it differs from the paper."""

from collections.abc import Sequence

from dcnas_lineage.cells import DERIVED, NOISY
from dcnas_schema.photo_models import task_of
from dcnas_schema.photo_records import PhotoEvaluationMetadata
from dcnas_schema.photos import PhotosMetadata
from dcnas_schema.provenance import DeviceCard
from dcnas_tabulate import sentences
from dcnas_tabulate.paper_rows import CLEAN
from dcnas_tabulate.photo_layout import LEFT_OUT, TWO_MODELS, PhotoRun, PhotoTables, is_random, searches_of
from dcnas_tabulate.photo_records import SearchRun
from dcnas_tabulate.photo_tables import PhotoTable
from dcnas_tabulate.sentences import counted, either
from dcnas_tabulate.tables import Table

PAPER_SIZE, PAPER_CLASSES, PAPER_EPOCHS, PAPER_BATCH, PAPER_SEARCH_EPOCHS = 224, 100, 250, 32, 90
"""Of the paper's Sec. 4: pixels a side, classes, epochs of retraining, photos a timed pass, epochs of a search."""
PAPER_PHOTOS = 127_720
"""
Of ImageNet-100 as TF-NAS lists it: training photos, those of the architecture split included; assumed: the paper does not say that its nets
are retrained on both.
"""
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


def photo_footer(settings: PhotoTables, splits: dict[str, PhotosMetadata], table: PhotoTable, *, warning: str) -> str:
    """
    Return the notes under a printed table: facts of its own records, and of the photo set.

    Args:
        warning: What is to be said against the latency profile; empty where nothing is.
    """
    runs = table.trained
    predicted = any(m.latency.predicted is not None for m in _metadata(runs))
    paragraphs = [
        f"**{warning}**" if warning and predicted else "",
        photo_reading(settings, runs, [table]),
        photo_table_note(table),
        photo_search_note([table]),
        photo_doubts(table.table),
        f"Preset {settings.preset}. {photo_data_note(settings, splits, runs)}",
    ]
    bullets = [
        *photo_protocol_lines(runs),
        *sentences.exact_lines(path for run in runs for path in run.paths),
        *sentences.accepted_lines(table.table),
        *sentences.device_lines(photo_cards(runs)),
    ]
    return sentences.footer(paragraphs, bullets)


def search_footer(settings: PhotoTables, runs: Sequence[SearchRun], *, warning: str) -> str:
    """Return the notes under the printed table of searches; `warning` as that of `photo_footer`."""
    bullets = [f"device: {card.name}, {card.threads} threads" for card in search_cards(runs)]
    loud = f"**{warning}**" if warning and runs else ""
    return sentences.footer([loud, search_reading(settings, runs)], bullets)


def photo_reading(settings: PhotoTables, runs: Sequence[PhotoRun], tables: Sequence[PhotoTable]) -> str:
    """Return how the cells of `tables`, which are of `runs`, are to be read."""
    found = _metadata(runs)
    keys = {column.key for table in tables for column in table.table.layout.columns}
    parts = [sentences.cells_reading(settings.confidence, keys)]
    if len(settings.seeds) > 1:
        parts.append(
            "A cell is marked better only where it is so against every other single model of its section, over the seeds that both have "
            "and trained for as many epochs, with an interval of the difference that leaves out zero; intervals are not widened for the "
            "number of comparisons."
        )
    if found:
        size = either(f"{m.image_size}x{m.image_size}" for m in found)
        classes = counted({len(m.classes) for m in found}, "class")
        parts.append(
            f"MACs of one photo of {size} pixels, {classes}; of nets of several searches, the least to the greatest."
        )
        timed = [(m, one) for m in found if (one := m.latency.measured) is not None]
        nets = counted(
            {len(m.classes) if m.latency.setting is None else m.latency.setting.classes for m, _ in timed}, "class"
        )
        things = f"photo of {sentences.sizes((one.height, one.width) for _, one in timed)} pixels by a net of {nets}"
        measured = [one for _, one in timed]
        parts.append(sentences.latency_reading(measured, things=things, switch="evaluate_photos.latency.measure"))
    if any(m.latency.predicted is not None for m in found):
        parts.append(
            "Predicted: by the latency profile for its own device, median over seeds [ends of the intervals]; beside it how far it is off, "
            "in per cent of what was measured there. Nets outside the search space, and decoders of MBConvs, cannot be predicted."
        )
    apart = {m.latency.not_comparable for m in found if m.latency.predicted is not None} - {None}
    if apart:
        parts.append(f"Not compared: {'; '.join(sorted(map(str, apart)))}.")
    if any(is_random(run.spec) for run in runs):
        parts.append("Random subnets: another one each seed, of the same predicted latency as the searched net.")
    parts.append(f"A row that params.yaml does not run is {LEFT_OUT}.")
    timing = "on its own device (GeForce RTX 3090), not synchronised"
    parts.append(sentences.papers_columns("its own photos (ImageNet-100)", timing=timing))
    return " ".join(parts)


def photo_search_note(tables: Sequence[PhotoTable]) -> str:
    """Return which rows have fewer searches than trainings, and what their intervals then leave out; empty where none has."""
    few = {}
    for row in (row for table in tables for row in table.rows if row.run is not None):
        run = row.runs[0]
        searches, trainings = searches_of(run), len(run.metadata)
        if searches is not None and searches < trainings:
            few[row.label] = f"{row.label} ({counted([searches], 'search')}, {counted([trainings], 'training')})"
    if not few:
        return ""
    return (
        f"The interval covers training alone, not the search: {', '.join(few.values())}; where one search was run, nothing is marked "
        "between its net and random subnets."
    )


def photo_table_note(table: PhotoTable) -> str:
    """Return what holds of this table alone; empty where nothing does."""
    if table.number == "3" and not any(row.kind == TWO_MODELS for row in table.rows):
        return ""
    return _OF_TABLE.get(table.number, "")


def photo_doubts(table: Table) -> str:
    """Return what the mark of the table's latencies means here; empty where none bears it."""
    return sentences.doubts(table, again=", repeat its evaluation (dvc repro --force --single-item)")


def photo_data_note(settings: PhotoTables, splits: dict[str, PhotosMetadata], runs: Sequence[PhotoRun]) -> str:
    """Return what the figures are of, and where that differs from the paper."""
    first, counts = splits["train"], {split: metadata.images for split, metadata in splits.items()}
    note = (
        f"Photos of the source {first.source}, {counted([len(first.classes)], 'class')}: {counts['train']} to train weights, "
        f"{counts['validation']} for the architecture of searches, {counts['test']} to test."
    )
    found = _metadata(runs)
    sizes, epochs = {m.image_size for m in found}, {m.epochs for m in found}
    batches = {m.latency.measured.batch for m in found if m.latency.measured is not None}
    training = counts["train"] + (counts["validation"] if settings.train_on == "train_and_validation" else 0)
    devices = len({(m.card.fingerprint, m.card.threads) for m in found if m.latency.measured is not None})
    on = "one device" if devices == 1 else f"{devices} devices"
    differences = [
        (bool(sizes - {PAPER_SIZE}), f"{either(f'{s}x{s}' for s in sizes)} pixels (paper: {PAPER_SIZE}x{PAPER_SIZE})"),
        (len(first.classes) != PAPER_CLASSES, f"{counted([len(first.classes)], 'class')} (paper: {PAPER_CLASSES})"),
        (first.source != "imagenet100", f"{first.source} photos (paper: ImageNet-100)"),
        (training != PAPER_PHOTOS, f"{training:,} photos to train on (paper: assumed {PAPER_PHOTOS:,})"),
        (bool(epochs - {PAPER_EPOCHS}), f"{counted(epochs, 'epoch')} (paper: {PAPER_EPOCHS})"),
        (bool(batches - {PAPER_BATCH}), f"timed passes of {counted(batches, 'photo')} (paper: {PAPER_BATCH})"),
        (bool(batches), f"latency synchronised, on {on} (paper: not synchronised, GeForce RTX 3090)"),
    ]
    return sentences.unlike_the_paper(note, differences)


def photo_protocol_lines(runs: Sequence[PhotoRun]) -> list[str]:
    """Return how the figures of `runs` were measured."""
    restored = any(task_of(run.spec) != "classify" for run in runs if run.paths)
    return sentences.protocol_lines([m.protocol for m in _metadata(runs)], pictures="photos", restored=restored)


def photo_cards(runs: Sequence[PhotoRun]) -> list[DeviceCard]:
    """Return the different cards of the devices that made the records of `runs`."""
    return sentences.different_cards(m.card for m in _metadata(runs))


def search_cards(runs: Sequence[SearchRun]) -> list[DeviceCard]:
    """Return the different cards of the devices that derived the genotypes of `runs`."""
    return sentences.different_cards(run.derived.provenance.device for run in runs)


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
            f"Searched for {counted(epochs, 'epoch')} (paper: {PAPER_SEARCH_EPOCHS}) on {counted(images, 'photo')} for weights."
        )
    sizes = sorted(
        {(run.derived.setting.height, run.derived.setting.width, run.derived.setting.classes) for run in runs}
    )
    if sizes:
        nets = " or ".join(
            f"{height}x{width} pixels, {counted([classes], 'class')}" for height, width, classes in sizes
        )
        parts.append(f"MACs of one photo of {nets}.")
    reasons = sorted({run.derived.not_measured for run in runs if run.derived.not_measured is not None})
    if reasons:
        parts.append(f"Not measured: {'; '.join(reasons)}.")
    noise = {reason for run in runs if run.derived.measured is not None for reason in run.derived.measured.noise}
    if noise:
        parts.append(f"{NOISY} Noisy, not to be relied on: {'; '.join(sorted(noise))}. The genotypes have the counts.")
    parts.append(f"A search that params.yaml does not run is {LEFT_OUT}. Seeds: {either(settings.search_seeds)}.")
    return " ".join(parts)


def _metadata(runs: Sequence[PhotoRun]) -> list[PhotoEvaluationMetadata]:
    return [metadata for run in runs for metadata in run.metadata]
