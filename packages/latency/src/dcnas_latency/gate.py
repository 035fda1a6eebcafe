"""The noise gate: the conditions under which a profile may be believed, each with its figure, its limit and what to do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_latency.rig import RigSample
from dcnas_latency.samples import Summary
from dcnas_latency.seen import REJECTED, summarise, throttled
from dcnas_schema.latency import Accuracy, Gate, GateCheck, PlanReport
from dcnas_schema.params import GateLimits
from dcnas_schema.provenance import DeviceState

REJECTED_THROTTLE_BITS = sum(REJECTED)
"""NVML clock event reasons that slow a timing: power caps, thermal and hardware slowdown, power brake, board and reliability limits."""
_QUIET = "close other programs or wait until they end, then run the same command again: it measures anew"
_SILENT = "NVML does not tell"
_HEAR_NVML = "install the driver's NVML and the package nvidia-ml-py, or run outside of a container that hides them"
_AT_LEAST = ("accepted_pct",)
"""Limits that a figure must reach, where others must not be passed."""
_IDLE_GB = 1.5
"""GPU memory that a driver may hold before any program came: more than that is somebody's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """How the device was while it was timed."""

    states: Sequence[tuple[float, DeviceState]]
    """Seconds since the start, and the device then."""
    timed: Sequence[tuple[float, float]]
    """Begin and end, in seconds since the start, of the spans in which samples were taken: a GPU's clock idles while nets are loaded."""
    others_share: float | None
    """Share of all processors' time that went to other programs, 0 to 1; `None` where the system does not tell."""
    cuda: bool
    counters_rise: Mapping[str, int] = field(default_factory=dict)
    """Time in ns, by reason, that a GPU was slowed in the runs that measured, as its counters tell; they miss nothing between two looks."""
    used_before_gb: float | None = None
    """Memory of the GPU in use before we came; it tells of other programs where a container hides their list."""
    session_slow_pct: float = 0.0
    """`Profile.session_slow_pct`."""


def build_gate(
    *,
    summaries: Sequence[Summary],
    samples: Sequence[RigSample],
    rejected: Counter[str],
    accuracy: Sequence[Accuracy],
    plan: PlanReport,
    conditions: Conditions,
    limits: GateLimits,
    allow_noisy: bool,
) -> Gate:
    """
    Return the verdict.

    What a machine does not tell closes no gate: the check says so, and the profile is not trusted (`Gate.trusted`).

    Args:
        summaries: Of every entry of the table.

        samples: Accepted samples of the whole nets, in the order taken: they tell drift.

        rejected: Samples rejected by reason, of `accepted` + `rejected` in all.
    """
    checks = [
        _builds_agree(summaries, limits),
        _accepted(summaries, rejected, limits),
        _used_all(summaries, limits),
        _drift(samples, limits),
        _slow(conditions.session_slow_pct, limits),
        _others(conditions, limits),
        _predictor(accuracy, limits),
        _plan(plan, limits),
    ]
    if conditions.cuda:
        checks += [_throttle(conditions), _strangers(conditions), _clock(conditions, limits)]
    return Gate(checks=tuple(checks), allow_noisy=allow_noisy)


def judged_anew(gate: Gate, limits: GateLimits, *, allow_noisy: bool) -> Gate:
    """Return the verdict of other limits over the figures of a stored gate; checks without a figure or a limit's name stay as they are."""
    checks = []
    for check in gate.checks:
        if check.limit_name is not None and check.value is not None:
            limit = float(getattr(limits, check.limit_name))
            inside = check.value >= limit if check.limit_name in _AT_LEAST else check.value <= limit
            checks.append(check.model_copy(update={"limit": limit, "passed": inside}))
        else:
            checks.append(check)
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
    one = max((summary.builds for summary in summaries), default=0) < 2
    reason = "fewer than two builds were measured" if one else "no entry has accepted samples of two builds"
    return GateCheck(
        name="two interleaved builds differ by (median entry)",
        limit_name="builds_differ_pct",
        value=value,
        limit=limits.builds_differ_pct,
        unit="%",
        passed=value is not None and value <= limits.builds_differ_pct,
        reason="" if differences else reason,
        remedy="set profile_latency.builds: 2" if one and not differences else _QUIET,
    )


def _accepted(summaries: Sequence[Summary], rejected: Counter[str], limits: GateLimits) -> GateCheck:
    raw = sum(summary.raw for summary in summaries)
    value = 100 * sum(summary.kept for summary in summaries) / max(raw, 1)
    return GateCheck(
        name="samples accepted, at least",
        limit_name="accepted_pct",
        value=value,
        limit=limits.accepted_pct,
        unit="%",
        passed=value >= limits.accepted_pct,
        reason=", ".join(f"{count} rejected for {reason}" for reason, count in sorted(rejected.items())),
        remedy=_QUIET,
    )


