"""The whole profiler against a device whose truth is known: predictions, alignment, rejection, and going on after an interruption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_latency.canary import session_best
from dcnas_latency.predictor import accuracy_by_depth
from dcnas_latency.profile import NetSample, Profile, Profiler
from dcnas_latency.rig import RigSample, Subject
from dcnas_latency.simulated import Law, SimulatedRig, part_ms, true_ms
from dcnas_latency.store import SampleStore
from dcnas_schema.keys import Part
from dcnas_schema.latency import LatencySetting
from dcnas_schema.params import Params, ProfileLatencyParams, load_params
from dcnas_schema.sampling import random_nets
from dcnas_schema.space import NET_KINDS, OP_SETS

PRESETS = Path(__file__).resolve().parents[2] / "presets"
SMALL = {"ops": 4, "image_size": 224, "fit_nets": 5, "held_out_nets": 6, "generations": 1}
NOISY = Law(noise=0.005, overlap=0.06, modulus_gain=0.08)


@dataclass(kw_only=True, slots=True)
class Rig(SimulatedRig):
    """A simulated device that is disturbed further, notes which rounds it was asked for, and may be interrupted."""

    disturb: Callable[[int, RigSample], RigSample] = lambda _, sample: sample
    """Takes the number of the phase, from 1, and a sample."""
    stop_in: tuple[int, int, int] | None = None
    """Phase, round and build in whose middle Ctrl-C comes."""
    phase: int = 0
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    """Phase, round and build of every turn."""

    def load(self, subjects: Any) -> None:
        """Begin a phase."""
        self.phase += 1
        self.subjects = subjects

    def sample(self, build: int, *, round: int, marked: bool, order: Any) -> list[RigSample]:
        """Return disturbed samples, or be interrupted in the second turn of a round."""
        if (self.phase, round, build) == self.stop_in and self.stop_in in self.asked:
            raise KeyboardInterrupt
        self.asked.append((self.phase, round, build))
        # not super(): a dataclass with slots is made anew, and super() would look in the class from before
        samples = SimulatedRig.sample(self, build, round=round, marked=marked, order=order)
        return [self.disturb(self.phase, sample) for sample in samples]


@cache
def preset(name: str) -> Params:
    """Return a stored preset."""
    return load_params(PRESETS / f"{name}.yaml")


def params(changes: dict[str, Any] | None = None, *, base: str = "smoke") -> ProfileLatencyParams:
    """Return the parameters of a small profile, or with the plan of another preset."""
    section = preset(base).profile_latency
    small = SMALL if base == "smoke" else {}
    return section.model_copy(update={"runtime": "simulated", "references": (), **small, **(changes or {})})


def profiled(
    rig: SimulatedRig,
    section: ProfileLatencyParams | None = None,
    *,
    folder: Path | None = None,
    learn: Callable[..., float] = session_best,
) -> Profile:
    """Return the profile of a simulated device, with genotypes drawn by the parameters' seed."""
    section = section or params()
    random = np.random.Generator(np.random.PCG64([section.seed, 2]))
    fit, held_out = (
        random_nets(random, count, ops=OP_SETS[section.ops]) for count in (section.fit_nets, section.held_out_nets)
    )
    setting = LatencySetting(
        runtime="simulated",
        batch=1,
        precision="fp32",
        memory_format="contiguous",
        height=section.image_size,
        width=section.image_size,
        classes=section.classes,
        threads=1,
    )
    profiler = Profiler(
        rig=rig,
        setting=setting,
        params=section,
        store=SampleStore(folder=folder),
        learn_canary=learn,
    )
    return profiler.run(NetSample(fit=fit, held_out=held_out))


def errors_pct(profile: Profile, law: Law) -> np.ndarray:
    """Return by how much the predictions of held-out nets are off what the law says, in per cent."""
    held_out = [net for net in profile.nets if net.use == "held_out"]
    setting = {"height": 224, "width": 224, "classes": 100}
    truth = [true_ms(Subject(kind=n.kind, parts=_parts(n, **setting), genotype=n.genotype), law) for n in held_out]
    return np.array([100 * (n.predicted_ms / ms - 1) for n, ms in zip(held_out, truth, strict=True)])


