"""From source files to the text of a table cell: one rule for the table that is printed and for the audit that derives it again."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from dcnas_harness.errors import CorruptArtefactError
from dcnas_lineage.records import AnyEvaluation, measured_of, net_of, read_genotype, read_record, read_search
from dcnas_schema.cells import Cell
from dcnas_schema.photo_records import PhotoEvaluationMetadata
from dcnas_schema.records import MeasuredLatency
from dcnas_schema.search_log import DerivedGenotype, oscillation

NOTHING = "–"
"""Printed where a model lacks the task, or the paper gives no figure."""
NOISY = "†"
"""Printed behind a latency that is not to be relied on; `latency_doubts` says why."""
SEEDS_DIFFER_PCT = 5.0
"""Medians of one net that differ by more than this between seeds tell of the machine: the seed changes weights, not work."""
DEVICE = "device"
"""Pointer of a latency that is the time on the device, not that on the wall."""
DERIVED = "‡"
"""Printed behind a figure of the paper that is not printed there but follows from what is."""
_DERIVED_BY_NOTE = {"psnr_db": "PSNR from the text"}
"""Field of the paper's CSV -> how the note of a row begins in which it was derived."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """A cell's value at full precision, and its text."""

    text: str
    value: float | None
    low: float | None = None
    """Lower end: of the confidence interval over seeds, the least of the records' 5th percentiles of latency, of the predictions, ..."""
    high: float | None = None


def derive(cell: Cell, *, confidence: float, root: Path) -> Derived:
    """
    Derive a cell from its sources by its own rule.

    Args:
        confidence: Level of the intervals over seeds.

        root: The folder that the sources' paths start from.
    """
    rules: dict[str, Callable[[], Derived]] = {
        "label": lambda: Derived(text=cell.pointer, value=None),
        "paths": lambda: Derived(text=_short(cell.sources), value=None),
        "count": lambda: Derived(text=f"{len(cell.sources)}/{cell.pointer}", value=float(len(cell.sources))),
        "reference": lambda: _reference(cell, root),
        "value": lambda: _shared_value(cell, root),
        "mean_ci": lambda: mean_with_interval(seed_values(cell, root), confidence=confidence, decimals=cell.decimals),
        "median_spread": lambda: _median_spread(cell, root),
        "range": lambda: _ranged(_fields(cell.sources, cell.pointer, root), cell.decimals),
        "sum_range": lambda: _sum_of_ranges(cell, root),
        "sum_spread": lambda: _sum_of_spreads(cell, root),
        "predicted": lambda: _predicted(cell, root),
        "prediction_error": lambda: _prediction_error(cell, root),
        "genotype": lambda: _of_genotype(cell, root),
        "genotype_spread": lambda: _spread_of_genotype(cell, root),
        "oscillation": lambda: _oscillation(cell, root),
    }
    return rules[cell.reducer]()


def seed_values(cell: Cell, root: Path) -> list[float]:
    """
    Return the cell's pointed-to quantity for each source: its mean over the cell's noise levels; empty where it is not there.

    Raises:
        CorruptArtefactError: A record holds NaN or infinity: without it the mean of the others would pass for that of all.
    """
    values = []
    for source in cell.sources:
        table, _ = read_record(root / source)
        sigmas = table["sigma"].to_numpy()
        column = table[cell.pointer].to_numpy(zero_copy_only=False).astype(float)
        there = table[cell.pointer].is_valid().to_numpy(zero_copy_only=False)
        wanted = sigmas > 0 if cell.skip_sigma_zero else sigmas == 0 if cell.only_sigma_zero else sigmas >= 0
        if not wanted.any() or not there[wanted].all():
            continue
        if not np.isfinite(column[wanted]).all():
            raise CorruptArtefactError(
                f"{source}: {cell.pointer} holds what is no number.", remedy="evaluate the model again: dvc repro"
            )
        values.append(float(column[wanted].mean()))
    return values


def mean_with_interval(values: list[float], *, confidence: float, decimals: int) -> Derived:
    """Return mean and Student's confidence interval over seeds; no interval for a single one."""
    if not values:
        return Derived(text=NOTHING, value=None)
    mean, half = float(np.mean(values)), half_width(values, confidence)
    if half is None:
        return Derived(text=f"{mean:.{decimals}f}", value=mean)
    return Derived(text=f"{mean:.{decimals}f} ± {half:.{decimals}f}", value=mean, low=mean - half, high=mean + half)


def half_width(values: list[float], confidence: float) -> float | None:
    """Return half the width of Student's interval of the mean; `None` for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    return float(stdtrit(n - 1, 0.5 + confidence / 2) * np.std(values, ddof=1) / np.sqrt(n))


def paired_interval_excludes_zero(a: list[float], b: list[float], confidence: float) -> bool:
    """Return whether the interval of the mean of a - b, seed by seed, leaves out zero."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    half = half_width(differences, confidence)
    return half is not None and abs(float(np.mean(differences))) > half


