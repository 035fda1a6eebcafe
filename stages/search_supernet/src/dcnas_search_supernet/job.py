"""One search from files to files: what it reads, what it refuses before any training, where it resumes, what it writes."""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch

from dcnas_data.photo_loader import PhotoStore
from dcnas_data.share import Share
from dcnas_harness.errors import BadInputError
from dcnas_harness.seat import Seat
from dcnas_latency.card import device_card
from dcnas_latency.files import read_profile, require_space
from dcnas_latency.lock import device_lock
from dcnas_latency.predictor import Predictor
from dcnas_lineage.collect import collect_provenance
from dcnas_lineage.inputs import training_folder
from dcnas_nets.mixed import Form
from dcnas_nets.supernet import build_supernet
from dcnas_schema.genotype import STAGE_DEPTHS
from dcnas_schema.json_files import write_json_record
from dcnas_schema.latency import ProfileMetadata, ReferenceTiming
from dcnas_schema.params import DeviceParams, Section, digest_of
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.provenance import Provenance
from dcnas_schema.search_log import SEARCH_LOG, ArchitectureRecord, Reachable, SearchMetadata
from dcnas_schema.search_params import SearchSpec, SearchSupernetParams
from dcnas_schema.seeds import derive_seed
from dcnas_schema.space import PLACES
from dcnas_search_supernet.bound import net_latency, reference_of, require_reachable, target_within
from dcnas_search_supernet.ending import meet_target
from dcnas_search_supernet.loop import Search, search
from dcnas_training.architecture import Architecture
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.distributed import ALONE, Team, joined
from dcnas_training.elasticity import starting_widths
from dcnas_training.execution import Execution, choose_device, multiplies_bf16, prepare_training
from dcnas_training.search_latency import NetLatency, Reach

_CODE = ("dcnas_search_supernet", "dcnas_training", "dcnas_nets", "dcnas_latency", "dcnas_data", "dcnas_schema")
"""The predictor too, which the latency loss is made of, and the search space."""
_SPLITS = ("train", "validation")
"""Weights are trained on the first, the architecture on the second."""


class Settings(Section):
    """The parameters that a search depends on."""

    device: DeviceParams
    spec: SearchSpec
    search_supernet: SearchSupernetParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one run of this pipeline stage is asked to do."""

    search: str
    """Name of the search."""
    seed: int
    settings: Settings
    photos: Path
    """Folder with train.parquet and validation.parquet."""
    profile: Path
    """The latency profile."""
    scratch: Path
    """Folder for checkpoints."""
    seat: Seat = field(default_factory=Seat)
    """This process's place among those that search together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Target:
    """The target in ms, and the net of the literature that it is relative to, if any."""

    ms: float
    reference: ReferenceTiming | None = None

    @property
    def reference_ms(self) -> float | None:
        """That net's latency."""
        return None if self.reference is None else self.reference.measured_ms


def search_job(job: Job, out: Path) -> None:
    """
    Search, going on from the newest checkpoint, and write `search.parquet` and `architecture.json` into `out`.

    Of several processes that search together the leader alone writes.

    Raises:
        BadInputError: The target is out of reach, the profile lacks a part of the space or the net that the target is relative to, or a
            split has less than a batch.
    """
    device = choose_device(job.settings.device, number=job.seat.local_rank)
    prepare_training(device)
    torch.backends.cudnn.allow_tf32 = True  # torch's default, said outright: fp32 convolutions of a GPU may run in TF32
    with joined(job.seat, device) as team:
        _search_together(job, out, device, team)


def _search_together(job: Job, out: Path, device: torch.device, team: Team) -> None:
    settings, spec = job.settings, job.settings.spec
    card = device_card(device)
    entries, profile = read_profile(job.profile)
    require_space(entries, profile, spec.candidates, width_multiple=spec.width_multiple)
    predictor = Predictor.of(entries, profile)
    latency = net_latency(predictor, spec.kind, profile.setting)
    execution, form = choose_search_execution(device, settings.search_supernet)
    paths = [job.photos / f"{split}.parquet" for split in _SPLITS]
    provenance = collect_provenance(
        stage="search_supernet",
        item=f"{job.search}-{job.seed}",
        params_sha256=digest_of(settings),
        seed=job.seed,
        inputs=(*paths, job.profile),
        device=card,
    ).model_copy(update={"processes": team.size})
    folder = _checkpoint_folder(job, execution, form, provenance, team)
    target = _target(job.settings.spec, profile, latency)
    reachable = require_reachable(job.search, spec, latency, target.ms)
    run = _search(job, latency, target, execution, form, CheckpointFolder(folder), team)
    with device_lock(card, exclusive=False):  # whoever times this device waits for us, and we for them
        rows = search(run)
    if not team.leads:
        return
    _write(job, run, rows, out, profile=profile, target=target, reachable=reachable, provenance=provenance)


