"""
Make figures of the same samples in two ways: each part and net by its own samples, or all levelled by the machine's common slowness.

Run:    python benchmarks/levelling.py [--seeds 6] [--rounds 4] [--json benchmarks/results/levelling.json]
        python benchmarks/levelling.py --replay .scratch/profile_latency/<digest> --params params.yaml
Takes:  simulated hosts with slow phases whose truth is known; or the raw rounds that an interrupted or refused profile left, which no
        simulation made, with the parameters that it had
Expect: about a minute; levelled figures leave the predictor at most three quarters of the error on held-out nets
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from support.report import Bar, Report

from dcnas_latency.canary import session_best
from dcnas_latency.estimates import Estimates, Phase, Readings
from dcnas_latency.plan import Alignment
from dcnas_latency.predictor import calibrate
from dcnas_latency.profile import Profiler
from dcnas_latency.rig import RigSample, Subject
from dcnas_latency.samples import LEAST_KEPT
from dcnas_latency.simulated import Law, SimulatedRig
from dcnas_latency.store import SampleStore, phase_name
from dcnas_latency.table import LookupTable
from dcnas_profile_latency.job import Settings, _draw_nets, setting_of
from dcnas_schema.keys import Part
from dcnas_schema.params import ProfileLatencyParams, load_params
from dcnas_schema.space import NET_KINDS

_PRESET = Path(__file__).resolve().parents[1] / "presets/demo.yaml"
_LAW = Law(modulus_gain=0.0, launch_ms=0.05)
_HEADINGS = ("", "MAPE %", "worst kind %", "Spearman", "held-out widths %", "builds differ %", "accepted %")


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What a host does to its guest, in logarithms of time: a wandering load, slow phases, and noise of each sample and part."""

    wander: float
    slow: float
    """Of a slow phase."""
    begins: float
    ends: float
    """Chance at each sample that a slow phase begins, or ends."""
    noise: float
    part_noise: float
    rougher: float
    """By how much both noises grow with the slowness."""
    memory: float = 0.97
    seen: float = 0.7
    """Share of the slowness that the canary shows, beside a noise of 5 % of its own."""
    spikes: float = 0.02
    """Share of calls in which one part is interrupted, for half the call's time in the mean."""


HOSTS = {
    "mild": Host(wander=0.08, slow=0.4, begins=0.01, ends=0.02, noise=0.02, part_noise=0.03, rougher=0.0),
    "contended": Host(wander=0.15, slow=0.6, begins=0.02, ends=0.02, noise=0.03, part_noise=0.05, rougher=4.0),
}


class HostedRig(SimulatedRig):
    """The simulated device on a host."""

    def __init__(self, host: Host, *, seed: int, builds: int) -> None:
        SimulatedRig.__init__(self, law=_LAW, seed=seed, builds=builds)
        self._host, self._random = host, np.random.Generator(np.random.PCG64([seed, 1]))
        self._wander, self._slow = 0.0, False

    def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
        """Return samples in the host's conditions of the moment."""
        return [
            self._disturbed(one) for one in SimulatedRig.sample(self, build, round=round, marked=marked, order=order)
        ]

    def _disturbed(self, sample: RigSample) -> RigSample:
        host, random = self._host, self._random
        self._wander = host.memory * self._wander + np.sqrt(1 - host.memory**2) * host.wander * random.standard_normal()
        self._slow = random.random() > host.ends if self._slow else random.random() < host.begins
        slowness = abs(self._wander) + host.slow * self._slow
        rough = 1 + host.rougher * slowness
        factor = np.exp(slowness + rough * host.noise * random.standard_normal())
        parts = np.array(sample.part_ms) * factor
        parts *= np.exp(rough * host.part_noise * random.standard_normal(len(parts)))
        total = (sample.total_ms - sum(sample.part_ms)) * factor + parts.sum()
        if random.random() < host.spikes:
            interrupted = total * random.exponential(0.5)
            total += interrupted
            if len(parts):
                parts[random.integers(len(parts))] += interrupted
        canary = sample.canary_ms * np.exp(host.seen * slowness + abs(0.05 * random.standard_normal()))
        return replace(sample, total_ms=float(total), part_ms=tuple(parts.tolist()), canary_ms=float(canary))


