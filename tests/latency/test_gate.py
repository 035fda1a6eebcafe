"""The noise gate: it opens and closes where the disturbance says, and a closed one names every reason and remedy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcnas_harness.errors import ExitCode, UnfitEnvironmentError
from dcnas_latency.canary import session_best
from dcnas_latency.gate import (
    REJECTED_THROTTLE_BITS,
    Conditions,
    build_gate,
    describe,
    drift_of,
    judged_anew,
    require_passed,
)
from dcnas_latency.profile import NetSample, Profile, Profiler
from dcnas_latency.rig import RigSample
from dcnas_latency.seen import REJECTED
from dcnas_latency.simulated import Law, SimulatedRig
from dcnas_latency.store import SampleStore
from dcnas_schema.latency import Gate, GateCheck, LatencySetting
from dcnas_schema.params import GateLimits, ProfileLatencyParams, load_params
from dcnas_schema.provenance import DeviceState
from dcnas_schema.sampling import random_genotype
from dcnas_schema.space import OP_SETS

SMOKE = Path(__file__).resolve().parents[2] / "presets/smoke.yaml"
BUILDS, ACCEPTED, USED_ALL, DRIFT, SLOW, OTHERS, PREDICTOR, PLAN, THROTTLE, STRANGERS, CLOCK = (
    "two interleaved builds differ by (median entry)",
    "samples accepted, at least",
    "entries made of rejected samples too",
    "drift from the first third of the rounds to the last",
    "reference op slower than on this machine's good days, even in quiet moments, by",
    "processor time taken by other programs",
    "mean error of the predictor on held-out nets (worst kind)",
    "mean error of the table at held-out widths",
    "throttle reasons seen",
    "other processes on the GPU",
    "spread of the SM clock while timed",
)
LIMITS = GateLimits(
    builds_differ_pct=5.0,
    accepted_pct=65.0,
    used_all_pct=40.0,
    slow_pct=5.0,
    drift_pct=5.0,
    others_pct=5.0,
    clock_spread_pct=3.0,
    mape_pct=5.0,
    plan_pct=5.0,
)
QUIET = DeviceState(load_average=0.0)
SAMPLES = 39 * 10 * 2
"""Calls of the final phase of the profiles made here: by which share a drift grows in it."""


@dataclass(kw_only=True, slots=True)
class Grainy(SimulatedRig):
    """A simulated device whose whole nets cost what no table tells: each call's genotype shifts it by up to `grain`."""

    grain: float = 0.0

    def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
        """Return samples; whole nets are shifted by a share that is their own."""
        # not super(): a dataclass with slots is made anew, and super() would look in the class from before
        samples = SimulatedRig.sample(self, build, round=round, marked=marked, order=order)
        return [one if marked else self._shifted(one) for one in samples]

    def _shifted(self, sample: RigSample) -> RigSample:
        shift = 1 + self.grain * float(np.random.Generator(np.random.PCG64(sample.subject)).uniform(-1, 1))
        return replace(sample, total_ms=sample.total_ms * shift)


@cache
def params() -> ProfileLatencyParams:
    """Return the parameters of a small profile."""
    section = load_params(SMOKE).profile_latency
    return section.model_copy(update={"ops": 4, "rounds": 10, "canary_band_pct": 15.0})


def profiled(law: Law, grain: float = 0.0, rig: SimulatedRig | None = None) -> Profile:
    """Return the profile of a disturbed device, which has no steps: its plan is half as long."""
    law = replace(law, modulus_gain=0.0)
    section, random = params(), np.random.Generator(np.random.PCG64(2))
    nets = [random_genotype(random, ops=OP_SETS[4]) for _ in range(8)]
    setting = LatencySetting(
        runtime="simulated",
        batch=1,
        precision="fp32",
        memory_format="contiguous",
        height=224,
        width=224,
        classes=10,
        threads=1,
    )
    profiler = Profiler(
        rig=rig or Grainy(law=law, grain=grain),
        setting=setting,
        params=section,
        store=SampleStore(folder=None),
        learn_canary=session_best,
    )
    return profiler.run(NetSample(fit=nets[:4], held_out=nets[4:]))