def _parts(net: Any, **setting: int) -> tuple[Part, ...]:
    from dcnas_schema.genotype import parts_of

    return parts_of(net.kind, net.genotype, **setting)


@pytest.fixture(scope="module")
def full() -> Profile:
    """The profile of the eight-op space with the plan of the paper preset, few rounds and nets, on a noisy device."""
    changes = {"rounds": 3, "fit_nets": 6, "held_out_nets": 10}
    return profiled(SimulatedRig(law=NOISY), params(changes, base="paper"))


def test_nets_of_each_kind_are_predicted_within_half_a_per_cent(full: Profile) -> None:
    """Injected costs, overlap, steps at multiples of 16 and noise of half a per cent: every held-out net is hit."""
    assert np.abs(errors_pct(full, NOISY)).max() < 0.5
    for kind, found in zip(NET_KINDS, full.accuracy, strict=True):
        assert (found.kind, found.nets) == (kind, 10)
        assert found.worst_pct < 0.5
        assert found.spearman > 0.98  # two of ten nets that lie closer than the noise may change places


def test_nets_of_less_depth_are_predicted_as_well_as_those_of_full_depth(full: Profile) -> None:
    """Every kind is tested at both depths, fitted on both, and either error is reported apart, below half a per cent."""
    assert [(one.kind, one.depth) for one in full.depths] == [(k, d) for k in NET_KINDS for d in ("full", "reduced")]
    assert {one.nets for one in full.depths} == {5}
    assert max(one.worst_pct for one in full.depths) < 0.5
    assert {one.full_depth for one in full.accuracy} == {5}
    assert (full.calibration.fitted_on, full.calibration.fitted_on_full_depth) == (18, 9)


def test_a_wrong_overhead_shows_at_the_depth_that_it_spoils(full: Profile) -> None:
    """A line that is right for nets of full depth and wrong for shallow ones is told apart, which one error for both would hide."""
    nets = [net for net in full.nets if net.kind == "c_nas" and net.use == "held_out"]
    spoilt = [n.model_copy(update={"predicted_ms": 0.9 * n.predicted_ms}) if _blocks(n) < 18 else n for n in nets]
    whole, cut = accuracy_by_depth("c_nas", spoilt)
    assert whole.worst_pct < 0.5
    assert cut.bias_pct == pytest.approx(-10.0, abs=0.5)


def _blocks(net: Any) -> int:
    return sum(map(len, net.genotype.stages))


def test_the_plan_of_the_paper_preset_needs_at_most_800_entries(full: Profile) -> None:
    """Of 2,802 widths fewer than 800 are measured, and at held-out ones the table is off by less than 1 %."""
    assert full.plan.entries <= 800
    assert full.plan.entries == sum(entry.role == "plan" for entry in full.entries)
    assert full.plan.held_out == 60
    assert full.plan.mean_error_pct < 0.5
    assert full.plan.worst_error_pct < 2.0


def test_the_steps_of_the_device_are_reported(full: Profile) -> None:
    """The modulus is that of the law, and its gain that of the blocks' arithmetic, about 8 % less the launches."""
    assert full.plan.modulus == 16
    assert 6.0 < full.plan.modulus_gain_pct < 8.5


def test_held_out_points_are_no_points_of_the_plan(full: Profile) -> None:
    """No key and width has two entries, whatever its role; blocks that only filled a net have none."""
    names = [(entry.key, entry.mid_channels) for entry in full.entries]
    assert len(set(names)) == len(names)
    assert all(entry.key.part == "block" for entry in full.entries if entry.role == "held_out")