def _used_all(summaries: Sequence[Summary], limits: GateLimits) -> GateCheck:
    value = 100 * sum(summary.used_all for summary in summaries) / max(len(summaries), 1)
    return GateCheck(
        name="entries made of rejected samples too",
        limit_name="used_all_pct",
        value=value,
        limit=limits.used_all_pct,
        unit="%",
        passed=value <= limits.used_all_pct,
        reason="fewer than half of their samples were accepted" if value else "",
        remedy=_QUIET,
    )


def _slow(session_slow_pct: float, limits: GateLimits) -> GateCheck:
    return GateCheck(
        name="reference op slower than on this machine's good days, even in quiet moments, by",
        limit_name="slow_pct",
        value=session_slow_pct,
        limit=limits.slow_pct,
        unit="%",
        passed=session_slow_pct <= limits.slow_pct,
        remedy="wait until the machine is as fast as it can be: neighbours on its host, heat or a power cap slow it throughout",
    )


def _drift(samples: Sequence[RigSample], limits: GateLimits) -> GateCheck:
    drift = drift_of(samples)
    value = None if drift is None else 100 * abs(drift)
    return GateCheck(
        name="drift from the first third of the rounds to the last",
        limit_name="drift_pct",
        value=value,
        limit=limits.drift_pct,
        unit="%",
        passed=value is not None and value <= limits.drift_pct,
        reason="no net has accepted samples in both" if value is None else "",
        remedy=_QUIET
        if value is None
        else "let the device reach a steady temperature and load, then run the same command again",
    )


def drift_of(samples: Sequence[RigSample]) -> float | None:
    """Return by which share subjects are slower in the last third of the rounds than in the first: median over subjects with both."""
    if not samples:
        return None
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
    return float(np.median(ratios)) - 1 if ratios else None


def _others(conditions: Conditions, limits: GateLimits) -> GateCheck:
    share = conditions.others_share
    return GateCheck(
        name="processor time taken by other programs",
        limit_name="others_pct",
        told=share is not None,
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
        limit_name="mape_pct",
        value=worst.mape_pct,
        limit=limits.mape_pct,
        unit="%",
        passed=worst.mape_pct <= limits.mape_pct,
        reason=worst.kind,
        remedy="raise profile_latency.rounds and fit_nets; a runtime that fuses across parts needs more nets to fit",
    )


def _plan(plan: PlanReport, limits: GateLimits) -> GateCheck:
    return GateCheck(
        name="mean error of the table at held-out widths",
        limit_name="plan_pct",
        value=plan.mean_error_pct if plan.held_out else None,
        limit=limits.plan_pct,
        unit="%",
        passed=plan.held_out > 0 and plan.mean_error_pct <= limits.plan_pct,
        reason="" if plan.held_out else "none was held out",
        remedy="raise profile_latency.generations and most_entries, or lower tolerance_pct: points in line with their neighbours may "
        "still stand on a staircase; where the other checks fail too, it may be noise",
    )


def _throttle(conditions: Conditions) -> GateCheck:
    states = [state for _, state in conditions.states]
    heard = any(state.throttle_reasons is not None for state in states)
    bits = summarise(states).bits
    slowed = [*throttled(bits), *(f"counter {name} rose" for name in conditions.counters_rise)]
    told = f"NVML reported {bits:#x}" + (f": {', '.join(slowed)}" if slowed else "")
    return GateCheck(
        name="throttle reasons seen",
        value=float(len(slowed)) if heard or slowed else None,
        limit=0,
        unit="",
        passed=not slowed,
        told=bool(heard or slowed),
        reason=told if heard or slowed else _SILENT,
        remedy="let the card cool, raise its power cap, or lock its clocks" if heard or slowed else _HEAR_NVML,
    )


def _strangers(conditions: Conditions) -> GateCheck:
    most = summarise([state for _, state in conditions.states]).other_processes
    used = conditions.used_before_gb
    told = most is not None or used is not None
    alone = most == 0 if most is not None else used is None or used <= _IDLE_GB
    hidden = _SILENT if used is None else f"NVML lists no processes here, but {used:g} GB were in use before we came"
    return GateCheck(
        name="other processes on the GPU",
        value=None if most is None else float(most),
        limit=0,
        unit="",
        passed=alone,
        told=told,
        reason=hidden if most is None else "",
        remedy=_HEAR_NVML if most is None and used is None else "stop the other processes that use this GPU",
    )


def _clock(conditions: Conditions, limits: GateLimits) -> GateCheck:
    timed = [state for when, state in conditions.states if any(a <= when <= b for a, b in conditions.timed)]
    value = summarise(timed).clock_spread_pct
    told = any(state.sm_clock_mhz is not None for _, state in conditions.states)
    return GateCheck(
        name="spread of the SM clock while timed",
        limit_name="clock_spread_pct",
        told=told,
        value=value,
        limit=limits.clock_spread_pct,
        unit="%",
        passed=value <= limits.clock_spread_pct if value is not None else not told,
        reason="" if value is not None else "no look fell into the time that was timed" if told else _SILENT,
        remedy=_HEAR_NVML if not told else "lock the card's clocks (nvidia-smi --lock-gpu-clocks), or let it cool",
    )
