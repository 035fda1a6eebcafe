"""The lookup table: latency of every part, interpolated over the width within the device's alignment classes."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dcnas_harness.errors import BadInputError
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.latency import Entry


class LatencyKeyMissingError(BadInputError):
    """The table has no entry for a part (exit 2)."""


class LookupTable:
    """
    Latency in ms of each part; between measured widths it interpolates linearly.

    Args:
        points: Measured latency in ms of each part.

        modulus: Widths that are multiples of it run on a line of their own on this device (an AVX-512 CPU: multiples of 16); the two
            classes are interpolated apart.

        stairs: Every begun modulus costs a whole one: a width has the latency of its step, and steps are interpolated. Points of one
            step are points of one thing, and their mean counts.
    """

    def __init__(self, points: Mapping[Part, float], *, modulus: int, stairs: bool = False) -> None:
        self._fixed = {part.key: ms for part, ms in points.items() if part.mid_channels is None}
        self._modulus, self._stairs = modulus, stairs
        grouped: dict[tuple[LatencyKey, bool], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for part, ms in points.items():
            if part.mid_channels is not None:
                grouped[part.key, self._aligned(part.mid_channels)][self._place(part.mid_channels)].append(ms)
        self._curves = {
            name: (
                np.array(sorted(curve), dtype=np.float64),
                np.array([np.mean(curve[place]) for place in sorted(curve)], dtype=np.float64),
            )
            for name, curve in grouped.items()
        }
        self._ends: dict[LatencyKey, tuple[int, int]] = {}
        for part in points:
            if part.mid_channels is not None:
                low, high = self._ends.get(part.key, (part.mid_channels, part.mid_channels))
                self._ends[part.key] = (min(low, part.mid_channels), max(high, part.mid_channels))

    @classmethod
    def of(cls, entries: Iterable[Entry], *, modulus: int, stairs: bool = False) -> "LookupTable":
        """Return the table of a profile's entries; those held out are left out."""
        points = {Part(e.key, e.mid_channels): e.median_ms for e in entries if e.role == "plan"}
        return cls(points, modulus=modulus, stairs=stairs)

    def lookup(self, part: Part) -> float:
        """
        Return the latency of `part` in ms.

        Raises:
            LatencyKeyMissingError: The table has no entry for it, or its width lies beyond all that were measured.
        """
        if part.mid_channels is None:
            if part.key not in self._fixed:
                raise _missing(part)
            return self._fixed[part.key]
        aligned = self._aligned(part.mid_channels)
        curve = self._curves.get((part.key, aligned)) or self._curves.get((part.key, not aligned))
        if curve is None:
            raise _missing(part)
        low, high = self._ends[part.key]
        if not self._place(low) <= self._place(part.mid_channels) <= self._place(high):
            raise LatencyKeyMissingError(
                f"The latency table ends at the widths {low} and {high} of {part.key}; {part.mid_channels} lies beyond.",
                remedy="profile the device with profile_latency.width_multiple as small as the search's, or raise that of the search",
            )
        places, ms = curve
        return float(np.interp(self._place(part.mid_channels), places, ms))

    def total(self, parts: Sequence[Part]) -> float:
        """Return the plain sum over the table in ms."""
        return sum(self.lookup(part) for part in parts)

    def _aligned(self, width: int) -> bool:
        return not self._stairs and width % self._modulus == 0

    def _place(self, width: int) -> int:
        return -(-width // self._modulus) if self._stairs else width


def _missing(part: Part) -> LatencyKeyMissingError:
    return LatencyKeyMissingError(
        f"The latency table has no entry for {part.key}.",
        remedy="profile the device for this input size, these classes and these ops: dcnas profile, or dvc repro profile_latency",
    )