def test_entries_hold_what_a_part_costs_inside_a_net(full: Profile) -> None:
    """Each is the law's cost less the overlap, stems, head and decoder included, with the truth inside or near its interval."""
    inside = []
    for entry in full.entries:
        truth = part_ms(Part(entry.key, entry.mid_channels), NOISY) * (1 - NOISY.overlap)
        assert entry.median_ms == pytest.approx(truth, rel=0.02)
        assert entry.min_ms <= entry.low_ms <= entry.median_ms <= entry.high_ms
        assert (entry.raw, entry.kept) == (entry.kept, entry.raw)
        inside.append(entry.low_ms <= truth <= entry.high_ms)
    assert np.mean(inside) > 0.7  # three rounds: the extremes of three hold the median in three of four
    fixed = {entry.key.part for entry in full.entries if entry.mid_channels is None}
    assert fixed == {"first_stem", "second_stem", "feature_mix", "head", "decoder"}


@pytest.mark.parametrize(
    ("law", "modulus"),
    [
        (Law(modulus=32, noise=0.01), 32),
        (Law(modulus_gain=0.0, noise=0.01), 8),
    ],
    ids=["steps of 32", "no steps"],
)
def test_other_devices_are_predicted_too(law: Law, modulus: int) -> None:
    """Steps at multiples of 32 are found, none are seen where there are none, and either way nets are predicted."""
    found = profiled(SimulatedRig(law=law), params({"rounds": 6}))
    assert found.plan.modulus == modulus
    assert np.abs(errors_pct(found, law)).max() < 0.5


def test_a_runtime_that_times_parts_alone_is_calibrated() -> None:
    """Parts timed one by one sum to 11 % too much for a net that hides a tenth of their time; the calibration takes that up."""
    law = Law(overlap=0.1, noise=0.002)
    found = profiled(SimulatedRig(law=law, in_context=False))
    assert np.abs(errors_pct(found, law)).max() < 0.5
    assert min(one.table_mape_pct for one in found.accuracy) > 9.0
    for entry in found.entries:
        assert entry.median_ms == pytest.approx(part_ms(Part(entry.key, entry.mid_channels), law), rel=0.01)
    assert sum(entry.mid_channels is None for entry in found.entries) == 8


def test_disturbed_samples_do_not_reach_the_figures() -> None:
    """With every fifth sample at half speed, seen by the canary, and some more unseen, predictions stay; what was rejected is told."""
    law = Law(contention=0.2, hidden_contention=0.1, noise=0.002)
    found = profiled(SimulatedRig(law=law), params({"rounds": 8}))
    assert np.abs(errors_pct(found, law)).mean() < 0.5
    raw, kept = (sum(getattr(entry, name) for entry in found.entries) for name in ("raw", "kept"))
    assert kept / raw == pytest.approx(0.8, abs=0.05)
    assert set(found.rejected) == {"canary"}


def graded(_: int, sample: RigSample) -> RigSample:
    """Slow everything by a tenth more in each round, the canary too."""
    return slowed(sample, 1 + 0.1 * sample.round, canary=True)


def slowed(sample: RigSample, factor: float, *, canary: bool = False) -> RigSample:
    """Return a sample that took `factor` as long."""
    return replace(
        sample,
        total_ms=sample.total_ms * factor,
        part_ms=tuple(ms * factor for ms in sample.part_ms),
        canary_ms=sample.canary_ms * (factor if canary else 1.0),
    )


def test_a_machine_that_is_slower_round_by_round_is_measured_as_in_its_quiet_ones() -> None:
    """Two of eight samples lie in the band, which `kept` says; what the rounds were slower by is in no figure, the best one's is."""
    found = profiled(Rig(law=Law(), disturb=graded), params({"rounds": 4, "canary_band_pct": 5.0}))
    for entry in found.entries:
        truth = part_ms(Part(entry.key, entry.mid_channels), Law()) * (1 - Law().overlap)
        if entry.raw == 8:
            assert entry.kept == 2
        assert entry.median_ms == pytest.approx(truth)
    for net in found.nets:
        assert net.measured_ms == pytest.approx(_truth(net, Law()))
    assert {net.kept for net in found.nets} == {2}
    assert found.rejected["canary"] > 0