def _reference(cell: Cell, root: Path) -> Derived:
    table, model, variant, field = cell.pointer.split(",")
    with (root / cell.sources[0]).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["table"], row["model"], row["variant"]) == (table, model, variant):
                text = row[field]
                mark = f" {DERIVED}" if (row.get("note") or "").startswith(_DERIVED_BY_NOTE.get(field, "\0")) else ""
                return Derived(text=f"{text}{mark}" if text else NOTHING, value=float(text) if text else None)
    return Derived(text=NOTHING, value=None)


def _shared_value(cell: Cell, root: Path) -> Derived:
    found = {_field(read_record(root / source)[1], cell.pointer) for source in cell.sources}
    if len(found) != 1:
        return Derived(text=" / ".join(f"{value:.{cell.decimals}f}" for value in sorted(found)) or NOTHING, value=None)
    value = found.pop()
    return Derived(text=f"{value:.{cell.decimals}f}", value=value)


def _fields(sources: Sequence[str], pointer: str, root: Path) -> list[float]:
    return [_field(read_record(root / source)[1], pointer) for source in sources]


def _field(metadata: AnyEvaluation, pointer: str) -> float:
    cost = metadata.cost
    macs = metadata.cost.macs if isinstance(metadata, PhotoEvaluationMetadata) else metadata.cost.macs_one_digit
    return float({"macs_m": macs / 1e6, "parameters": cost.parameters, "epochs": metadata.epochs}[pointer])


def latencies_of(sources: Sequence[str], root: Path) -> list[MeasuredLatency]:
    """Return the latencies that the records measured, in their order."""
    found = (measured_of(read_record(root / source)[1]) for source in sources)
    return [latency for latency in found if latency is not None]


def latency_doubts(latencies: Sequence[MeasuredLatency]) -> list[str]:
    """Return why the latency of one net, measured once a seed, is not to be relied on; empty where nothing speaks against it."""
    doubts = sorted({reason for latency in latencies for reason in latency.noise})
    medians = [latency.median_ms for latency in latencies]
    if medians and max(medians) > min(medians) * (1 + SEEDS_DIFFER_PCT / 100):
        doubts.append(f"seeds of one net differ by more than {SEEDS_DIFFER_PCT:g} %")
    return doubts


def doubts_of(sources: Sequence[str], root: Path) -> list[str]:
    """Return the doubts about the latencies of the records, those of each net judged by themselves."""
    nets = _grouped(sources, root, net_of)
    return sorted({doubt for group in nets.values() for doubt in latency_doubts(latencies_of(group, root))})


def _median_spread(cell: Cell, root: Path) -> Derived:
    figures = _figures(cell.sources, root, cell.pointer)
    if not figures:
        return Derived(text=NOTHING, value=None)
    return _spread(*_median_of(figures), cell.decimals, noisy=bool(doubts_of(cell.sources, root)))


def _sum_of_spreads(cell: Cell, root: Path) -> Derived:
    """Models that run one after another: their medians add up, and so do the ends of their spreads."""
    *kind, count = cell.pointer.split(",")
    groups = [_figures(group, root, "".join(kind)) for group in _grouped(cell.sources, root, _model_of).values()]
    if len(groups) != int(count) or not all(groups):
        return Derived(text=NOTHING, value=None)
    medians, lows, highs = zip(*(_median_of(figures) for figures in groups), strict=True)
    return _spread(sum(medians), sum(lows), sum(highs), cell.decimals, noisy=bool(doubts_of(cell.sources, root)))


def _sum_of_ranges(cell: Cell, root: Path) -> Derived:
    pointer, count = cell.pointer.split(",")
    groups = [_fields(group, pointer, root) for group in _grouped(cell.sources, root, _model_of).values()]
    if len(groups) != int(count):
        return Derived(text=NOTHING, value=None)
    found = _ranged([sum(map(min, groups)), sum(map(max, groups))], cell.decimals)
    return replace(found, value=float(sum(np.mean(group) for group in groups)))


def _predicted(cell: Cell, root: Path) -> Derived:
    found = [
        metadata.latency.predicted
        for metadata in _photo_records(cell.sources, root)
        if metadata.latency.predicted is not None
    ]
    if not found:
        return Derived(text=NOTHING, value=None)
    median = float(np.median([one.ms for one in found]))
    return _spread(median, min(one.low_ms for one in found), max(one.high_ms for one in found), cell.decimals)


def _prediction_error(cell: Cell, root: Path) -> Derived:
    found = [metadata.latency.error_pct for metadata in _photo_records(cell.sources, root)]
    errors = [error for error in found if error is not None]
    if not errors:
        return Derived(text=NOTHING, value=None)
    mean = float(np.mean(errors))
    mark = _mark(cell.of_measured and bool(doubts_of(cell.sources, root)))
    return Derived(text=f"{mean:+.{cell.decimals}f}{mark}", value=mean, low=min(errors), high=max(errors))


