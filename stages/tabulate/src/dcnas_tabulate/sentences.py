"""The sentences that stand under tables of scenes and of photos alike, and the small words that they are made of."""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pyarrow.compute as pc

from dcnas_lineage.cells import DEVICE, NOISY, doubts_of, latencies_of
from dcnas_lineage.records import read_record
from dcnas_schema.cells import LATENCIES, Cell
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import MeasuredLatency, Protocol
from dcnas_tabulate.tables import Table

_FEW_PASSES = 20
"""Below this the 5th and the 95th percentile lie beyond all samples but one at each end."""


def footer(paragraphs: Iterable[str], bullets: Iterable[str]) -> str:
    """Return the Markdown that stands under a table: the paragraphs that are not empty, then a list."""
    text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph)
    return "\n\n".join([text, "\n".join(f"- {line}" for line in bullets)]).strip() + "\n"


def cells_reading(confidence: float, keys: Collection[str]) -> str:
    """
    Return what a cell is.

    Args:
        keys: Those of the table's columns.
    """
    levels = ["the mean over all noise levels"]
    if "psnr_db" in keys:
        levels.append("for PSNR also over those above 0, because without noise it is unbounded")
    if any(key.endswith("_at_sigma_0") for key in keys):
        levels.append("and accuracy at σ = 0 alone where the column says so")
    reading = f"Cells: mean over seeds ± half the width of its {percent(confidence)} interval (Student), none for a single seed; "
    reading += f"{', '.join(levels)}."
    if "psnr_pooled_db" in keys:
        reading += " Pooled PSNR is that of the mean squared error of all images of a level; the other is the mean of each image's."
    return reading


def latency_reading(measured: Sequence[MeasuredLatency], *, things: str, switch: str) -> str:
    """
    Return how latencies are to be read, or that there are none.

    Args:
        things: What a pass is of, one of them: `scene`; what follows a comma stays as it is.

        switch: The parameter that turns the measurement off.
    """
    if not measured:
        return f"Latency: not measured ({switch} is off)."
    batches, precisions = ({getattr(one, name) for one in measured} for name in ("batch", "precision"))
    bands = {one.canary_band_pct for one in measured if one.canary_band_pct is not None}
    rejected = (
        "; passes left out that faulted in pages, waited for a processor, or stood beside a reference op more than "
        f"{either(f'{band:g}' for band in bands)}% slower than its best"
        if bands
        else ""
    )
    few = (
        f" Of fewer than {_FEW_PASSES} passes the percentiles are little else than the least and the greatest time."
        if any((one.repeats if one.kept is None else one.kept) < _FEW_PASSES for one in measured)
        else ""
    )
    device = (
        " Device time: median over seeds [least, greatest seed] of the medians between CUDA events around the pass."
        if any(one.device_median_ms is not None for one in measured)
        else ""
    )
    return (
        "Latency: median over seeds of the medians [least 5th, greatest 95th percentile of any seed] of the wall time of a synchronised "
        f"pass of a whole batch of {counted(batches, things)}, in {either(precisions)}{rejected}.{device}{few}"
    )


def papers_columns(data: str, *, timing: str) -> str:
    """
    Return what the paper's columns are.

    Args:
        data: Its own.

        timing: What it says of its latency.
    """
    return f"The paper's columns are its own, on {data}; its latency: {timing}."


def exact_lines(records: Iterable[Path]) -> list[str]:
    """Return how many images were restored to the last bit, which no mean PSNR can take; nothing where none was."""
    found = sum(pc.sum(read_record(path)[0]["exact"]).as_py() or 0 for path in records)
    if not found:
        return []
    return [
        f"restored to the last bit, over all levels, seeds and models, and left out of the mean PSNR: {counted([found], 'image')}"
    ]


def doubts(table: Table, *, again: str) -> str:
    """
    Return what the mark of the table's latencies means here; empty where none bears it.

    Args:
        again: How one is timed again.
    """
    cells = latency_cells(table)
    reasons = {reason for cell in cells for reason in doubts_of(cell.sources, Path())}
    if not reasons:
        return ""
    return f"{NOISY} Noisy, not to be relied on: {'; '.join(sorted(reasons))}. The records have the counts; to time one again{again}."