def test_phases_of_the_host_cancel_between_table_and_nets() -> None:
    """
    A host that is half as slow again for tens of samples at a time, unseen by the canary: every net is predicted within 2 %.

    Each figure by its own samples would leave entries and nets in conditions of their own.
    """
    generator = np.random.Generator(np.random.PCG64(5))
    slow, left = False, 0

    def in_phases(_: int, sample: RigSample) -> RigSample:
        nonlocal slow, left
        if left == 0:
            slow, left = not slow, int(generator.integers(15, 60))
        left -= 1
        return slowed(sample, 1.5 if slow else 1.0)

    law = Law(noise=0.005)
    found = profiled(Rig(law=law, disturb=in_phases), params({"rounds": 6}))
    assert max(one.mape_pct for one in found.accuracy) < 1.0
    assert max(one.worst_pct for one in found.accuracy) < 2.0
    assert np.abs(errors_pct(found, law)).max() < 4.0


def _truth(net: Any, law: Law) -> float:
    parts = _parts(net, height=224, width=224, classes=100)
    return true_ms(Subject(kind=net.kind, parts=parts, genotype=None), law)


@pytest.mark.parametrize(("block", "step", "worst_pct"), [(32, 32, 0.5), (64, 64, 0.5), (128, 64, 2.0)])
def test_a_staircase_is_seen_and_predicted(block: int, step: int, worst_pct: float) -> None:
    """
    Every begun 32, 64 or 128 channels cost as many: the plan takes a width a step and hits the nets; steps of 128 count as two.

    A plan of lines ends early there, because points a step apart lie in line, and is off by up to 11 % between them.
    """
    law = Law(modulus_gain=0.0, launch_ms=0.0, computed_in=block, noise=0.003)
    section = params({"generations": 4, "held_out_widths": 60, "tolerance_pct": 2.0, "rounds": 4})
    found = profiled(SimulatedRig(law=law), section)
    assert (found.plan.stairs, found.plan.modulus, found.plan.modulus_gain_pct) == (True, step, 0.0)
    assert found.plan.mean_error_pct < worst_pct
    assert np.abs(errors_pct(found, law)).max() < worst_pct


def test_stairs_that_no_probe_fits_show_at_the_widths_held_out() -> None:
    """Steps of 80 channels are no multiple of what is tried, and points in line end the plan before it is spent: its error tells."""
    section = params({"generations": 4, "held_out_widths": 60, "tolerance_pct": 2.0})
    plan = profiled(SimulatedRig(law=Law(modulus_gain=0.0, launch_ms=0.0, computed_in=80)), section).plan
    assert plan.entries < section.most_entries - 100
    assert plan.mean_error_pct > section.tolerance_pct


def test_the_same_seed_gives_the_same_profile() -> None:
    """Two runs agree in every figure; another seed draws other nets and points."""
    first, second, other = (profiled(SimulatedRig(law=NOISY, seed=seed), params({"seed": seed})) for seed in (3, 3, 4))
    assert first == second
    assert first.nets[0].genotype != other.nets[0].genotype
    assert {e.mid_channels for e in first.entries if e.role == "held_out"} != {
        e.mid_channels for e in other.entries if e.role == "held_out"
    }


def remembering() -> Callable[..., float]:
    """Return what learns a canary reference as a machine does that remembers its best time over all sessions."""
    known: list[float] = []

    def learn(times_ms: Any) -> float:
        known.append(session_best(times_ms))
        return min(known)

    return learn


def calmer_later(phase: int, sample: RigSample) -> RigSample:
    """Disturb the first two phases, beyond what the canary's band allows beside the calmer ones after them."""
    return slowed(sample, 1.2 if phase <= 2 else 1.0, canary=True)


def test_an_interrupted_profile_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """
    Ctrl-C in the middle of a round of the final phase: finished rounds are not measured again, and the result is the undisturbed run's.

    The machine remembers its best canary time between the runs, which must not change what the scouting rounds decided.
    """
    section, law = params({"rounds": 3, "tolerance_pct": 0.5, "generations": 3}), Law(noise=0.01)
    whole = Rig(law=law, disturb=calmer_later)
    expected = profiled(whole, section, learn=remembering())
    learn = remembering()
    broken = Rig(law=law, disturb=calmer_later, stop_in=(whole.phase, 1, 1))
    with pytest.raises(KeyboardInterrupt):
        profiled(broken, section, folder=tmp_path, learn=learn)
    again = Rig(law=law, disturb=calmer_later, phase=whole.phase - 1)  # what it still measures is the last phase
    found = profiled(again, section, folder=tmp_path, learn=learn)
    assert set(again.asked) == {(whole.phase, *rest) for rest in ((1, 1), (2, 0), (2, 1))}
    assert found == expected