class _FinalReachedError(Exception):
    """The final phase is there: nothing is to be made of it by the profiler."""


class Capture(Profiler):
    """A profiler that stops when its final phase is measured, or says which subjects that has."""

    final: Phase
    whole: int
    alignment: Alignment
    points: dict[Part, None]
    subjects_only = False

    def _measure_plan(self, curves: object) -> tuple[Alignment, dict[Part, None]]:
        self.alignment, self.points = Profiler._measure_plan(self, curves)  # type: ignore[arg-type] # a stand-in profiler is handed on as one
        return self.alignment, self.points

    def _measure(self, name: str, subjects: list[Subject], *, whole: int, rounds: int) -> Phase:
        if name == "final":
            self.whole, self.final = whole, Phase(subjects=subjects, samples=())
        if name != "final" or not self.subjects_only:
            measured = Profiler._measure(self, name, subjects, whole=whole, rounds=rounds)
        if name == "final":
            self.final = self.final if self.subjects_only else measured
            raise _FinalReachedError
        return measured


def capture(rig: SimulatedRig, settings: Settings, folder: Path | None) -> Capture:
    """Return the profiler when its final phase is measured, or, with a folder of stored rounds, known."""
    params = settings.profile_latency
    made = Capture(
        rig=rig,
        setting=setting_of(settings),
        params=params,
        store=SampleStore(folder=folder),
        learn_canary=session_best,
    )
    made.subjects_only = folder is not None
    try:
        made.run(_draw_nets(params))
    except _FinalReachedError:
        return made
    raise AssertionError("the profiler measures a final phase")


class _Unmeasured(SimulatedRig):
    """A rig that has nothing to measure: all that is asked for must be stored."""

    def load(self, subjects: Sequence[Subject]) -> None:
        raise SystemExit(f"the folder lacks rounds of a phase of {len(subjects)} subjects: other parameters or code?")


def replayed(folder: Path, settings: Settings) -> Capture:
    """Return the final phase whose rounds lie in `folder`, as many as all builds have."""
    builds = settings.profile_latency.builds
    made = capture(_Unmeasured(law=_LAW, builds=builds), settings, folder)
    store, name, samples = SampleStore(folder=folder), phase_name("final", made.final.subjects), []
    for number in range(settings.profile_latency.rounds):
        found = [store.read(name, number, build) for build in range(builds)]
        samples += [sample for one in found if one is not None for sample in one] if None not in found else []
    if not samples:
        raise SystemExit(f"{folder} has no finished round of the final phase")
    made.final = Phase(subjects=made.final.subjects, samples=samples)
    return made