def choose_search_execution(device: torch.device, params: SearchSupernetParams) -> tuple[Execution, Form]:
    """
    Resolve `auto` from the device, never from a timing.

    Measured on a CPU by benchmarks/search.py: channels_last wins there for plain candidates. Known from the issue, not measured here: bf16
    is slower on a CPU, and a GPU's step is bound by launches, which fused candidates save.
    """
    precision, cuda = params.precision, device.type == "cuda"
    if precision == "auto":
        precision = "bf16" if cuda and multiplies_bf16(device) else "fp32"
    memory_format = "channels_last" if params.memory_format == "auto" else params.memory_format
    form: Form = ("fused" if cuda else "plain") if params.form == "auto" else params.form
    return Execution(device=device, precision=precision, memory_format=memory_format), form


def checkpoints_of(job: Job) -> Path:
    """Return the folder of all checkpoints of the job's search and seed; a run must hold its lock, for it removes those of others."""
    return job.scratch / "search_supernet" / f"{job.search}-{job.seed}"


def _search(
    job: Job,
    latency: NetLatency,
    target: _Target,
    execution: Execution,
    form: Form,
    checkpoints: CheckpointFolder,
    team: Team,
) -> Search:
    settings, spec, device = job.settings, job.settings.spec, execution.device
    stores = {
        split: PhotoStore.open(
            [job.photos / f"{split}.parquet"],
            device=device,
            memory_mb=settings.search_supernet.view.memory_mb,
            threads=settings.device.threads,
        )
        for split in _SPLITS
    }
    for split, store in stores.items():
        _require_batch(split, len(store), settings.search_supernet.batch_size)
    ops = spec.candidates
    net = build_supernet(
        ops,
        starting_widths(ops, width_multiple=spec.width_multiple),
        classes=len(stores["train"].classes),
        seed=derive_seed(job.seed, "weights"),
        decoder=spec.loss == "both",
        form=form,
    )
    depths = STAGE_DEPTHS if spec.beta == "sink" else None
    return Search(
        name=job.search,
        spec=spec,
        params=settings.search_supernet,
        net=net,
        architecture=Architecture(len(PLACES), len(ops), depths=depths, device=device),
        latency=latency,
        target_ms=target.ms,
        weight_photos=stores["train"],
        architecture_photos=stores["validation"],
        execution=execution,
        seed=job.seed,
        checkpoints=checkpoints,
        team=team,
        share=Share(number=team.rank, of=team.size),
    )


def _require_batch(split: str, photos: int, batch_size: int) -> None:
    if photos < batch_size:
        raise BadInputError(
            f"search_supernet.batch_size is {batch_size}, more than the {photos} photographs of {split}",
            where="params.yaml",
            remedy="take a smaller batch, or more photographs",
        )


def _target(spec: SearchSpec, profile: ProfileMetadata, latency: NetLatency) -> _Target:
    target = spec.target
    if target.ms is not None:
        return _Target(ms=target.ms)
    if target.reach is not None:
        return _Target(ms=target_within(target.reach, spec, latency))
    assert target.relative is not None
    assert target.to is not None
    reference = reference_of(target.to, profile)
    return _Target(ms=target.relative * reference.measured_ms, reference=reference)


def _write(
    job: Job,
    run: Search,
    rows: list[dict[str, object]],
    out: Path,
    *,
    profile: ProfileMetadata,
    target: _Target,
    reachable: Reach,
    provenance: Provenance,
) -> None:
    spec, architecture, ending = run.spec, run.architecture, meet_target(run)
    metadata = SearchMetadata(
        search=job.search,
        seed=job.seed,
        spec=spec,
        params=run.params,
        ops=spec.candidates,
        target_ms=target.ms,
        reference_ms=target.reference_ms,
        reference_noise=() if target.reference is None else target.reference.noise,
        met=ending.met,
        switched=ending.switched,
        reachable=Reachable(least_ms=reachable.least_ms, greatest_ms=reachable.greatest_ms),
        setting=profile.setting,
        accuracy=next((one for one in profile.accuracy if one.kind == spec.kind), None),
        interval_pct=profile.calibration.interval_pct[spec.kind],
        precision=run.execution.precision,
        memory_format=run.execution.memory_format,
        form=run.net.at(0).form,
        weight_images=len(run.weight_photos),
        architecture_images=len(run.architecture_photos),
        classes=run.net.classes,
        provenance=provenance,
    )
    log = pa.RecordBatch.from_pylist(rows, schema=SEARCH_LOG)
    write_parquet(out / "search.parquet", with_metadata(SEARCH_LOG, metadata), [log])
    record = ArchitectureRecord(
        search=job.search,
        seed=job.seed,
        spec=spec,
        ops=spec.candidates,
        log_alphas=_rows(architecture.log_alphas),
        log_betas=tuple(_row(log_beta) for log_beta in architecture.log_betas) or None,
        widths=ending.widths,
        choices=ending.choices,
        target_ms=target.ms,
        reference_ms=target.reference_ms,
        met=ending.met,
        provenance=provenance,
    )
    write_json_record(out / "architecture.json", record)


def _rows(values: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(_row(row) for row in values)


def _row(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(values.detach().cpu().double().tolist())


def _checkpoint_folder(job: Job, execution: Execution, form: Form, provenance: Provenance, team: Team = ALONE) -> Path:
    return training_folder(
        checkpoints_of(job),
        provenance,
        code=_CODE,
        execution=f"{execution.precision} {execution.memory_format} {form}",
        capability=torch.backends.cpu.get_cpu_capability(),
        leads=team.leads,
    )