def _of_genotype(cell: Cell, root: Path) -> Derived:
    derived = read_genotype(root / cell.sources[0])
    value, sign = _genotype_field(derived, cell.pointer)
    if value is None:
        return Derived(text=NOTHING, value=None)
    mark = _mark(cell.of_measured and derived.measured is not None and derived.measured.noisy)
    missed = " not met" if cell.pointer == "target_error_pct" and not derived.met else ""
    return Derived(text=f"{value:{sign}.{cell.decimals}f}{missed}{mark}", value=value)


def _genotype_field(derived: DerivedGenotype, pointer: str) -> tuple[float | None, str]:
    """Return a figure of a derived net, and `+` where it is a difference; errors are in per cent of the measurement, or of the target."""
    predicted, cost = derived.predicted.get(derived.bound), derived.cost.get(derived.bound)
    measured = derived.measured_ms  # by the profile's clock: a GPU's own is no wall clock
    match pointer:
        case "target_ms":
            return derived.target_ms, ""
        case "macs_m":
            return (None if cost is None else cost.macs / 1e6), ""
        case "parameters":
            return (None if cost is None else float(cost.parameters)), ""
        case "target_error_pct":
            return (None if predicted is None else derived.target_error_pct), "+"
        case "prediction_error_pct":
            return (
                100 * (predicted.ms / measured - 1) if predicted is not None and measured is not None else None
            ), "+"
        case "off_target_pct":
            return (None if measured is None else 100 * (measured / derived.target_ms - 1)), "+"
    raise ValueError(f"a derived genotype has no {pointer}")


def _spread_of_genotype(cell: Cell, root: Path) -> Derived:
    derived = read_genotype(root / cell.sources[0])
    predicted, measured = derived.predicted.get(derived.bound), derived.measured
    if cell.pointer == "predicted" and predicted is not None:
        return _spread(predicted.ms, predicted.low_ms, predicted.high_ms, cell.decimals)
    if cell.pointer == "measured" and measured is not None and (found := measured.spread_by(derived.clock)) is not None:
        return _spread(*found, cell.decimals, noisy=measured.noisy)
    return Derived(text=NOTHING, value=None)


def _oscillation(cell: Cell, root: Path) -> Derived:
    value = oscillation(read_search(root / cell.sources[0])[0]["choices"].to_pylist())
    return Derived(text=f"{value:.{cell.decimals}f}", value=value)


def _spread(median: float, low: float, high: float, decimals: int, *, noisy: bool = False) -> Derived:
    text = f"{median:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]{_mark(noisy)}"
    return Derived(text=text, value=median, low=low, high=high)


def _mark(noisy: bool) -> str:
    return f" {NOISY}" if noisy else ""


def _figures(sources: Sequence[str], root: Path, kind: str) -> list[tuple[float, float, float]]:
    """Return median, 5th and 95th percentile of each record in ms; of the time on the device there is the median alone."""
    found = latencies_of(sources, root)
    if kind == DEVICE:
        return [(ms, ms, ms) for latency in found if (ms := latency.device_median_ms) is not None]
    return [(latency.median_ms, latency.p5_ms, latency.p95_ms) for latency in found]


def _median_of(figures: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the median of the medians, the least 5th and the greatest 95th percentile, in ms."""
    medians, lows, highs = zip(*figures, strict=True)
    return float(np.median(medians)), min(lows), max(highs)


def _ranged(values: Sequence[float], decimals: int) -> Derived:
    """One value, or from the least to the greatest; those that print alike are one."""
    if not values:
        return Derived(text=NOTHING, value=None)
    low, high = (f"{value:.{decimals}f}" for value in (min(values), max(values)))
    text = low if low == high else f"{low} to {high}"
    return Derived(text=text, value=float(np.mean(values)), low=min(values), high=max(values))


def _photo_records(sources: Sequence[str], root: Path) -> list[PhotoEvaluationMetadata]:
    found = (read_record(root / source)[1] for source in sources)
    return [metadata for metadata in found if isinstance(metadata, PhotoEvaluationMetadata)]


def _model_of(metadata: AnyEvaluation) -> str:
    return metadata.model


def _grouped(sources: Sequence[str], root: Path, key: Callable[[AnyEvaluation], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for source in sources:
        groups.setdefault(key(read_record(root / source)[1]), []).append(source)
    return groups


def _short(paths: Sequence[str]) -> str:
    """Write paths that differ in one folder as the shell would: data/evaluate/unet_s/{0,1}/record.parquet."""
    parts = [path.split("/") for path in paths]
    if len({len(part) for part in parts}) != 1 or len(parts) < 2:
        return " ".join(paths)
    differing = [names for names in zip(*parts, strict=True) if len(set(names)) > 1]
    if len(differing) != 1:
        return " ".join(paths)
    return "/".join(
        names[0] if len(set(names)) == 1 else "{" + ",".join(names) + "}" for names in zip(*parts, strict=True)
    )


def as_dict(derived: Derived, key: str) -> dict[str, Any]:
    """Return the numbers of a derived cell as columns named after `key`."""
    return {key: derived.value, f"{key}_low": derived.low, f"{key}_high": derived.high}