def gate_of(
    profile: Profile,
    *,
    others: float | None = 0.0,
    states: Sequence[DeviceState] = (QUIET,),
    cuda: bool = False,
    allow_noisy: bool = False,
    **conditions: Any,
) -> Gate:
    """Return the gate's verdict over a profile; what was timed lies between the first and the last state."""
    return build_gate(
        summaries=profile.summaries,
        samples=profile.net_samples,
        rejected=profile.rejected,
        accuracy=profile.accuracy,
        plan=profile.plan,
        conditions=Conditions(
            states=[(float(number), state) for number, state in enumerate(states)],
            timed=[(0.5, len(states) - 1.5)],
            others_share=others,
            cuda=cuda,
            **conditions,
        ),
        limits=LIMITS,
        allow_noisy=allow_noisy,
    )


def failed(gate: Gate) -> set[str]:
    """Return the names of the checks that failed."""
    return {check.name for check in gate.checks if not check.passed}


def found(gate: Gate, name: str) -> GateCheck:
    """Return a check by its name."""
    (check,) = (check for check in gate.checks if check.name == name)
    return check


@pytest.fixture(scope="module")
def calm() -> Profile:
    """The profile of a device with a little noise only."""
    return profiled(Law(noise=0.005))


@pytest.mark.parametrize(
    ("law", "grain", "closed"),
    [
        (Law(build_bias=0.03, contention=0.25, drift_per_sample=0.02 / SAMPLES, noise=0.005), 0.015, set()),
        (Law(build_bias=0.08), 0.0, {BUILDS}),
        (Law(contention=0.42), 0.0, {ACCEPTED}),
        (Law(drift_per_sample=0.12 / SAMPLES), 0.0, {DRIFT}),
        (Law(), 0.2, {PREDICTOR}),
        (Law(build_bias=0.06, contention=0.42), 0.0, {BUILDS, ACCEPTED}),
    ],
    ids=["all below the limits", "builds", "contention", "drift", "predictor", "builds and contention"],
)
def test_the_gate_closes_for_what_disturbed_the_device(law: Law, grain: float, closed: set[str]) -> None:
    """Below its limit each disturbance passes, beyond it the check of its name and no other fails, with the figure injected."""
    gate = gate_of(profiled(law, grain))
    assert failed(gate) == closed
    assert found(gate, ACCEPTED).value == pytest.approx(100 * (1 - law.contention), abs=4)
    assert found(gate, BUILDS).value == pytest.approx(100 * law.build_bias / (1 + law.build_bias / 2), abs=1.2)
    assert found(gate, DRIFT).value == pytest.approx(100 * 2 / 3 * law.drift_per_sample * SAMPLES, abs=1.0)


def test_the_figures_of_a_calm_device_are_small(calm: Profile) -> None:
    """Nothing but noise: all checks pass, everything was accepted, and the figures are those of the noise."""
    gate = gate_of(calm)
    assert gate.passed
    assert [check.name for check in gate.checks] == [BUILDS, ACCEPTED, USED_ALL, DRIFT, SLOW, OTHERS, PREDICTOR, PLAN]
    assert found(gate, ACCEPTED).value == 100.0
    assert 0 < (found(gate, BUILDS).value or 0) < 1.0
    assert 0 < (found(gate, DRIFT).value or 0) < 1.0


def test_a_single_build_does_not_pass(calm: Profile) -> None:
    """Nothing to compare is no agreement; the remedy is to measure two."""
    summaries = [replace(summary, builds_ms=summary.builds_ms[:1], builds=1) for summary in calm.summaries]
    one = replace(calm, summaries=tuple(summaries))
    check = found(gate_of(one), BUILDS)
    assert (check.value, check.passed) == (None, False)
    assert "builds: 2" in check.remedy


def test_a_build_without_accepted_samples_asks_for_quiet_not_for_another_build(calm: Profile) -> None:
    """Two builds were measured, one of them in noise alone: to set what is set already would be no remedy."""
    summaries = [replace(summary, builds_ms=summary.builds_ms[:1]) for summary in calm.summaries]
    check = found(gate_of(replace(calm, summaries=tuple(summaries))), BUILDS)
    assert (check.value, check.passed) == (None, False)
    assert "accepted samples of two builds" in check.reason
    assert "builds: 2" not in check.remedy
    assert "close other programs" in check.remedy


@pytest.mark.parametrize(("error", "held_out", "passed"), [(5.0, 20, True), (5.1, 20, False), (0.0, 0, False)])
def test_a_table_that_is_off_between_its_points_closes_the_gate(
    calm: Profile, error: float, held_out: int, passed: bool
) -> None:
    """A plan whose points lie in line may still be off between them: the widths held out decide, and none tells nothing."""
    plan = calm.plan.model_copy(update={"mean_error_pct": error, "held_out": held_out})
    gate = gate_of(replace(calm, plan=plan))
    assert failed(gate) == (set() if passed else {PLAN})
    assert found(gate, PLAN).value == (error if held_out else None)


