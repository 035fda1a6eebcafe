"""From what a search ends with to the genotype: the choice, the prediction, the cost, the measurement where there can be one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_derive_genotype.job import Job, Settings, derive_job
from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import write_json
from dcnas_latency.canary import LEAST_SAMPLES, CanaryStore, choose_canary
from dcnas_latency.card import device_card, fingerprint
from dcnas_latency.files import write_profile
from dcnas_latency.in_setting import why_not_measurable
from dcnas_schema.genotype import parts_of
from dcnas_schema.json_files import read_json_record
from dcnas_schema.latency import (
    Calibration,
    Entry,
    Gate,
    LatencyProtocol,
    LatencySetting,
    PlanReport,
    ProfileMetadata,
    Runtime,
)
from dcnas_schema.params import DeviceParams
from dcnas_schema.provenance import DeviceCard, Provenance
from dcnas_schema.search_log import ArchitectureRecord, DerivedGenotype
from dcnas_schema.search_params import DeriveGenotypeParams, SearchSpec, TargetSpec
from dcnas_schema.space import NET_KINDS, OP_SETS, PLACES

SIZE = {"height": 32, "width": 32}


def architecture(provenance: Provenance) -> ArchitectureRecord:
    """Return a sink-connecting search's end: op 1 everywhere but at the first place, the second network stage a block short."""
    spec = SearchSpec(
        ops=4,
        beta="sink",
        images="clean",
        loss="classification",
        bound="denoiser",
        target=TargetSpec(ms=5.0),
        width_multiple=8,
    )
    rows = [(0.1, 0.2, 0.0, 0.0)] * len(PLACES)
    rows[0] = (0.0, 0.0, 0.0, 1.0)
    depths = (2, 3, 4, 4, 4, 1)
    betas = [tuple(float(number == depth - 1) for number in range(depth)) for depth in depths]
    betas[1] = (0.0, 1.0, 0.0)
    widths = tuple((in_ * 3, in_ * 5, in_ * 3, in_ * 7) for in_ in (place.in_channels for place in PLACES))
    return ArchitectureRecord(
        search="tiny",
        seed=3,
        spec=spec,
        ops=OP_SETS[4],
        log_alphas=tuple(rows),
        log_betas=tuple(betas),
        widths=widths,
        target_ms=5.0,
        reference_ms=None,
        provenance=provenance,
    )


def profile_of(runtime: Runtime, card: DeviceCard, provenance: Provenance, entries: int) -> ProfileMetadata:
    """Return what a profile of that runtime and device says of itself."""
    kinds = {kind: 1.0 for kind in NET_KINDS}
    return ProfileMetadata(
        device=card,
        setting=LatencySetting(
            runtime=runtime, batch=2, precision="fp32", memory_format="channels_last", classes=10, threads=1, **SIZE
        ),
        protocol=LatencyProtocol(
            in_context=True,
            processes=1,
            rounds=3,
            warm_calls=0,
            clock="wall",
            canary_band_pct=15.0,
            canary_reference_ms=0.3,
            rejected={},
            seconds=0.0,
        ),
        states=(),
        plan=PlanReport(
            entries=entries,
            held_out=0,
            width_multiple=8,
            modulus=8,
            modulus_gain_pct=0.0,
            mean_error_pct=0.0,
            bias_pct=0.0,
            worst_error_pct=0.0,
        ),
        calibration=Calibration(
            scale=kinds,
            overhead_ms=kinds,
            spread_pct=kinds,
            interval_pct=dict.fromkeys(kinds, 10.0),
            confidence=0.95,
            fitted_on=12,
            fitted_on_full_depth=12,
        ),
        accuracy=(),
        nets=(),
        gate=Gate(checks=(), allow_noisy=True),
        provenance=provenance,
    )


@pytest.fixture
def derived(tmp_path: Path, provenance: Callable[..., Provenance]) -> Callable[..., DerivedGenotype]:
    """A function that derives the genotype on a profile in which every part takes 0.1 ms."""
    from dcnas_derive_genotype.job import genotype_of

    def run(runtime: Runtime = "simulated", *, measure: bool = True) -> DerivedGenotype:
        found = architecture(provenance())
        write_json(tmp_path / "architecture.json", found.model_dump(mode="json"))
        parts = dict.fromkeys(parts_of("dc_nas", genotype_of(found), classes=10, **SIZE))
        figures = dict.fromkeys(("median_ms", "low_ms", "high_ms", "min_ms", "p90_ms"), 0.1)
        entries = [
            Entry(key=part.key, mid_channels=part.mid_channels, role="plan", mad_ms=0.0, raw=8, kept=8, **figures)
            for part in parts
        ]
        metadata = profile_of(runtime, device_card("cpu"), provenance(), len(entries))
        write_profile(tmp_path / "profile.parquet", entries, metadata)
        params = DeriveGenotypeParams(measure=measure, warmup=1, repeats=5)
        job = Job(
            settings=Settings(device=DeviceParams(kind="cpu", threads=1), derive_genotype=params),
            architecture=tmp_path / "architecture.json",
            profile=tmp_path / "profile.parquet",
            scratch=tmp_path / "scratch",
        )
        derive_job(job, tmp_path / "genotype.json")
        return DerivedGenotype.model_validate_json((tmp_path / "genotype.json").read_bytes())

    return run


