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
    """

    def __init__(self, points: Mapping[Part, float], *, modulus: int) -> None:
        self._fixed = {part.key: ms for part, ms in points.items() if part.mid_channels is None}
        self._modulus = modulus
        grouped: dict[tuple[LatencyKey, bool], list[tuple[int, float]]] = defaultdict(list)
        for part, ms in points.items():
            if part.mid_channels is not None:
                grouped[part.key, part.mid_channels % modulus == 0].append((part.mid_channels, ms))
        self._curves = {
            name: tuple(np.array(column, dtype=np.float64) for column in zip(*sorted(curve), strict=True))
            for name, curve in grouped.items()
        }

    @classmethod
    def of(cls, entries: Iterable[Entry], *, modulus: int) -> "LookupTable":
        """Return the table of a profile's entries; those held out are left out."""
        points = {Part(e.key, e.mid_channels): e.median_ms for e in entries if e.role == "plan"}
        return cls(points, modulus=modulus)

    def lookup(self, part: Part) -> float:
        """
        Return the latency of `part` in ms.

        Raises:
            LatencyKeyMissingError: The table has no entry for it.
        """
        if part.mid_channels is None:
            if part.key not in self._fixed:
                raise _missing(part)
            return self._fixed[part.key]
        aligned = part.mid_channels % self._modulus == 0
        curve = self._curves.get((part.key, aligned)) or self._curves.get((part.key, not aligned))
        if curve is None:
            raise _missing(part)
        widths, ms = curve
        return float(np.interp(part.mid_channels, widths, ms))

    def total(self, parts: Sequence[Part]) -> float:
        """Return the plain sum over the table in ms."""
        return sum(self.lookup(part) for part in parts)


def _missing(part: Part) -> LatencyKeyMissingError:
    return LatencyKeyMissingError(
        f"The latency table has no entry for {part.key}.",
        remedy="profile the device for this input size, these classes and these ops: dcnas profile, or dvc repro profile_latency",
    )