def own_figure(readings: Readings, canary_ms: np.ndarray) -> float:
    """Return the median of the accepted samples, or of the half with the faster canaries where they are too few: nothing levelled."""
    half = -(-len(readings.ms) // 2)
    used = readings.accepted
    if used.sum() < min(LEAST_KEPT, half):
        used = np.isin(np.arange(len(readings.ms)), np.argsort(canary_ms, kind="stable")[:half])
    turns = readings.rounds[used] * 1000 + readings.builds[used]
    return float(np.median([np.median(readings.ms[used][turns == turn]) for turn in np.unique(turns)]))


def judge(made: Capture, params: ProfileLatencyParams, *, levelled: bool) -> list[float]:
    """Return the row of figures that one way of making them gives."""
    final, first = made.final, len(made.final.subjects) - made.whole
    reference = session_best(final.canaries_ms)
    told = Estimates(final, reference_ms=reference, band_pct=params.canary_band_pct)
    if levelled:
        parts = {part: r.summary().median_ms for part, r in told.parts().items()}
        nets = [r.summary().median_ms for r in told.subjects(first)]
        differ = [d for r in told.parts().values() if (d := r.summary().builds_differ_pct) is not None]
    else:
        parts, nets, differ = _own(told, final, first)
    table = LookupTable(
        {p: ms for p, ms in parts.items() if p.mid_channels is None or p in made.points}, modulus=made.alignment.modulus
    )
    held = [p for p in parts if p.mid_channels is not None and p not in made.points]
    widths = np.mean([abs(table.lookup(p) / parts[p] - 1) for p in held]) if held else 0.0
    mape, rank = _nets(made, table, nets, params, first)
    accepted = 1 - sum(told.rejected.values()) / len(final.samples)
    return [
        float(np.mean(mape)),
        max(mape),
        float(np.mean(rank)),
        100 * float(widths),
        float(np.median(differ)),
        100 * accepted,
    ]


def _own(told: Estimates, final: Phase, first: int) -> tuple[dict[Part, float], list[float], list[float]]:
    told._slowness = replace(  # the samples as they were taken
        told._slowness, factor=np.ones(len(final.samples)), within_build=np.ones(len(final.samples))
    )
    canary = np.array(final.canaries_ms)
    subjects = np.array([sample.subject for sample in final.samples])
    of_part: dict[Part, list[float]] = {}
    for sample in final.samples:
        for part, _ in zip(final.subjects[sample.subject].parts, sample.part_ms, strict=False):
            of_part.setdefault(part, []).append(sample.canary_ms)
    readings = told.parts()
    nets = [own_figure(r, canary[subjects == first + i]) for i, r in enumerate(told.subjects(first))]
    differ = [d for r in readings.values() if (d := r.summary().builds_differ_pct) is not None]
    return {part: own_figure(r, np.array(of_part[part])) for part, r in readings.items()}, nets, differ


def _nets(
    made: Capture, table: LookupTable, nets: Sequence[float], params: ProfileLatencyParams, first: int
) -> tuple[list[float], list[float]]:
    """Return mean error in per cent and rank correlation of the held-out nets of each kind."""
    mape, rank = [], []
    for number, kind in enumerate(NET_KINDS):
        mine = list(range(number, len(nets), len(NET_KINDS)))
        sums = [table.total(made.final.subjects[first + i].parts) for i in mine]
        measured = [nets[i] for i in mine]
        fit = calibrate(
            {kind: sums[: params.fit_nets]},
            {kind: measured[: params.fit_nets]},
            confidence=params.confidence,
            full_depth=params.fit_nets,
        )
        predicted = fit.scale[kind] * np.array(sums[params.fit_nets :]) + fit.overhead_ms[kind]
        truth = np.array(measured[params.fit_nets :])
        mape.append(100 * float(np.abs(predicted / truth - 1).mean()))
        rank.append(float(spearmanr(predicted, truth).statistic))
    return mape, rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="simulated runs of each host")
    parser.add_argument("--rounds", type=int, default=4, help="times that each of two builds times each subject")
    parser.add_argument("--replay", type=Path, help="folder of the raw rounds of a real profile")
    parser.add_argument("--params", type=Path, default=_PRESET, help="parameters of that profile")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    params = load_params(arguments.params)
    settings = Settings(device=params.device, profile_latency=params.profile_latency)
    report = Report("levelling", settings, torch.device("cpu"), hidden=[str(arguments.replay)])
    if arguments.replay is not None:
        runs = {"replayed": [replayed(arguments.replay, settings)]}
    else:
        changes = {"runtime": "simulated", "rounds": arguments.rounds}
        settings = settings.model_copy(update={"profile_latency": params.profile_latency.model_copy(update=changes)})
        runs = {
            name: [capture(HostedRig(host, seed=seed, builds=2), settings, None) for seed in range(arguments.seeds)]
            for name, host in HOSTS.items()
        }
    rows, bars = [], []
    for name, captured in runs.items():
        both = [
            np.mean([judge(one, settings.profile_latency, levelled=way) for one in captured], axis=0)
            for way in (False, True)
        ]
        rows += [
            [f"{name}, {way}", *(f"{x:.2f}" for x in row)]
            for way, row in zip(("own samples", "levelled"), both, strict=True)
        ]
        share = float(both[1][0] / both[0][0])
        bars.append(
            Bar(what=f"{name}: mean error, levelled over own samples", value=share, sense="at most", limit=0.75)
        )
    results = [dict(zip(("run", *_HEADINGS[1:]), row, strict=True)) for row in rows]
    report.finish(_HEADINGS, rows, bars, results, arguments.json)


if __name__ == "__main__":
    main()
