"""From the architecture that a search ends with to the genotype, with what it is predicted, counted and measured to cost."""

from dataclasses import dataclass
from pathlib import Path

import torch

from dcnas_latency.call import CallPlan
from dcnas_latency.card import device_card
from dcnas_latency.files import read_profile
from dcnas_latency.in_setting import measure_in_setting, why_not_measurable
from dcnas_latency.predictor import Predictor
from dcnas_lineage.collect import collect_provenance
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.space import build_space_net
from dcnas_schema.genotype import Genotype, parts_of
from dcnas_schema.json_files import read_json_record, write_json_record
from dcnas_schema.latency import LatencySetting, ProfileMetadata
from dcnas_schema.params import DeviceParams, Section, digest_of
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import MeasuredLatency
from dcnas_schema.search_log import ArchitectureRecord, DerivedGenotype, NetCost, PredictedLatency
from dcnas_schema.search_params import DeriveGenotypeParams
from dcnas_schema.space import NET_KINDS, NetKind
from dcnas_training.architecture import chosen_depths, chosen_ops, derive
from dcnas_training.execution import choose_device, keep_freed_memory


class Settings(Section):
    """The parameters that the derived genotype depends on."""

    device: DeviceParams
    derive_genotype: DeriveGenotypeParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one run of this pipeline stage is asked to do."""

    settings: Settings
    architecture: Path
    """What the search ends with: architecture.json."""
    profile: Path
    """The latency profile."""
    scratch: Path
    """Folder where this machine's best time of the reference op is kept, as profile_latency keeps it."""


def derive_job(job: Job, out: Path) -> DerivedGenotype:
    """
    Derive the genotype and write it to the file `out`.

    Raises:
        CorruptArtefactError: The architecture or the profile is missing or damaged.
    """
    device = choose_device(job.settings.device)
    keep_freed_memory()
    card = device_card(device)
    found = read_json_record(job.architecture, ArchitectureRecord)
    entries, profile = read_profile(job.profile)
    genotype = genotype_of(found)
    measured, reason = _measure(job, found.spec.kind, genotype, profile, card)
    record = DerivedGenotype(
        search=found.search,
        seed=found.seed,
        spec=found.spec,
        genotype=genotype,
        target_ms=found.target_ms,
        bound=found.spec.kind,
        setting=profile.setting,
        clock=profile.protocol.clock,
        predicted=_predicted(Predictor.of(entries, profile), genotype, profile.setting),
        cost={kind: _cost(kind, genotype, profile.setting) for kind in NET_KINDS},
        measured=measured,
        not_measured=reason,
        provenance=collect_provenance(
            stage="derive_genotype",
            item=f"{found.search}-{found.seed}",
            params_sha256=digest_of(job.settings),
            seed=found.seed,
            inputs=(job.architecture, job.profile),
            device=card,
        ),
    )
    write_json_record(out, record)
    return record


def genotype_of(found: ArchitectureRecord) -> Genotype:
    """Return the architecture with its widths: the most likely, or the cheaper one that the search took to meet its target."""
    log_betas = [torch.tensor(row, dtype=torch.float64) for row in found.log_betas or ()]
    likely = chosen_ops(torch.tensor(found.log_alphas, dtype=torch.float64))
    choices = likely if found.choices is None else list(found.choices)
    return derive(found.ops, choices, chosen_depths(log_betas), found.widths)


def _predicted(predictor: Predictor, genotype: Genotype, setting: LatencySetting) -> dict[NetKind, PredictedLatency]:
    found: dict[NetKind, PredictedLatency] = {}
    for kind in NET_KINDS:
        if kind in predictor.calibration.scale:
            parts = parts_of(kind, genotype, height=setting.height, width=setting.width, classes=setting.classes)
            prediction = predictor.predict(kind, parts)
            found[kind] = PredictedLatency(ms=prediction.ms, low_ms=prediction.low_ms, high_ms=prediction.high_ms)
    return found


def _cost(kind: NetKind, genotype: Genotype, setting: LatencySetting) -> NetCost:
    net = build_space_net(kind, genotype, classes=setting.classes, seed=0)
    image = torch.zeros((1, 3, setting.height, setting.width))
    return NetCost(macs=count_macs(net, image), parameters=count_parameters(net))


def _measure(
    job: Job, kind: NetKind, genotype: Genotype, profile: ProfileMetadata, card: DeviceCard
) -> tuple[MeasuredLatency | None, str | None]:
    """Return the measured latency, or `None` and the reason."""
    params = job.settings.derive_genotype
    reason = "derive_genotype.measure is false" if not params.measure else why_not_measurable(profile, card)
    if reason is not None:
        return None, reason
    net = build_space_net(kind, genotype, classes=profile.setting.classes, seed=0)
    plan = CallPlan(warmup=params.warmup, repeats=params.repeats, canary_band_pct=params.canary_band_pct)
    measured = measure_in_setting(net, profile.setting, card, plan, scratch=job.scratch)
    if measured.by(profile.protocol.clock) is None:
        return measured, "the GPU never had a whole pass queued before it began, so its own time of one is not known"
    return measured, None
