"""What the states of a GPU hold together: throttling, clocks, heat and company over a stretch of time."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from dcnas_schema.provenance import DeviceState

REJECTED = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x200: "board limit",
    0x400: "reliability limit",
}
"""Bits of NVML's clocks event reasons under which a time is not the device's own (nvml.h)."""
HARMLESS = {0x1: "idle", 0x2: "application clocks", 0x10: "sync boost", 0x100: "display clock"}


def throttled(bits: int) -> tuple[str, ...]:
    """Return the reasons among NVML's `bits` for which a time is rejected; idling between calls is none."""
    return tuple(reason for bit, reason in REJECTED.items() if bits & bit)


def unknown_bits(bits: int) -> int:
    """Return those of NVML's `bits` whose meaning is not known here."""
    return bits & ~sum((*REJECTED, *HARMLESS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a run of states holds together; `None` where the device does not tell."""

    bits: int
    """Union of the clocks event reasons; 0 where the device gives none."""
    counters_rise: dict[str, int]
    """Time in ns, by reason, that the device was slowed between the first and the last state; those that stood still left out."""
    sm_clock_mhz: tuple[int, float, int] | None
    """Least, median and greatest."""
    temperature_c: int | None
    """The greatest."""
    temperature_margin_c: int | None
    """The least."""
    other_processes: int | None
    """The most at once, beside ours."""

    @property
    def throttled(self) -> tuple[str, ...]:
        """Why times taken meanwhile are rejected; empty where they are not. Counters also tell what fell between two polls."""
        return (*throttled(self.bits), *(f"counter {name} rose" for name in self.counters_rise))

    @property
    def clock_spread_pct(self) -> float | None:
        """Greatest less least SM clock, in per cent of the median."""
        if self.sm_clock_mhz is None:
            return None
        least, median, greatest = self.sm_clock_mhz
        return 100 * (greatest - least) / median if median else None


def summarise(states: Sequence[DeviceState]) -> Seen:
    """Return what `states`, in the order taken, hold together."""
    bits = 0
    for state in states:
        bits |= state.throttle_reasons or 0
    clocks = [state.sm_clock_mhz for state in states if state.sm_clock_mhz is not None]
    return Seen(
        bits=bits,
        counters_rise=_rises([state.throttle_counters for state in states if state.throttle_counters]),
        sm_clock_mhz=(min(clocks), statistics.median(clocks), max(clocks)) if clocks else None,
        temperature_c=max((s.temperature_c for s in states if s.temperature_c is not None), default=None),
        temperature_margin_c=min(
            (s.temperature_margin_c for s in states if s.temperature_margin_c is not None), default=None
        ),
        other_processes=max((s.other_processes for s in states if s.other_processes is not None), default=None),
    )


def _rises(counters: Sequence[dict[str, int]]) -> dict[str, int]:
    if not counters:
        return {}
    first, last = counters[0], counters[-1]
    rises = {name: last[name] - first[name] for name in last if name in first}
    return {name: rise for name, rise in rises.items() if rise > 0}
