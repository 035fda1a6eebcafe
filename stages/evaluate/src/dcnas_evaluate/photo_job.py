"""One evaluation on photos from files to files."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import nn

from dcnas_data.photo_loader import PhotoStore
from dcnas_evaluate.photo_score import Scorer
from dcnas_evaluate.question import PhotoNet, Question
from dcnas_evaluate.timing import measured_latency
from dcnas_harness.asking import Ask
from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_latency.card import device_card, fingerprint
from dcnas_latency.files import read_profile
from dcnas_latency.lock import device_lock
from dcnas_latency.models import predict_model
from dcnas_latency.predictor import Predictor
from dcnas_lineage.collect import collect_provenance
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.photo_nets import build_photo_net
from dcnas_schema.latency import Clock, LatencySetting, ProfileMetadata
from dcnas_schema.params import Params, Section, digest_of
from dcnas_schema.parquet import read_parquet, with_metadata, write_parquet
from dcnas_schema.photo_models import PhotoModelSpec
from dcnas_schema.photo_params import PhotoViewParams
from dcnas_schema.photo_records import (
    PHOTO_PANEL,
    PHOTO_RECORD,
    PHOTO_TRAINING_LOG,
    ModelLatency,
    PhotoEvaluationMetadata,
    PhotoPanelMetadata,
    PhotoTrainingMetadata,
)
from dcnas_schema.photo_training import EvaluatePhotosParams, PhotoNoiseParams
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import Protocol
from dcnas_schema.search_log import NetCost, PredictedLatency
from dcnas_training.checkpoints import load_tensors
from dcnas_training.execution import (
    Execution,
    choose_device,
    choose_execution,
    keep_freed_memory,
    make_deterministic,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoJob:
    """What one run of this pipeline stage on photos is asked to do."""

    model: str
    seed: int
    settings: Params
    photos: Path
    """Folder with test.parquet."""
    trained: Path
    """Folder with weights.safetensors and log.parquet."""
    profile: Path | None
    """Latency profile: predicts the model, and its setting is that of the timed one."""
    scratch: Path
    """Folder where this machine's best time of the reference op is kept."""

    @property
    def spec(self) -> PhotoModelSpec:
        """The model's description."""
        return self.settings.photo_models[self.model]


class _Settings(Section):
    """The parameters that the record depends on."""

    spec: PhotoModelSpec
    view: PhotoViewParams
    noise: PhotoNoiseParams
    evaluate: EvaluatePhotosParams


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trained:
    """The model as it was trained."""

    weights: Path
    log: Path
    metadata: PhotoTrainingMetadata

    def build(self, *, classes: int) -> nn.Module:
        """Return it anew with random weights, in eval mode."""
        metadata = self.metadata
        return build_photo_net(metadata.spec, genotype=metadata.genotype, classes=classes, seed=0).eval()


def evaluate_photo_job(job: PhotoJob, out: Path, ask: Ask | None = None) -> None:
    """
    Score, count and time the job's model; write `record.parquet` and `panel.parquet` into `out`.

    Args:
        ask: Asks the process that times nets (`dcnas_evaluate.timing`); without it they are timed in this one.

    Raises:
        CorruptArtefactError: An input is damaged, or the weights are not those of this model, seed and photo set.
    """
    settings, evaluate = job.settings, job.settings.evaluate_photos
    device = choose_device(settings.device)
    make_deterministic(device)
    keep_freed_memory()
    trained = _checked_training(job)
    test = job.photos / "test.parquet"
    photos = PhotoStore.open(
        [test], device=device, memory_mb=settings.photo_view.memory_mb, threads=settings.device.threads
    )
    model = _trained_model(trained, photos)
    # unlike training, evaluation has no slow batch-norm backward: channels_last is faster for narrow nets on a CPU too
    execution = choose_execution(model, device, precision=evaluate.precision, memory_format="channels_last")
    model = model.to(device=device, memory_format=execution.torch_format)  # type: ignore[call-overload] # torch's stub lacks this pair
    card = device_card(device)
    profile = [] if job.profile is None else [job.profile]
    provenance = collect_provenance(
        stage="evaluate_photos",
        item=f"{job.model}-{job.seed}",
        params_sha256=digest_of(
            _Settings(spec=job.spec, view=settings.photo_view, noise=settings.photo_noise, evaluate=evaluate)
        ),
        seed=job.seed,
        inputs=(test, trained.weights, trained.log, *profile),
        device=card,
    )
    scorer = Scorer(
        model=model,
        photos=photos,
        view=settings.photo_view,
        noise=settings.photo_noise,
        params=evaluate,
        execution=execution,
    )
    with device_lock(card, exclusive=False):  # whoever times this device waits for us, and we for them
        rows, panel = scorer.score(f"evaluate {job.model} seed {job.seed} ({device.type} {execution.precision})")
        cost = _cost(trained.build(classes=len(photos.classes)), settings.photo_view.size)
    metadata = PhotoEvaluationMetadata(
        model=job.model,
        seed=job.seed,
        spec=job.spec,
        genotype=trained.metadata.genotype,
        search_seed=trained.metadata.search_seed,
        drawn=trained.metadata.drawn,
        classes=photos.classes,
        epochs=trained.metadata.epochs,
        image_size=settings.photo_view.size,
        protocol=Protocol(
            sigmas=settings.photo_noise.sigmas,
            clip_noisy=settings.photo_noise.clip,
            noise_seed=evaluate.noise_seed,
            precision=execution.precision,
        ),
        cost=cost,
        latency=_latency(job, trained, execution, card, classes=len(photos.classes), ask=ask),
        provenance=provenance,
    )
    panel_metadata = PhotoPanelMetadata(model=job.model, seed=job.seed, classes=photos.classes, provenance=provenance)
    batch = pa.RecordBatch.from_pylist(panel, schema=PHOTO_PANEL)
    write_parquet(out / "panel.parquet", with_metadata(PHOTO_PANEL, panel_metadata), [batch])
    record = pa.RecordBatch.from_pylist(rows, schema=PHOTO_RECORD)
    write_parquet(out / "record.parquet", with_metadata(PHOTO_RECORD, metadata), [record])


