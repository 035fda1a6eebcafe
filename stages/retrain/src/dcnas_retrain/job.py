"""One training run from files to files: what it reads, where it resumes, what it writes."""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch

from dcnas_data.loader import ResidentScenes
from dcnas_data.scenes import read_scenes
from dcnas_data.share import Share
from dcnas_harness.files import sha256_of
from dcnas_harness.seat import Seat
from dcnas_latency.card import device_card
from dcnas_latency.lock import device_lock
from dcnas_lineage.collect import collect_provenance
from dcnas_nets.models import build_model
from dcnas_retrain.fingerprint import checkpoint_folder
from dcnas_retrain.loop import Run, train
from dcnas_schema.params import ModelSpec, NoiseParams, Params, RetrainParams, Section, digest_of
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.records import TRAINING_LOG, TrainingMetadata
from dcnas_schema.seeds import derive_seed
from dcnas_training.checkpoints import CheckpointFolder, save_tensors
from dcnas_training.distributed import Team, joined
from dcnas_training.execution import choose_device, choose_execution, prepare_training


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one run of this pipeline stage is asked to do."""

    model: str
    seed: int
    params: Params
    scenes: Path
    """Folder with train.parquet and validation.parquet."""
    scratch: Path
    """Folder for checkpoints."""
    seat: Seat = field(default_factory=Seat)
    """This process's place among those that train together."""


class _Settings(Section):
    """The parameters that the weights depend on."""

    spec: ModelSpec
    noise: NoiseParams
    retrain: RetrainParams


def train_job(job: Job, out: Path) -> None:
    """
    Train the job's model, going on from its newest checkpoint, and write `weights.safetensors` and `log.parquet` into `out`.

    Of several processes that train together the leader alone writes.
    """
    device = choose_device(job.params.device, number=job.seat.local_rank)
    prepare_training(device)
    with joined(job.seat, device) as team:
        _train_together(job, out, device, team)


def _train_together(job: Job, out: Path, device: torch.device, team: Team) -> None:
    params, spec = job.params, job.params.models[job.model]
    settings = _Settings(spec=spec, noise=params.noise, retrain=params.retrain)
    model = build_model(spec, seed=derive_seed(job.seed, "weights"))
    execution = choose_execution(
        model, device, precision=params.retrain.precision, memory_format=params.retrain.memory_format
    )
    splits = {split: read_scenes(job.scenes / f"{split}.parquet") for split in ("train", "validation")}
    provenance = collect_provenance(
        stage="retrain",
        item=f"{job.model}-{job.seed}",
        params_sha256=digest_of(settings),
        seed=job.seed,
        inputs=(job.scenes / "train.parquet", job.scenes / "validation.parquet"),
        device=device_card(device),
    ).model_copy(update={"processes": team.size})
    run = Run(
        model=model,
        train=ResidentScenes(splits["train"], device),
        validation=ResidentScenes(splits["validation"], device),
        execution=execution,
        epochs=spec.epochs or params.retrain.epochs,
        noise=params.noise,
        params=params.retrain,
        seed=job.seed,
        checkpoints=CheckpointFolder(
            checkpoint_folder(checkpoints_of(job), execution=execution, provenance=provenance, team=team)
        ),
        label=f"retrain {job.model} seed {job.seed} ({execution.device.type} {execution.precision})",
        team=team,
        share=Share(number=team.rank, of=team.size),
    )
    with device_lock(provenance.device, exclusive=False):  # whoever times this device waits for us, and we for them
        rows = train(run)
    if not team.leads:
        return
    weights = out / "weights.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(
        weights,
        tensors,
        {"model": job.model, "seed": job.seed, "spec": spec.model_dump(mode="json")},
    )
    metadata = TrainingMetadata(
        model=job.model,
        seed=job.seed,
        spec=spec,
        epochs=run.epochs,
        batch_size=params.retrain.batch_size,
        train_scenes=len(run.train),
        precision=execution.precision,
        memory_format=execution.memory_format,
        weights_sha256=sha256_of(weights),
        provenance=provenance,
    )
    log = pa.RecordBatch.from_pylist(rows, schema=TRAINING_LOG)
    write_parquet(out / "log.parquet", with_metadata(TRAINING_LOG, metadata), [log])


def checkpoints_of(job: Job) -> Path:
    """Return the folder of all checkpoints of the job's model and seed; a run must hold its lock, for it removes those of others."""
    return job.scratch / "retrain" / f"{job.model}-{job.seed}"