@pytest.mark.parametrize(("share", "passed"), [(0.0, True), (0.05, True), (0.051, False), (1.0, False), (None, True)])
def test_other_programs_close_the_gate(calm: Profile, share: float | None, passed: bool) -> None:
    """Five per cent of the processors may be others'; a machine that does not tell is noted, with the reason."""
    check = found(gate_of(calm, others=share), OTHERS)
    assert check.passed == passed
    assert check.value == (None if share is None else pytest.approx(100 * share))
    assert bool(check.reason) == (share is None)


def test_the_reasons_of_rejection_are_told(calm: Profile) -> None:
    """How many samples were rejected for what stands beside the accepted share."""
    gate = build_gate(
        summaries=[],
        samples=[],
        rejected=Counter({"run delay": 2, "canary": 3}),
        accuracy=calm.accuracy,
        plan=calm.plan,
        conditions=Conditions(states=[], timed=[], others_share=0.0, cuda=False),
        limits=LIMITS,
        allow_noisy=False,
    )
    assert found(gate, ACCEPTED).reason == "3 rejected for canary, 2 rejected for run delay"
    assert not found(gate, ACCEPTED).passed
    assert (found(gate, DRIFT).value, found(gate, DRIFT).passed) == (None, False)


def test_rejected_samples_tell_no_drift() -> None:
    """A neighbour that comes in the last third, seen by the canary, is no drift of the device: what is left of the samples is steady."""
    section, law = params(), Law(noise=0.005, modulus_gain=0.0)

    @dataclass(kw_only=True, slots=True)
    class Late(SimulatedRig):
        """A device whose every second sample is disturbed in the last rounds."""

        def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
            """Return samples."""
            # not super(): a dataclass with slots is made anew, and super() would look in the class from before
            samples = SimulatedRig.sample(self, build, round=round, marked=marked, order=order)
            late = round >= section.rounds * 2 // 3
            return [
                replace(one, total_ms=1.5 * one.total_ms, canary_ms=1.5 * one.canary_ms) if late and i % 2 else one
                for i, one in enumerate(samples)
            ]

    drift = drift_of(profiled(law, rig=Late(law=law)).net_samples)
    assert drift is not None
    assert abs(drift) < 0.01


def net_sample(subject: int, round: int, ms: float) -> RigSample:
    """Return a sample of a whole net."""
    return RigSample(
        subject=subject,
        build=0,
        round=round,
        total_ms=ms,
        part_ms=(),
        canary_ms=1.0,
        page_faults=0,
        run_delay_ms=0.0,
        wall_ms=ms,
        enqueue_ms=None,
    )


@pytest.mark.parametrize(("rounds", "drift"), [(3, 0.2), (6, 1.45 / 1.05 - 1), (1, None)])
def test_drift_compares_the_first_third_with_the_last(rounds: int, drift: float | None) -> None:
    """Large and small nets count alike; the middle rounds do not, and a single round tells of no drift."""
    samples = [net_sample(s, r, ms * (1 + 0.1 * r)) for s, ms in ((7, 1.0), (8, 100.0)) for r in range(rounds)]
    assert drift_of(samples) == pytest.approx(drift)


def test_getting_faster_is_drift_too(calm: Profile) -> None:
    """A device that warms up from a slow start is not steady either."""
    samples = [net_sample(0, r, 1.2 - 0.1 * r) for r in range(3)]
    assert drift_of(samples) == pytest.approx(-1 / 6)
    assert failed(gate_of(replace(calm, net_samples=tuple(samples)))) == {DRIFT}


def gpu(**changes: Any) -> DeviceState:
    """Return the state of a GPU at work."""
    fields = {"throttle_reasons": 0, "other_processes": 0, "sm_clock_mhz": 1980}
    return DeviceState(**{**fields, **changes})


IDLE = gpu(sm_clock_mhz=345, throttle_reasons=0x1)


@pytest.mark.parametrize("bits", [0x0, 0x1, 0x2, 0x10, 0x100, 0x103])
def test_idling_and_clock_settings_are_no_throttling(calm: Profile, bits: int) -> None:
    """Idle, application clocks, sync boost and the display's clock slow no timing."""
    gate = gate_of(calm, cuda=True, states=[IDLE, gpu(throttle_reasons=bits), IDLE])
    assert failed(gate) == set()
    assert [check.name for check in gate.checks][-3:] == [THROTTLE, STRANGERS, CLOCK]
    assert found(gate, THROTTLE).value == 0.0