def _checked_training(job: PhotoJob) -> _Trained:
    """Return the training's outputs, which must be of the job and belong to each other."""
    weights, log = job.trained / "weights.safetensors", job.trained / "log.parquet"
    _, training = read_parquet(log, PHOTO_TRAINING_LOG, PhotoTrainingMetadata)
    if (training.model, training.seed, training.spec) != (job.model, job.seed, job.spec):
        raise CorruptArtefactError(
            f"{log} is of {training.model} seed {training.seed} ({training.spec}), not of {job.model} seed {job.seed} ({job.spec}).",
            remedy="train the model again with these parameters: dvc repro",
        )
    if training.image_size != (size := job.settings.photo_view.size):
        raise CorruptArtefactError(
            f"{weights} was trained at {training.image_size}x{training.image_size} pixels; photo_view.size is {size}.",
            remedy="train the model again at this size: dvc repro",
        )
    if not weights.is_file():
        raise CorruptArtefactError(f"{weights} does not exist.", remedy="run: dvc repro (or dvc pull)")
    if sha256_of(weights) != training.weights_sha256:
        raise CorruptArtefactError(
            f"{weights} is damaged or not the file that was written with {log.name}.",
            remedy=f"run: dvc checkout {weights} (or train the model again)",
        )
    return _Trained(weights=weights, log=log, metadata=training)


def _trained_model(trained: _Trained, photos: PhotoStore) -> nn.Module:
    if trained.metadata.classes != photos.classes:
        mine, theirs = (
            ", ".join(name for name in some if name not in others) or f"{len(some)} in another order"
            for some, others in ((trained.metadata.classes, photos.classes), (photos.classes, trained.metadata.classes))
        )
        raise CorruptArtefactError(
            f"{trained.weights} was trained on other classes than those of the test photos: {mine} against {theirs}.",
            remedy="train the model again on this photo set: dvc repro",
        )
    model = trained.build(classes=len(photos.classes))
    try:
        model.load_state_dict(load_tensors(trained.weights))
    except RuntimeError as error:
        raise CorruptArtefactError(
            f"{trained.weights} does not fit the model: {error}", remedy="run: dvc repro"
        ) from error
    return model


def _cost(model: nn.Module, image_size: int) -> NetCost:
    """Count on a fresh model on the CPU in fp32: hooks and counting leave the scored one alone."""
    return NetCost(
        macs=count_macs(model, torch.zeros(1, 3, image_size, image_size)), parameters=count_parameters(model)
    )


def _latency(
    job: PhotoJob, trained: _Trained, execution: Execution, card: DeviceCard, *, classes: int, ask: Ask | None
) -> ModelLatency:
    params = job.settings.evaluate_photos.latency
    size = job.settings.photo_view.size
    setting = profile_card = predicted = not_comparable = None
    clock: Clock = "wall"
    if job.profile is not None:
        entries, profile = read_profile(job.profile)
        setting, profile_card, clock = profile.setting, profile.device, profile.protocol.clock
        found = predict_model(job.spec, trained.metadata.genotype, Predictor.of(entries, profile), setting)
        predicted = None if found is None else PredictedLatency(ms=found.ms, low_ms=found.low_ms, high_ms=found.high_ms)
        not_comparable = _why_not_comparable(profile, setting, card)
    measured = None
    if params.measure:  # where there is a profile in its setting, but with trained weights, and not bound to its cores
        net = PhotoNet(
            spec=job.spec,
            genotype=trained.metadata.genotype,
            classes=classes if setting is None else setting.classes,
        )
        question = Question(
            photo_net=net,
            weights=str(trained.weights),
            height=size if setting is None else setting.height,
            width=size if setting is None else setting.width,
            precision=execution.precision if setting is None else setting.precision,
            memory_format=execution.memory_format if setting is None else setting.memory_format,
            cache="warm" if setting is None else setting.cache,
            tf32=True if setting is None else setting.tf32,
            params=params if setting is None else params.model_copy(update={"batch": setting.batch}),
            card=card,
            scratch=str(job.scratch),
        )
        measured = measured_latency(question, ask)
    return ModelLatency(
        measured=measured,
        setting=setting,
        profile_card=profile_card,
        predicted=predicted,
        not_comparable=not_comparable,
        clock=clock,
    )


def _why_not_comparable(profile: ProfileMetadata, setting: LatencySetting, card: DeviceCard) -> str | None:
    if setting.runtime != "torch_eager":
        return f"the profile is of {setting.runtime}, the measurement of torch_eager"
    if fingerprint(profile.device) != fingerprint(card):
        return f"the profile is of {profile.device.name}, the measurement of {card.name}"
    if setting.threads != card.threads:
        return f"the profile is of {setting.threads} threads, the measurement of {card.threads}"
    return None