def accepted_lines(table: Table) -> list[str]:
    """Return how many timed passes each latency is of, and whether others' share of the processors was told."""
    alone = [cell for cell in latency_cells(table) if cell.reducer == "median_spread" and cell.pointer != DEVICE]
    timed = [(cell.row, found) for cell in alone if (found := latencies_of(cell.sources, Path()))]
    if not timed:
        return []
    counts = (f"{row} {', '.join(map(accepted, found))}" for row, found in timed)
    lines = [f"timed passes accepted, of those taken, seed by seed: {'; '.join(counts)}"]
    everyone = [latency for _, found in timed for latency in found]
    if untold := sum(latency.others_pct is None for latency in everyone):
        lines.append(f"what other programs took meanwhile was not told for {untold} of {len(everyone)} latencies")
    return lines


def protocol_lines(protocols: Sequence[Protocol], *, pictures: str, restored: bool) -> list[str]:
    """
    Return how figures were measured: noise, the metrics that are there, every precision that was used; nothing where there are none.

    Args:
        protocols: Those of the records, the same in all but for the precision.

        pictures: What noise is added to: `images`.

        restored: Whether any of the models restores.
    """
    if not protocols:
        return []
    protocol = protocols[0]
    sigmas = ", ".join(f"{sigma:g}" for sigma in protocol.sigmas)
    clip = "clipped to [0, 1]" if protocol.clip_noisy else "not clipped"
    lines = [f"noise: σ in {sigmas} of the [0, 1] range; noisy {pictures} {clip}; seed {protocol.noise_seed}"]
    if restored:
        lines += [f"PSNR: {protocol.psnr}", f"SSIM: {protocol.ssim}"]
    return [*lines, f"precision: {either(one.precision for one in protocols)}"]


def unlike_the_paper(note: str, differences: Iterable[tuple[bool, str]]) -> str:
    """Return the note, and behind it those of the `differences` that there are."""
    unlike = [text for differs, text in differences if differs]
    return f"{note} Unlike the paper: {'; '.join(unlike)}." if unlike else note


def different_cards(cards: Iterable[DeviceCard]) -> list[DeviceCard]:
    """Return the different ones among the cards."""
    return list({card.model_dump_json(): card for card in cards}.values())


def device_lines(cards: Iterable[DeviceCard]) -> list[str]:
    """Return a line a device."""
    return [f"device: {'; '.join(': '.join(item) for item in card_items(card))}" for card in cards]


def sentence_case(lines: Iterable[str]) -> list[str]:
    """Return lines of a list as sentences."""
    return [f"{line[:1].upper()}{line[1:]}." for line in lines]


def card_items(card: DeviceCard) -> list[tuple[str, str]]:
    """Return what the device gives, then what it does not with the reason."""
    values = card.model_dump()
    absent = values.pop("absent")
    items = [(name, str(value)) for name, value in values.items() if value is not None]
    return items + [(f"{name} absent", reason) for name, reason in absent.items()]


def latency_cells(table: Table) -> list[Cell]:
    """Return the table's cells of measured latencies."""
    return [cell for row in table.rows for cell in row if cell is not None and cell.reducer in LATENCIES]


def accepted(latency: MeasuredLatency) -> str:
    """Return how many timed passes a latency is of, of how many."""
    return f"{latency.repeats} unjudged" if latency.raw is None else f"{latency.kept}/{latency.raw}"


def percent(share: float) -> str:
    """Return 0.975 as 97.5%: no digit is rounded away."""
    return f"{100 * share:g}%"


def either(values: Iterable[int | str]) -> str:
    """Return the different values, each once, in order: numbers by size, texts by letter."""
    return " or ".join(map(str, sorted(set(values), key=lambda value: (isinstance(value, str), value))))


def counted(numbers: Iterable[int], thing: str) -> str:
    """
    Return the different numbers with the thing that they count, in the plural but for 1: `1 or 32 photos`.

    Args:
        thing: In the singular; what stands behind a comma or `of` follows unchanged: `photo of 32x32 pixels`.
    """
    found = set(numbers)
    noun, *rest = re.split(r"(?=,| of )", thing, maxsplit=1)
    plural = "" if found == {1} else "es" if noun.endswith(("ss", "rch")) else "s"
    return f"{either(found)} {noun}{plural}{''.join(rest)}"


def sizes(found: Iterable[tuple[int, int]]) -> str:
    """Return the different heights and widths in pixels."""
    return either(f"{height}x{width}" for height, width in found)