def test_the_genotype_is_the_likeliest_net(derived: Callable[..., DerivedGenotype]) -> None:
    """Ops of the greatest alphas, widths of those ops, depths of the greatest betas."""
    genotype = derived().genotype
    assert [len(blocks) for blocks in genotype.stages] == [2, 2, 4, 4, 4, 1]
    assert (genotype.stages[0][0].op, genotype.stages[0][0].mid_channels) == ("k5_e6", 16 * 7)
    assert {choice.op for place, choice in genotype.placed()[1:]} == {"k3_e6"}
    assert genotype.stages[5][0].mid_channels == 192 * 5


def test_every_kind_of_net_has_its_prediction_and_cost(derived: Callable[..., DerivedGenotype]) -> None:
    """At 0.1 ms a part: classifier 21 parts, denoiser 18, joint model 25, each plus 1 ms; the interval is 10 %."""
    record = derived()
    assert {kind: found.ms for kind, found in record.predicted.items()} == pytest.approx(
        {"c_nas": 3.1, "d_nas": 2.8, "dc_nas": 3.5}
    )
    assert (record.predicted["d_nas"].low_ms, record.predicted["d_nas"].high_ms) == pytest.approx((2.52, 3.08))
    assert record.bound == "d_nas"
    assert record.target_error_pct == pytest.approx(-44)
    costs = record.cost
    assert costs["dc_nas"].macs > costs["c_nas"].macs > 0
    assert costs["dc_nas"].parameters > costs["c_nas"].parameters > costs["d_nas"].parameters


def test_the_derived_net_is_timed_beside_its_prediction(derived: Callable[..., DerivedGenotype]) -> None:
    """Where the profile is this device's and torch's, the measured latency stands in the record, in the profile's setting."""
    record = derived("torch_eager")
    assert record.measured is not None
    assert record.not_measured is None
    assert (record.measured.batch, record.measured.height) == (2, 32)
    assert record.measured.median_ms > 0


def test_a_machine_that_is_slow_throughout_is_told_from_its_best_days(
    derived: Callable[..., DerivedGenotype], tmp_path: Path
) -> None:
    """Where the profile's session found the reference op far faster, no sample counts as quiet, though all of this session are alike."""
    card = device_card("cpu")
    store = CanaryStore(
        folder=tmp_path / "scratch/canary",
        fingerprint=fingerprint(card),
        runtime="torch_eager",
        threads=1,
        op=choose_canary("cpu", runtime="torch_eager").op,
    )
    store.learn([1e-3] * LEAST_SAMPLES)
    measured = derived("torch_eager").measured
    assert measured is not None
    assert (measured.kept, measured.rejected["canary"]) == (0, measured.raw)
    assert measured.canary_reference_ms == 1e-3
    assert "fewer than 5 samples accepted" in measured.noise


def test_what_cannot_be_timed_says_why(derived: Callable[..., DerivedGenotype]) -> None:
    """A simulated profile, and a parameter that forbids it, leave a reason in place of the measurement."""
    simulated, forbidden = derived("simulated"), derived("torch_eager", measure=False)
    assert simulated.measured is forbidden.measured is None
    assert simulated.not_measured is not None
    assert "simulated" in simulated.not_measured
    assert forbidden.not_measured == "derive_genotype.measure is false"


def test_another_devices_profile_is_not_measured_here(card: DeviceCard, provenance: Callable[..., Provenance]) -> None:
    """A profile of another machine: the reason names both."""
    other = profile_of("torch_eager", card, provenance(), 0)
    reason = why_not_measurable(other, device_card("cpu"))
    assert reason is not None
    assert "Test CPU" in reason


@pytest.mark.parametrize(
    "change", [{"log_alphas": [[0.0]]}, {"widths": [[8, 8, 8]] * 18}, {"log_betas": [[0.0]]}, {"ops": None}]
)
def test_a_damaged_architecture_is_refused(
    change: dict[str, Any], tmp_path: Path, provenance: Callable[..., Provenance]
) -> None:
    """What does not fit the space exits 4 and is named."""
    content = {**architecture(provenance()).model_dump(mode="json"), **change}
    write_json(tmp_path / "architecture.json", content)
    with pytest.raises(CorruptArtefactError, match=r"architecture\.json is no ArchitectureRecord"):
        read_json_record(tmp_path / "architecture.json", ArchitectureRecord)
