"""From source files to the text of a table cell: one rule for the table that is printed and for the audit that derives it again."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from dcnas_schema.cells import Cell
from dcnas_schema.parquet import read_parquet
from dcnas_schema.records import RECORD, EvaluationMetadata, MeasuredLatency

NOTHING = "–"
"""Printed where a model lacks the task, or the paper gives no figure."""
NOISY = "†"
"""Printed behind a latency that is not to be relied on; `latency_doubts` says why."""
SEEDS_DIFFER_PCT = 5.0
"""Medians of one net that differ by more than this between seeds tell of the machine: the seed changes weights, not work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """A cell's value at full precision, and its text."""

    text: str
    value: float | None
    low: float | None = None
    """Lower end: of the confidence interval over seeds, or the least of the records' 5th percentiles of latency."""
    high: float | None = None


@cache
def read_record(path: Path) -> tuple[pa.Table, EvaluationMetadata]:
    """Return an evaluation record; each file is read once a process."""
    return read_parquet(path, RECORD, EvaluationMetadata)


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
    }
    return rules[cell.reducer]()


def seed_values(cell: Cell, root: Path) -> list[float]:
    """Return the cell's pointed-to quantity for each source: its mean over the cell's noise levels; empty where it is not there."""
    values = []
    for source in cell.sources:
        table, _ = read_record(root / source)
        sigmas = table["sigma"].to_numpy()
        column = table[cell.pointer].to_numpy(zero_copy_only=False).astype(float)
        kept = column[sigmas > 0] if cell.skip_sigma_zero else column[sigmas == 0] if cell.only_sigma_zero else column
        if len(kept) and not np.isnan(kept).any():
            values.append(float(kept.mean()))
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
    return float(stats.t.ppf(0.5 + confidence / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))


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
                return Derived(text=text or NOTHING, value=float(text) if text else None)
    return Derived(text=NOTHING, value=None)


def _shared_value(cell: Cell, root: Path) -> Derived:
    found = {_field(read_record(root / source)[1], cell.pointer) for source in cell.sources}
    if len(found) != 1:
        return Derived(text=" / ".join(f"{value:g}" for value in sorted(found)) or NOTHING, value=None)
    value = found.pop()
    return Derived(text=f"{value:.{cell.decimals}f}", value=value)


def _field(metadata: EvaluationMetadata, pointer: str) -> float:
    return float(
        {
            "macs_m": metadata.cost.macs_one_digit / 1e6,
            "parameters": metadata.cost.parameters,
            "epochs": metadata.epochs,
        }[pointer]
    )


def latencies_of(sources: Sequence[str], root: Path) -> list[MeasuredLatency]:
    """Return the latencies that the records measured, in their order."""
    found = (read_record(root / source)[1].latency for source in sources)
    return [latency for latency in found if latency is not None]


def latency_doubts(latencies: Sequence[MeasuredLatency]) -> list[str]:
    """Return why the latency of one net, measured once a seed, is not to be relied on; empty where nothing speaks against it."""
    doubts = sorted({reason for latency in latencies for reason in latency.noise})
    medians = [latency.median_ms for latency in latencies]
    if medians and max(medians) > min(medians) * (1 + SEEDS_DIFFER_PCT / 100):
        doubts.append(f"seeds of one net differ by more than {SEEDS_DIFFER_PCT:g} %")
    return doubts


def _median_spread(cell: Cell, root: Path) -> Derived:
    latencies = latencies_of(cell.sources, root)
    if not latencies:
        return Derived(text=NOTHING, value=None)
    median = float(np.median([latency.median_ms for latency in latencies]))
    low, high = min(latency.p5_ms for latency in latencies), max(latency.p95_ms for latency in latencies)
    digits, mark = cell.decimals, f" {NOISY}" if latency_doubts(latencies) else ""
    text = f"{median:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{mark}"
    return Derived(text=text, value=median, low=low, high=high)


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
