"""The noise gate: the conditions under which a profile may be believed, each with its figure, its limit and what to do."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_latency.rig import RigSample
from dcnas_latency.samples import Summary
from dcnas_schema.latency import Accuracy, Gate, GateCheck
from dcnas_schema.params import GateLimits
from dcnas_schema.provenance import DeviceState

REJECTED_THROTTLE_BITS = 0x4 | 0x8 | 0x20 | 0x40 | 0x80 | 0x200 | 0x400
"""NVML clock event reasons that slow a timing: power caps, thermal and hardware slowdown, power brake, board and reliability limits."""
_QUIET = "close other programs or wait until they end, then run the same command again: it measures anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """How the device was while it was timed."""

    states: Sequence[tuple[float, DeviceState]]
    """Seconds since the start, and the device then."""
    others_share: float | None
    """Share of all processors' time that went to other programs, 0 to 1; `None` where the system does not tell."""
    cuda: bool


def build_gate(
    *,
    summaries: Sequence[Summary],
    samples: Sequence[RigSample],
    rejected: Counter[str],
    accuracy: Sequence[Accuracy],
    conditions: Conditions,
    limits: GateLimits,
    allow_noisy: bool,
) -> Gate:
    """
    Return the verdict.

    Args:
        summaries: Of every entry of the table.

        samples: All samples of the whole nets, in the order taken: they tell drift.

        rejected: Samples rejected by reason, of `accepted` + `rejected` in all.
    """
    checks = [
        _builds_agree(summaries, limits),
        _accepted(summaries, rejected, limits),
        _drift(samples, limits),
        _others(conditions, limits),
        _predictor(accuracy, limits),
    ]
    if conditions.cuda:
        checks += [_throttle(conditions), _strangers(conditions), _clock(conditions, limits)]
    return Gate(checks=tuple(checks), allow_noisy=allow_noisy)


def require_passed(gate: Gate) -> None:
    """
    Refuse a profile that failed its gate, unless noise is allowed.

    Raises:
        UnfitEnvironmentError: The gate did not pass; names every failed check.
    """
    if gate.passed or gate.allow_noisy:
        return
    failed = [check for check in gate.checks if not check.passed]
    reasons = "\n".join(f"  - {describe(check)}" for check in failed)
    remedies = "; ".join(dict.fromkeys(check.remedy for check in failed if check.remedy))
    raise UnfitEnvironmentError(
        f"The noise gate is closed: this latency profile cannot be believed.\n{reasons}",
        remedy=f"{remedies}; or set profile_latency.allow_noisy: true, which takes what was measured and marks every table that uses it",
    )


def describe(check: GateCheck) -> str:
    """Return one line that says what a check found."""
    found = "not told by this machine" if check.value is None else f"{check.value:.3g} {check.unit}".rstrip()
    return f"{check.name}: {found}, limit {check.limit:g} {check.unit}".rstrip() + (
        f" ({check.reason})" if check.reason else ""
    )


def _builds_agree(summaries: Sequence[Summary], limits: GateLimits) -> GateCheck:
    differences = [s.builds_differ_pct for s in summaries if s.builds_differ_pct is not None]
    value = float(np.median(differences)) if differences else None
    return GateCheck(
        name="two interleaved builds differ by (median entry)",
        value=value,
        limit=limits.builds_differ_pct,
        unit="%",
        passed=value is not None and value <= limits.builds_differ_pct,
        reason="" if differences else "fewer than two builds were measured",
        remedy=_QUIET if differences else "set profile_latency.builds: 2",
    )


def _accepted(summaries: Sequence[Summary], rejected: Counter[str], limits: GateLimits) -> GateCheck:
    raw = sum(summary.raw for summary in summaries)
    value = 100 * sum(summary.kept for summary in summaries) / max(raw, 1)
    return GateCheck(
        name="samples accepted, at least",
        value=value,
        limit=limits.accepted_pct,
        unit="%",
        passed=value >= limits.accepted_pct,
        reason=", ".join(f"{count} rejected for {reason}" for reason, count in sorted(rejected.items())),
        remedy=_QUIET,
    )


