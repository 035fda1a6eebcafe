"""
A latency profile from a rig: which subjects are timed in which order, and what their samples make.

First a few rounds scout: probes for the alignment, then generations of the adaptive plan. What they decide to measure is then measured in
one final phase, the table's points, the held-out widths and the whole nets together: round by round and build by build, in an order
drawn anew, so that what changes on the machine meets all of them alike. Only the final phase makes the profile.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dcnas_harness.console import progress
from dcnas_latency.canary import session_best
from dcnas_latency.estimates import Estimates, Phase
from dcnas_latency.packing import pack, whole_net
from dcnas_latency.plan import (
    Alignment,
    Curve,
    curves_of,
    detect_alignment,
    first_points,
    held_out_points,
    probe_runs,
    refine,
)
from dcnas_latency.predictor import Predictor, accuracy_by_depth, accuracy_of, calibrate
from dcnas_latency.rig import Rig, RigSample, Subject
from dcnas_latency.samples import Summary, attained_confidence
from dcnas_latency.slowness import QUIET_SHARE
from dcnas_latency.store import SampleStore, phase_name
from dcnas_latency.table import LookupTable
from dcnas_schema.genotype import Genotype, is_full_depth
from dcnas_schema.keys import Part
from dcnas_schema.latency import (
    Accuracy,
    Calibration,
    DepthAccuracy,
    Entry,
    LatencySetting,
    NetTiming,
    PlanReport,
    ReferenceTiming,
)
from dcnas_schema.params import ProfileLatencyParams
from dcnas_schema.space import NET_KINDS, OP_SETS, NetKind

_LEAST_SCOUT_ROUNDS, _SCOUT_SHARE = 3, 4
"""Scouting takes a quarter of the rounds, at least three."""
_TURN = 12
"""Subjects between two changes from marks to none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetSample:
    """Random genotypes of the space, of full depth and of less: those that the calibration is fitted on, and those that test it."""

    fit: Sequence[Genotype]
    held_out: Sequence[Genotype]


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What was measured and derived, before card and provenance are added."""

    entries: tuple[Entry, ...]
    nets: tuple[NetTiming, ...]
    references: tuple[ReferenceTiming, ...]
    """Nets of the literature that the parameters name."""
    plan: PlanReport
    calibration: Calibration
    accuracy: tuple[Accuracy, ...]
    depths: tuple[DepthAccuracy, ...]
    summaries: tuple[Summary, ...]
    """Of the entries, in their order."""
    net_samples: tuple[RigSample, ...]
    """Accepted ones of the whole nets, as they were taken."""
    rejected: Counter[str]
    canary_reference_ms: float
    session_slow_pct: float
    """How far above its reference the canary was even in the quiet moments of the final phase; at least 0."""
    interval_confidence: float
    """What the intervals of the entries' medians attain."""