@pytest.mark.parametrize("bits", [*REJECTED, 0x4 | 0x1, 0x804])
def test_a_throttled_gpu_closes_the_gate(calm: Profile, bits: int) -> None:
    """One state of many with a power cap, a thermal slowdown or a brake is enough; the raw bits are told."""
    gate = gate_of(calm, cuda=True, states=[gpu(), gpu(throttle_reasons=bits), gpu(), gpu()])
    assert failed(gate) == {THROTTLE}
    assert f"{bits:#x}" in found(gate, THROTTLE).reason


def test_the_bits_that_reject_are_those_of_the_header() -> None:
    """Power caps, slowdowns, brake, board and reliability limits of nvml.h; clock settings and idling are none of them."""
    assert REJECTED_THROTTLE_BITS == 0x6EC


def test_a_slowdown_between_two_looks_closes_the_gate(calm: Profile) -> None:
    """No look saw it, but a counter rose: that is told by name."""
    gate = gate_of(calm, cuda=True, states=[gpu()] * 4, counters_rise={"hw_thermal": 5_000_000})
    assert failed(gate) == {THROTTLE}
    assert "counter hw_thermal rose" in found(gate, THROTTLE).reason


def test_other_processes_on_the_gpu_close_the_gate(calm: Profile) -> None:
    """One other process at one moment is too many."""
    gate = gate_of(calm, cuda=True, states=[gpu(), gpu(other_processes=1), gpu()])
    assert failed(gate) == {STRANGERS}
    assert found(gate, STRANGERS).value == 1.0


@pytest.mark.parametrize(("least", "passed"), [(1980, True), (1930, True), (1900, False)])
def test_a_wandering_clock_closes_the_gate(calm: Profile, least: int, passed: bool) -> None:
    """The clock may spread by 3 % while it is timed; how it idles before and after does not matter."""
    gate = gate_of(calm, cuda=True, states=[IDLE, gpu(), gpu(sm_clock_mhz=least), gpu(), IDLE])
    assert found(gate, CLOCK).passed == passed
    assert found(gate, CLOCK).value == pytest.approx(100 * (1980 - least) / 1980)


def test_the_clock_counts_only_while_samples_are_taken(calm: Profile) -> None:
    """Between two spans nets were loaded and the card idled: that is no wandering."""
    states = [gpu(), gpu(), IDLE, IDLE, gpu(), gpu()]
    gate = build_gate(
        summaries=calm.summaries,
        samples=calm.net_samples,
        rejected=calm.rejected,
        accuracy=calm.accuracy,
        plan=calm.plan,
        conditions=Conditions(
            states=[(float(number), state) for number, state in enumerate(states)],
            timed=[(0.0, 1.5), (3.5, 5.0)],
            others_share=0.0,
            cuda=True,
        ),
        limits=LIMITS,
        allow_noisy=False,
    )
    assert found(gate, CLOCK).value == 0.0
    assert failed(gate) == set()


def test_a_gpu_that_tells_nothing_passes_and_is_not_trusted(calm: Profile) -> None:
    """Without NVML the events still work: the gate stays open, three checks say that nobody told, and the verdict carries it."""
    gate = gate_of(calm, cuda=True, states=[QUIET, QUIET, QUIET])
    assert (gate.passed, gate.trusted, gate.untold) == (True, False, (THROTTLE, STRANGERS, CLOCK))
    assert "NOT TRUSTED" in gate.verdict
    for name in (THROTTLE, STRANGERS, CLOCK):
        assert (found(gate, name).value, found(gate, name).reason) == (None, "NVML does not tell")
        assert "nvidia-ml-py" in found(gate, name).remedy


def test_a_host_that_tells_nothing_is_treated_alike(calm: Profile) -> None:
    """A system without /proc is no reason to refuse, nor one to trust."""
    gate = gate_of(calm, others=None)
    assert (gate.passed, gate.trusted, gate.untold) == (True, False, (OTHERS,))
    assert (gate_of(calm).trusted, gate_of(calm).verdict) == (True, "passed")


def test_a_clock_that_nobody_looked_at_while_timed_does_not_pass(calm: Profile) -> None:
    """A card that tells its clock, but at no moment that was timed: that is no silence of the machine."""
    gate = gate_of(calm, cuda=True, states=[gpu(), gpu()])
    assert failed(gate) == {CLOCK}
    assert found(gate, CLOCK).told


