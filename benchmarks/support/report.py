"""What every benchmark prints and writes: a table, the machine with its load, the command, the bars; as JSON too."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dcnas_harness.files import write_json
from dcnas_latency.card import device_card
from dcnas_lineage.collect import collect_provenance
from dcnas_schema.params import Section, digest_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A figure that the project promises."""

    what: str
    value: float
    sense: Literal["at least", "at most"]
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether `value` is on the right side of `limit`."""
        return self.value >= self.limit if self.sense == "at least" else self.value <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return f"{self.what}: {self.value:.3g}{self.unit}, {self.sense} {self.limit:g}{self.unit}: {verdict}"

    def for_json(self) -> dict[str, Any]:
        """Return the bar and whether it is met."""
        keys = ("what", "sense", "limit", "unit", "met")
        return {**{key: getattr(self, key) for key in keys}, "value": round(self.value, 3)}


class Report:
    """Gathers what one benchmark measured; made before the first measurement, so that it sees the load before and after."""

    def __init__(self, name: str, params: Section, device: torch.device, *, hidden: Sequence[str] = ()) -> None:
        self._name, self._hidden = name, hidden
        self._provenance = collect_provenance(
            stage="benchmarks",
            item=name,
            params_sha256=digest_of(params),
            seed=0,
            inputs=(),
            device=device_card(device),
        )
        self._load_before = _load()

    def finish(
        self,
        headings: Sequence[str],
        rows: Sequence[Sequence[object]],
        bars: Sequence[Bar],
        results: Any,
        json: Path | None,
    ) -> None:
        """Print the table, the bars and the machine; write the same to `json` where it is given."""
        card, load = self._provenance.device, {"before": self._load_before, "after": _load()}
        print()
        print_table(headings, rows)
        print()
        for bar in bars:
            print(bar)
        print(f"machine: {card.name}, {card.cores} cores, {card.threads} threads, torch {card.torch}")
        print(
            f"load average over 1 minute, this benchmark's own included: {load['before']} before, {load['after']} after"
        )
        if json is not None:
            record = {
                "benchmark": self._name,
                "command": self._command(),
                "load_average": load,
                "bars": [bar.for_json() for bar in bars],
                "results": results,
                "provenance": self._provenance.model_dump(mode="json", exclude={"stage", "item", "inputs"}),
            }
            write_json(json, record)

    def _command(self) -> str:
        script = Path(sys.argv[0])
        words = [f"{script.parent.name}/{script.name}", *sys.argv[1:]]
        return " ".join(["python", *("..." if word in self._hidden else word for word in words)])


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print text columns: the first to the left, the others to the right."""
    table = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(headings))]
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def _load() -> float:
    return round(os.getloadavg()[0], 2)