@dataclass(kw_only=True)
class Profiler:
    """Measures one setting of one device through `rig`."""

    rig: Rig
    setting: LatencySetting
    params: ProfileLatencyParams
    store: SampleStore
    learn_canary: Callable[[Sequence[float]], float]
    """Takes canary times in ms and returns the reference: what they are on this machine's good days."""
    on_round: Callable[[], None] = lambda: None
    """Called after every round of a build that was measured, before it is stored: the caller watches the device."""
    on_turn: Callable[[Sequence[RigSample], float], None] = lambda _samples, _seconds: None
    """Called with every few samples when they have been taken, and the seconds that they took."""
    _scouts: list[Phase] = field(default_factory=list)

    def run(self, nets: NetSample) -> Profile:
        """Measure and return the whole profile."""
        params, setting = self.params, self.setting
        curves = curves_of(
            OP_SETS[params.ops], height=setting.height, width=setting.width, width_multiple=params.width_multiple
        )
        alignment, points = self._measure_plan(curves)
        held_out = held_out_points(
            curves,
            dict.fromkeys(points, 0.0),
            count=params.held_out_widths,
            generator=np.random.Generator(np.random.PCG64([params.seed, 1])),
        )
        parts = self._subjects([*points, *held_out], fixed=True)
        whole, uses = self._whole_nets(nets)
        references = [Subject(kind=None, parts=(), genotype=None, reference=net) for net in params.references]
        unmarked = [*whole, *references]
        final = self._measure("final", [*parts, *unmarked], whole=len(unmarked), rounds=params.rounds)
        reference = self._reference(final)
        estimates = Estimates(final, reference_ms=reference, band_pct=params.canary_band_pct)
        entries, summaries = _entries(estimates, points, set(held_out))
        table = LookupTable.of(entries, modulus=alignment.modulus, stairs=alignment.stairs)
        measured = [readings.summary() for readings in estimates.subjects(len(parts))]
        timings, calibration = _timings(measured[: len(whole)], whole, uses, table, confidence=params.confidence)
        unseen = {kind: [t for t in timings if t.kind == kind and t.use == "held_out"] for kind in NET_KINDS}
        return Profile(
            entries=entries,
            nets=timings,
            references=_reference_timings(references, measured[len(whole) :], params.limits.builds_differ_pct),
            plan=_plan_report(entries, table, alignment, params.width_multiple),
            calibration=calibration,
            accuracy=tuple(accuracy_of(kind, some) for kind, some in unseen.items()),
            depths=tuple(one for kind, some in unseen.items() for one in accuracy_by_depth(kind, some)),
            summaries=summaries,
            net_samples=estimates.accepted(len(parts)),
            rejected=estimates.rejected,
            canary_reference_ms=reference,
            session_slow_pct=max(100 * (float(np.quantile(final.canaries_ms, QUIET_SHARE)) / reference - 1), 0.0),
            interval_confidence=attained_confidence(min(summary.rounds for summary in summaries)),
        )

    def _measure_plan(self, curves: Sequence[Curve]) -> tuple[Alignment, dict[Part, None]]:
        """Scout until the plan is good or spent; return the alignment and the plan's points."""
        params = self.params
        runs = probe_runs(curves)
        probes = [part for run in runs for part in run]
        self._scout("probes", probes)
        alignment = detect_alignment(runs, self._medians(), width_multiple=params.width_multiple)
        points: dict[Part, None] = dict.fromkeys(probes)
        modulus, stairs = alignment.modulus, alignment.stairs
        wanted = [part for part in first_points(curves, modulus=modulus, stairs=stairs) if part not in points]
        for generation in range(params.generations):
            if not wanted:
                break
            points |= dict.fromkeys(wanted)
            if generation + 1 == params.generations:
                break  # nothing is decided on these any more: the final phase measures them; of one generation none is refined
            self._scout(f"generation_{generation}", wanted)
            wanted = refine(
                curves,
                {part: ms for part, ms in self._medians().items() if part in points},
                modulus=modulus,
                stairs=stairs,
                tolerance_pct=params.tolerance_pct,
                most=params.most_entries - len(points),
            )
        return alignment, points

    def _scout(self, name: str, points: Sequence[Part]) -> None:
        rounds = max(_LEAST_SCOUT_ROUNDS, self.params.rounds // _SCOUT_SHARE)
        self._scouts.append(self._measure(name, self._subjects(points, fixed=False), whole=0, rounds=rounds))

    def _subjects(self, points: Sequence[Part], *, fixed: bool) -> list[Subject]:
        """Return whole nets that hold the points, or each point alone where the runtime cannot be marked, parts without a width too."""
        setting, ops = self.setting, OP_SETS[self.params.ops]
        nets = pack(points, ops=ops, height=setting.height, width=setting.width, classes=setting.classes)
        if self.rig.in_context:
            return nets
        others = [part for part in nets[0].parts if part.mid_channels is None] if fixed else []
        return [Subject(kind=None, parts=(part,), genotype=None) for part in (*points, *others)]

    def _whole_nets(self, nets: NetSample) -> tuple[list[Subject], list[str]]:
        setting = self.setting
        uses = [("fit", genotype) for genotype in nets.fit] + [("held_out", genotype) for genotype in nets.held_out]
        subjects = [
            whole_net(genotype, kind, height=setting.height, width=setting.width, classes=setting.classes)
            for _, genotype in uses
            for kind in NET_KINDS
        ]
        return subjects, [use for use, _ in uses for _ in NET_KINDS]

    def _measure(self, name: str, subjects: list[Subject], *, whole: int, rounds: int) -> Phase:
        """
        Time every subject once a round in every build; rounds stored by an earlier run are taken from there.

        Args:
            whole: The last so many subjects are timed without marks.
        """
        samples: list[RigSample] = []
        stored, loaded = phase_name(name, subjects), False
        with progress(f"profile latency: {name}, {len(subjects)} subjects", rounds) as report:
            for number in range(rounds):
                for build in range(self.rig.builds):
                    found = self.store.read(stored, number, build)
                    if found is None:
                        if not loaded:
                            self.rig.load(subjects)
                            loaded = True
                        found = self._one_round(name, number, build, len(subjects) - whole, len(subjects))
                        self.on_round()
                        self.store.write(stored, number, build, found)
                    samples += found
                report.update(number + 1)
        return Phase(subjects=subjects, samples=samples)

    def _one_round(self, name: str, number: int, build: int, parts: int, count: int) -> list[RigSample]:
        """Time all subjects once in an order of its own; those with marks and those without in turns of a few."""
        mixed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        generator = np.random.Generator(np.random.PCG64([self.params.seed, mixed, number, build]))
        order = [int(i) for i in generator.permutation(count)]
        samples: list[RigSample] = []
        for start in range(0, count, _TURN):
            turn = order[start : start + _TURN]
            for marked in (True, False):
                some = [i for i in turn if (i < parts) == marked]
                if some:
                    wanted = marked and self.rig.in_context
                    began = time.monotonic()
                    taken = self.rig.sample(build, round=number, marked=wanted, order=some)
                    self.on_turn(taken, time.monotonic() - began)
                    samples += taken
        return samples

    def _reference(self, final: Phase) -> float:
        return self.learn_canary(_canaries((*self._scouts, final)))

    def _medians(self) -> dict[Part, float]:
        """
        Return the median of every part scouted so far, without the bootstrap that only the final entries need.

        The canary's reference is that of the scouts themselves: one that the machine remembers would, after an interruption, be another,
        and with it the plan.
        """
        reference = session_best(_canaries(self._scouts))
        medians: dict[Part, float] = {}
        for phase in self._scouts:
            estimates = Estimates(phase, reference_ms=reference, band_pct=self.params.canary_band_pct)
            medians |= {part: readings.median_ms for part, readings in estimates.parts().items()}
        return medians


def _canaries(phases: Sequence[Phase]) -> list[float]:
    return [ms for phase in phases for ms in phase.canaries_ms]


def _entries(
    estimates: Estimates, points: Mapping[Part, None], held_out: set[Part]
) -> tuple[tuple[Entry, ...], tuple[Summary, ...]]:
    parts = estimates.parts()
    entries, used = [], []
    for part in sorted(parts, key=_part_order):
        in_plan = part.mid_channels is None or part in points
        if not in_plan and part not in held_out:
            continue  # a filler of a net that the plan did not ask for
        summary = parts[part].summary()
        entries.append(_entry(part, summary, "plan" if in_plan else "held_out"))
        used.append(summary)
    return tuple(entries), tuple(used)


def _entry(part: Part, summary: Summary, role: str) -> Entry:
    return Entry.model_validate(
        {
            "key": part.key,
            "mid_channels": part.mid_channels,
            "role": role,
            **{name: getattr(summary, name) for name in _SUMMARY_FIELDS},
            "builds_differ_pct": summary.builds_differ_pct,
        }
    )


_SUMMARY_FIELDS = ("median_ms", "low_ms", "high_ms", "min_ms", "p90_ms", "mad_ms", "raw", "kept")


def _timings(
    measured: Sequence[Summary], whole: Sequence[Subject], uses: Sequence[str], table: LookupTable, *, confidence: float
) -> tuple[tuple[NetTiming, ...], Calibration]:
    """Return the whole nets as measured and predicted, and the calibration fitted on those of them that are for it."""
    sums = [table.total(subject.parts) for subject in whole]
    fit: dict[NetKind, list[int]] = {
        kind: [i for i, subject in enumerate(whole) if subject.kind == kind and uses[i] == "fit"] for kind in NET_KINDS
    }
    calibration = calibrate(
        {kind: [sums[i] for i in chosen] for kind, chosen in fit.items()},
        {kind: [measured[i].median_ms for i in chosen] for kind, chosen in fit.items()},
        confidence=confidence,
        full_depth=sum(_is_full(whole[i]) for chosen in fit.values() for i in chosen),
    )
    predictor = Predictor(table, calibration)
    timings = tuple(
        _timing(subject, role, summary, total, predictor)
        for subject, role, summary, total in zip(whole, uses, measured, sums, strict=True)
    )
    return timings, calibration


def _reference_timings(
    subjects: Sequence[Subject], measured: Sequence[Summary], most_differ_pct: float
) -> tuple[ReferenceTiming, ...]:
    """Return what the nets of the literature took, each with the doubts about it."""
    found = []
    for subject, summary in zip(subjects, measured, strict=True):
        differ = summary.builds_differ_pct
        doubts = {
            "fewer than half of its samples were accepted, so all count": summary.used_all,
            f"two builds differ by more than {most_differ_pct:g} %": differ is not None and differ > most_differ_pct,
        }
        assert subject.reference is not None
        found.append(
            ReferenceTiming(
                net=subject.reference,
                measured_ms=summary.median_ms,
                low_ms=summary.low_ms,
                high_ms=summary.high_ms,
                raw=summary.raw,
                kept=summary.kept,
                builds_differ_pct=differ,
                noise=tuple(doubt for doubt, holds in doubts.items() if holds),
            )
        )
    return tuple(found)


def _is_full(subject: Subject) -> bool:
    assert subject.kind is not None
    assert subject.genotype is not None
    return is_full_depth(subject.kind, subject.genotype)


def _timing(subject: Subject, role: str, summary: Summary, table_ms: float, predictor: Predictor) -> NetTiming:
    assert subject.kind is not None
    predicted = predictor.predict(subject.kind, subject.parts)
    return NetTiming.model_validate(
        {
            "kind": subject.kind,
            "genotype": subject.genotype,
            "use": role,
            "measured_ms": summary.median_ms,
            "low_ms": summary.low_ms,
            "high_ms": summary.high_ms,
            "kept": summary.kept,
            "table_ms": table_ms,
            "predicted_ms": predicted.ms,
            "predicted_low_ms": predicted.low_ms,
            "predicted_high_ms": predicted.high_ms,
        }
    )


def _plan_report(entries: Sequence[Entry], table: LookupTable, alignment: Alignment, width_multiple: int) -> PlanReport:
    held_out = [entry for entry in entries if entry.role == "held_out"]
    errors = np.array([100 * (table.lookup(Part(e.key, e.mid_channels)) / e.median_ms - 1) for e in held_out])
    return PlanReport(
        entries=len(entries) - len(held_out),
        held_out=len(held_out),
        width_multiple=width_multiple,
        modulus=alignment.modulus,
        modulus_gain_pct=alignment.gain_pct,
        stairs=alignment.stairs,
        mean_error_pct=float(np.abs(errors).mean()) if len(errors) else 0.0,
        bias_pct=float(errors.mean()) if len(errors) else 0.0,
        worst_error_pct=float(np.abs(errors).max()) if len(errors) else 0.0,
    )


def _part_order(part: Part) -> tuple[object, ...]:
    key = part.key
    places = ("first_stem", "second_stem", "block", "feature_mix", "head", "decoder")
    shape = (-key.height, -key.width, key.in_channels, key.out_channels, key.stride, key.kernel_size, key.se_channels)
    return (places.index(key.part), *shape, part.mid_channels or 0)