@pytest.mark.parametrize(("kept", "share"), [(10, 0.0), (9, 100.0)])
def test_entries_made_of_rejected_samples_close_the_gate(calm: Profile, kept: int, share: float) -> None:
    """Where fewer than half of an entry's samples were accepted all of them make it, and the gate must not call that accepted."""
    summaries = [replace(summary, raw=20, kept=kept) for summary in calm.summaries]
    gate = build_gate(
        summaries=summaries,
        samples=calm.net_samples,
        rejected=calm.rejected,
        accuracy=calm.accuracy,
        plan=calm.plan,
        conditions=Conditions(states=[], timed=[], others_share=0.0, cuda=False),
        limits=LIMITS.model_copy(update={"accepted_pct": 25.0}),
        allow_noisy=False,
    )
    assert found(gate, USED_ALL).value == share
    assert failed(gate) == ({USED_ALL} if share else set())


def test_a_machine_that_is_slow_throughout_closes_the_gate(calm: Profile) -> None:
    """Steady, but even in its quiet moments slower than on its good days: a table that later measurements will not meet."""
    gate = gate_of(calm, session_slow_pct=12.0)
    assert failed(gate) == {SLOW}
    assert found(gate, SLOW).value == 12.0


def test_a_stored_gate_is_judged_by_the_limits_of_today(calm: Profile) -> None:
    """Figures stay, limits and verdict are new; what no parameter limits, or has no figure, stays as it was."""
    gate = gate_of(calm, others=0.04, cuda=True, states=[gpu(), gpu(throttle_reasons=0x8), gpu(), gpu()])
    strict = judged_anew(gate, LIMITS.model_copy(update={"others_pct": 3.0, "accepted_pct": 100.0}), allow_noisy=False)
    assert failed(strict) == {OTHERS, THROTTLE}
    assert (found(strict, OTHERS).value, found(strict, OTHERS).limit) == (pytest.approx(4.0), 3.0)
    assert judged_anew(strict, LIMITS, allow_noisy=False) == gate


@pytest.mark.parametrize(("used_gb", "passed"), [(0.6, True), (1.5, True), (7.0, False)])
def test_where_processes_are_hidden_memory_tells_of_others(calm: Profile, used_gb: float, passed: bool) -> None:
    """A container may hide the list: a card that was empty before we came was nobody's."""
    states = [gpu(other_processes=None)] * 4
    gate = gate_of(calm, cuda=True, states=states, used_before_gb=used_gb)
    assert failed(gate) == (set() if passed else {STRANGERS})
    assert f"{used_gb:g} GB" in found(gate, STRANGERS).reason


def test_a_closed_gate_refuses_with_every_reason_and_remedy(calm: Profile) -> None:
    """Exit 3; each failed check is named with its figure and limit, each remedy once, and the way to write it nevertheless."""
    states = [gpu(throttle_reasons=0x8), gpu(other_processes=2), gpu(sm_clock_mhz=1000), gpu(), gpu()]
    gate = gate_of(calm, cuda=True, others=0.5, states=states)
    with pytest.raises(UnfitEnvironmentError) as caught:
        require_passed(gate)
    assert caught.value.exit_code == ExitCode.UNFIT_ENVIRONMENT
    message = str(caught.value)
    for name in (OTHERS, THROTTLE, STRANGERS, CLOCK):
        assert describe(found(gate, name)) in message
        assert message.count(found(gate, name).remedy) == 1
    assert BUILDS not in message
    assert "allow_noisy: true" in message


def test_allowed_noise_is_let_through_and_marked(calm: Profile) -> None:
    """The verdict stays closed and carries the flag; an open gate needs none."""
    gate = gate_of(calm, others=0.5, allow_noisy=True)
    require_passed(gate)
    assert (gate.passed, gate.allow_noisy) == (False, True)
    require_passed(gate_of(calm))


def test_a_check_is_described_in_one_line() -> None:
    """Name, figure with unit, limit and reason; a figure that is not told is said to be so."""
    check = GateCheck(name="clock", value=1.23456, limit=3.0, unit="%", passed=True)
    assert describe(check) == "clock: 1.23 %, limit 3 %"
    untold = check.model_copy(update={"value": None, "unit": "", "reason": "NVML does not tell"})
    assert describe(untold) == "clock: not told by this machine, limit 3 (NVML does not tell)"
