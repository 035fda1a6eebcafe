"""One training run on photos from files to files: what it reads, where it resumes, what it writes."""

from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch

from dcnas_data.photo_loader import PhotoStore
from dcnas_data.share import Share
from dcnas_harness.errors import BadInputError
from dcnas_harness.files import sha256_of
from dcnas_harness.seat import Seat
from dcnas_latency.card import device_card
from dcnas_latency.lock import device_lock
from dcnas_lineage.collect import collect_provenance
from dcnas_nets.photo_nets import build_photo_net
from dcnas_retrain.fingerprint import checkpoint_folder
from dcnas_retrain.genotypes import chosen_genotype
from dcnas_retrain.photo_loop import PhotoRun, train_on_photos
from dcnas_schema.genotype import Genotype
from dcnas_schema.params import Params, Section, digest_of
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.photo_models import PhotoModelSpec, images_of
from dcnas_schema.photo_params import PhotoViewParams
from dcnas_schema.photo_records import PHOTO_TRAINING_LOG, ChosenGenotype, PhotoTrainingMetadata
from dcnas_schema.photo_training import PhotoNoiseParams, RetrainPhotosParams
from dcnas_schema.provenance import Provenance
from dcnas_schema.seeds import derive_seed
from dcnas_training.checkpoints import CheckpointFolder, save_tensors
from dcnas_training.distributed import Team, joined
from dcnas_training.execution import choose_device, choose_execution, prepare_training


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoJob:
    """What one run of this pipeline stage on photos is asked to do."""

    model: str
    seed: int
    settings: Params
    photos: Path
    """Folder with train.parquet and validation.parquet."""
    genotype: Path | None
    """What choose_genotypes wrote for this model and seed."""
    scratch: Path
    """Folder for checkpoints."""
    seat: Seat = field(default_factory=Seat)
    """This process's place among those that train together."""

    @property
    def spec(self) -> PhotoModelSpec:
        """The model's description."""
        return self.settings.photo_models[self.model]


class _Settings(Section):
    """The parameters that the weights depend on; and the genotype, which a file may give."""

    spec: PhotoModelSpec
    view: PhotoViewParams
    noise: PhotoNoiseParams
    retrain: RetrainPhotosParams
    genotype: Genotype | None


def train_photo_job(job: PhotoJob, out: Path) -> None:
    """
    Train the job's model, going on from its newest checkpoint, and write `weights.safetensors` and `log.parquet` into `out`.

    Of several processes that train together the leader alone writes.

    Raises:
        BadInputError: A file that the model needs is not given or is of another search; there are fewer photos than a batch takes.

        CorruptArtefactError: An input or every checkpoint is damaged.

        NumericalError: A loss is not finite.
    """
    device = choose_device(job.settings.device, number=job.seat.local_rank)
    prepare_training(device)
    with joined(job.seat, device) as team:
        _train_together(job, out, device, team)


def _train_together(job: PhotoJob, out: Path, device: torch.device, team: Team) -> None:
    settings, spec, params = job.settings, job.spec, job.settings.retrain_photos
    chosen = chosen_genotype(job.model, spec, seed=job.seed, path=job.genotype)
    train, validation = _open_photos(job, device)
    model = build_photo_net(
        spec,
        genotype=chosen.genotype,
        classes=len(train.classes),
        seed=derive_seed(job.seed, "weights"),
        dropout=params.dropout,
        drop_connect=params.drop_connect,
    )
    execution = choose_execution(model, device, precision=params.precision, memory_format=params.memory_format)
    provenance = _provenance(job, chosen, device).model_copy(update={"processes": team.size})
    run = PhotoRun(
        model=model,
        images=images_of(spec),
        train=train,
        validation=validation,
        execution=execution,
        epochs=spec.epochs or params.epochs,
        view=settings.photo_view,
        noise=settings.photo_noise,
        params=params,
        seed=job.seed,
        checkpoints=CheckpointFolder(
            checkpoint_folder(photo_checkpoints_of(job), execution=execution, provenance=provenance, team=team)
        ),
        label=f"retrain {job.model} seed {job.seed} ({execution.device.type} {execution.precision})",
        team=team,
        share=Share(number=team.rank, of=team.size),
    )
    with device_lock(provenance.device, exclusive=False):  # whoever times this device waits for us, and we for them
        rows = train_on_photos(run)
    if not team.leads:
        return
    weights = out / "weights.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_tensors(weights, tensors, {"model": job.model, "seed": job.seed, "spec": spec.model_dump(mode="json")})
    metadata = PhotoTrainingMetadata(
        model=job.model,
        seed=job.seed,
        spec=spec,
        genotype=chosen.genotype,
        search_seed=chosen.search_seed,
        drawn=chosen.drawn,
        classes=train.classes,
        epochs=run.epochs,
        batch_size=params.batch_size,
        peak_learning_rate=run.peak_rate,
        train_photos=len(train),
        image_size=settings.photo_view.size,
        precision=execution.precision,
        memory_format=execution.memory_format,
        weights_sha256=sha256_of(weights),
        provenance=provenance,
    )
    log = pa.RecordBatch.from_pylist(rows, schema=PHOTO_TRAINING_LOG)
    write_parquet(out / "log.parquet", with_metadata(PHOTO_TRAINING_LOG, metadata), [log])


def photo_checkpoints_of(job: PhotoJob) -> Path:
    """Return the folder of all checkpoints of the job's model and seed; a run must hold its lock, for it removes those of others."""
    return job.scratch / "retrain_photos" / f"{job.model}-{job.seed}"


def _open_photos(job: PhotoJob, device: torch.device) -> tuple[PhotoStore, PhotoStore | None]:
    settings, params = job.settings, job.settings.retrain_photos
    paths = {split: job.photos / f"{split}.parquet" for split in ("train", "validation")}
    groups = (
        [list(paths.values())] if params.train_on == "train_and_validation" else [[path] for path in paths.values()]
    )
    stores: list[PhotoStore] = []
    for group in groups:  # the first, which every epoch reads, takes what it needs; the next what is left
        left = settings.photo_view.memory_mb - sum(store.resident_mb for store in stores)
        stores.append(PhotoStore.open(group, device=device, memory_mb=left, threads=settings.device.threads))
    if len(stores[0]) < params.batch_size:
        raise BadInputError(
            f"retrain_photos.batch_size is {params.batch_size}, more than the {len(stores[0])} photos to train on.",
            where=job.photos,
            remedy="take smaller batches",
        )
    return stores[0], stores[1] if len(stores) > 1 else None


def _provenance(job: PhotoJob, chosen: ChosenGenotype, device: torch.device) -> Provenance:
    settings = job.settings
    read = _Settings(
        spec=job.spec,
        view=settings.photo_view,
        noise=settings.photo_noise,
        retrain=settings.retrain_photos,
        genotype=chosen.genotype,
    )
    files = [job.photos / "train.parquet", job.photos / "validation.parquet"]
    files += [job.genotype] if job.genotype is not None else []
    return collect_provenance(
        stage="retrain_photos",
        item=f"{job.model}-{job.seed}",
        params_sha256=digest_of(read),
        seed=job.seed,
        inputs=files,
        device=device_card(device),
    )