def _drift(samples: Sequence[RigSample], limits: GateLimits) -> GateCheck:
    value = 100 * abs(drift_of(samples))
    return GateCheck(
        name="drift from the first third of the rounds to the last",
        value=value,
        limit=limits.drift_pct,
        unit="%",
        passed=value <= limits.drift_pct,
        remedy="let the device reach a steady temperature and load, then run the same command again",
    )


def drift_of(samples: Sequence[RigSample]) -> float:
    """Return by which share subjects are slower in the last third of their rounds than in the first: median over subjects; 0 without."""
    if not samples:
        return 0.0
    subjects = np.array([sample.subject for sample in samples])
    rounds = np.array([sample.round for sample in samples])
    totals = np.array([sample.total_ms for sample in samples])
    third = (rounds.max() + 1) / 3
    ratios = []
    for subject in np.unique(subjects):
        mine = subjects == subject
        early, late = totals[mine & (rounds < third)], totals[mine & (rounds >= 2 * third)]
        if len(early) and len(late):
            ratios.append(float(np.median(late) / np.median(early)))
    return float(np.median(ratios)) - 1 if ratios else 0.0


def _others(conditions: Conditions, limits: GateLimits) -> GateCheck:
    share = conditions.others_share
    return GateCheck(
        name="processor time taken by other programs",
        value=None if share is None else 100 * share,
        limit=limits.others_pct,
        unit="%",
        passed=share is None or 100 * share <= limits.others_pct,
        reason="not told here" if share is None else "",
        remedy=_QUIET,
    )


def _predictor(accuracy: Sequence[Accuracy], limits: GateLimits) -> GateCheck:
    worst = max(accuracy, key=lambda one: one.mape_pct)
    return GateCheck(
        name="mean error of the predictor on held-out nets (worst kind)",
        value=worst.mape_pct,
        limit=limits.mape_pct,
        unit="%",
        passed=worst.mape_pct <= limits.mape_pct,
        reason=worst.kind,
        remedy="raise profile_latency.rounds and fit_nets; a runtime that fuses across parts needs more nets to fit",
    )


def _throttle(conditions: Conditions) -> GateCheck:
    bits = [state.throttle_reasons for _, state in conditions.states if state.throttle_reasons is not None]
    seen = int(np.bitwise_or.reduce(bits)) if bits else 0
    return GateCheck(
        name="throttle reasons seen",
        value=float(seen & REJECTED_THROTTLE_BITS) if bits else None,
        limit=0,
        unit="",
        passed=not seen & REJECTED_THROTTLE_BITS,
        reason=f"NVML reported {seen:#x}" if bits else "NVML does not tell",
        remedy="let the card cool, raise its power cap, or lock its clocks",
    )


def _strangers(conditions: Conditions) -> GateCheck:
    counts = [state.other_processes for _, state in conditions.states if state.other_processes is not None]
    return GateCheck(
        name="other processes on the GPU",
        value=float(max(counts)) if counts else None,
        limit=0,
        unit="",
        passed=not any(counts),
        reason="" if counts else "NVML does not tell",
        remedy="stop the other processes that use this GPU",
    )


def _clock(conditions: Conditions, limits: GateLimits) -> GateCheck:
    clocks = [state.sm_clock_mhz for _, state in conditions.states[1:-1] if state.sm_clock_mhz]
    value = 100 * (max(clocks) - min(clocks)) / max(clocks) if clocks else None
    return GateCheck(
        name="spread of the SM clock",
        value=value,
        limit=limits.clock_spread_pct,
        unit="%",
        passed=value is None or value <= limits.clock_spread_pct,
        reason="" if clocks else "NVML does not tell",
        remedy="lock the card's clocks (nvidia-smi --lock-gpu-clocks), or let it cool",
    )