def test_samples_of_other_subjects_are_never_taken_from_the_store(tmp_path: Path) -> None:
    """A folder with finished rounds of another plan does not lend them: a sample would be booked to the wrong part."""
    other, section = params({"held_out_widths": 20}), params()
    law = Law(noise=0.005)
    profiled(Rig(law=law), other, folder=tmp_path)
    assert profiled(Rig(law=law), section, folder=tmp_path) == profiled(Rig(law=law), section)


@pytest.mark.parametrize("text", ["", "[{", "[1]", '{"a": 1}', '[{"subject": 0}]', "null"])
def test_a_damaged_stored_round_is_measured_again(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file of a round, it is not believed and not an error."""
    store = SampleStore(folder=tmp_path)
    store.write("final", 0, 1, [])
    (file,) = tmp_path.iterdir()
    assert store.read("final", 0, 1) == []
    file.write_text(text)
    assert store.read("final", 0, 1) is None
    assert store.read("final", 1, 1) is None
    assert SampleStore(folder=None).read("final", 0, 1) is None


@dataclass(kw_only=True, slots=True)
class WithReferences(SimulatedRig):
    """A simulated device that knows a net of the literature too, whose builds differ."""

    reference_ms: float = 7.0
    reference_bias: float = 0.0

    def load(self, subjects: Sequence[Subject]) -> None:
        """Take `subjects`."""
        self.subjects = subjects

    def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
        """Return samples by the law, and the net's own time."""
        # not super(): a dataclass with slots is made anew, and super() would look in the class from before
        found = SimulatedRig.sample(self, build, round=round, marked=marked, order=order)
        own = self.reference_ms * (1 + self.reference_bias * build)
        return [s if self.subjects[s.subject].reference is None else replace(s, total_ms=own) for s in found]


@pytest.mark.parametrize(("bias", "noise"), [(0.0, ()), (0.2, ("two builds differ by more than 5 %",))])
def test_a_net_of_the_literature_is_timed_with_the_table(bias: float, noise: tuple[str, ...]) -> None:
    """In the same rounds and builds, levelled alike; its doubts stand with it, and it tests no predictor and enters no fit."""
    rig = WithReferences(law=Law(modulus_gain=0.0, noise=0.001), reference_bias=bias)
    section = params({"ops": 4, "references": ("resnet18",), "generations": 1})
    found = profiled(rig, section)
    (reference,) = found.references
    assert (reference.net, reference.noise) == ("resnet18", noise)
    assert reference.measured_ms == pytest.approx(7.0 * (1 + bias / 2), rel=0.02)
    assert reference.raw == reference.kept == section.rounds * section.builds
    assert all(net.kind in NET_KINDS for net in found.nets)
    assert len(found.nets) == 3 * (section.fit_nets + section.held_out_nets)


def test_a_formula_times_no_net_of_the_literature() -> None:
    """Its law knows parts alone: nothing is made up."""
    with pytest.raises(UnfitEnvironmentError, match="references"):
        profiled(SimulatedRig(law=Law()), params({"ops": 4, "references": ("resnet18",), "generations": 1}))


def test_a_machine_slow_throughout_is_told_by_its_canary() -> None:
    """How far the quiet canary is above what this machine can do, and what level the intervals of so few rounds attain."""
    section = params({"ops": 4, "generations": 1, "rounds": 3})
    found = profiled(SimulatedRig(law=Law(modulus_gain=0.0)), section, learn=lambda times: min(times) / 1.2)
    assert found.session_slow_pct == pytest.approx(20.0)
    assert found.interval_confidence == 0.75
    assert profiled(SimulatedRig(law=Law(modulus_gain=0.0)), section).session_slow_pct == 0.0
