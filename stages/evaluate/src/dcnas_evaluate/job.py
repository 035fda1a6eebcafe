"""One evaluation from files to files."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from dcnas_data.loader import ResidentScenes
from dcnas_data.scenes import read_scenes
from dcnas_evaluate.question import Question, SceneNet
from dcnas_evaluate.score import panel_rows, score_levels
from dcnas_evaluate.timing import measured_latency
from dcnas_harness.asking import Ask
from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_latency.card import device_card
from dcnas_latency.lock import device_lock
from dcnas_lineage.collect import collect_provenance
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.models import SceneModel, build_model, example_input
from dcnas_schema.params import EvaluateParams, ModelSpec, NoiseParams, Params, Section, digest_of
from dcnas_schema.parquet import read_parquet, with_metadata, write_parquet
from dcnas_schema.records import (
    PANEL,
    RECORD,
    TRAINING_LOG,
    Cost,
    EvaluationMetadata,
    PanelMetadata,
    Protocol,
    TrainingMetadata,
)
from dcnas_training.checkpoints import load_tensors
from dcnas_training.execution import choose_device, choose_execution, keep_freed_memory, make_deterministic


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What one run of this pipeline stage is asked to do."""

    model: str
    seed: int
    params: Params
    scenes: Path
    """Folder with test.parquet."""
    trained: Path
    """Folder with weights.safetensors and log.parquet."""
    scratch: Path
    """Folder where the machine's best time of the reference op is kept."""


class _Settings(Section):
    """The parameters that the record depends on."""

    spec: ModelSpec
    noise: NoiseParams
    evaluate: EvaluateParams


def evaluate_job(job: Job, out: Path, ask: Ask | None = None) -> None:
    """
    Score, count and time the job's model; write `record.parquet` and `panel.parquet` into `out`.

    Args:
        ask: Asks the process that times nets (`dcnas_evaluate.timing`); without it they are timed in this one.

    Raises:
        CorruptArtefactError: An input is damaged, or the weights are not those of this model and seed.
    """
    params, spec, evaluate = job.params, job.params.models[job.model], job.params.evaluate
    device = choose_device(params.device)
    make_deterministic(device)
    keep_freed_memory()
    weights, log = job.trained / "weights.safetensors", job.trained / "log.parquet"
    training = _checked_training(job, weights, log)
    model = _trained_model(spec, weights)
    # unlike training, evaluation has no slow batch-norm backward: channels_last is faster for narrow nets on a CPU too
    execution = choose_execution(model, device, precision=evaluate.precision, memory_format="channels_last")
    model = model.to(device=device, memory_format=execution.torch_format).eval()  # type: ignore[call-overload] # torch's stub lacks this pair
    test = job.scenes / "test.parquet"
    scenes = ResidentScenes(read_scenes(test), device)
    card = device_card(device)
    provenance = collect_provenance(
        stage="evaluate",
        item=f"{job.model}-{job.seed}",
        params_sha256=digest_of(_Settings(spec=spec, noise=params.noise, evaluate=evaluate)),
        seed=job.seed,
        inputs=(test, weights, log),
        device=card,
    )
    label = f"evaluate {job.model} seed {job.seed} ({device.type} {execution.precision})"
    with device_lock(card, exclusive=False):  # whoever times this device waits for us, and we for them
        rows = score_levels(model, scenes, execution, noise=params.noise, evaluate=evaluate, label=label)
        panel = panel_rows(model, scenes, execution, noise=params.noise, evaluate=evaluate)
        cost = _cost(spec, evaluate.image_size)
    latency = None
    if evaluate.latency.measure:
        question = Question(
            scene_net=SceneNet(spec=spec),
            weights=str(weights),
            height=evaluate.image_size,
            width=evaluate.image_size,
            precision=execution.precision,
            memory_format=execution.memory_format,
            params=evaluate.latency,
            card=card,
            scratch=str(job.scratch),
        )
        latency = measured_latency(question, ask)
    metadata = EvaluationMetadata(
        model=job.model,
        seed=job.seed,
        spec=spec,
        epochs=training.epochs,
        protocol=Protocol(
            sigmas=params.noise.sigmas,
            clip_noisy=params.noise.clip,
            noise_seed=evaluate.noise_seed,
            precision=execution.precision,
        ),
        cost=cost,
        latency=latency,
        provenance=provenance,
    )
    panel_metadata = PanelMetadata(model=job.model, seed=job.seed, provenance=provenance)
    batch = pa.RecordBatch.from_pylist(panel, schema=PANEL)
    write_parquet(out / "panel.parquet", with_metadata(PANEL, panel_metadata), [batch])
    record = pa.RecordBatch.from_pylist(rows, schema=RECORD)
    write_parquet(out / "record.parquet", with_metadata(RECORD, metadata), [record])


def _checked_training(job: Job, weights: Path, log: Path) -> TrainingMetadata:
    """Return what the log says of the training, which must be that of the job and of the weights."""
    spec = job.params.models[job.model]
    _, training = read_parquet(log, TRAINING_LOG, TrainingMetadata)
    if (training.model, training.seed, training.spec) != (job.model, job.seed, spec):
        raise CorruptArtefactError(
            f"{log} is of {training.model} seed {training.seed} ({training.spec}), not of {job.model} seed {job.seed} ({spec}).",
            remedy=f"run: dvc repro retrain@{job.model}-{job.seed}",
        )
    if not weights.is_file():
        raise CorruptArtefactError(f"{weights} does not exist.", remedy="run: dvc repro (or dvc pull)")
    if sha256_of(weights) != training.weights_sha256:
        raise CorruptArtefactError(
            f"{weights} is damaged or not the file that was written with {log.name}.",
            remedy=f"run: dvc checkout {weights} (or dvc repro --force --single-item retrain@{job.model}-{job.seed})",
        )
    return training


def _trained_model(spec: ModelSpec, weights: Path) -> SceneModel:
    model = build_model(spec, seed=0)
    try:
        model.load_state_dict(load_tensors(weights))
    except RuntimeError as error:
        raise CorruptArtefactError(f"{weights} does not fit the model: {error}", remedy="run: dvc repro") from error
    return model


def _cost(spec: ModelSpec, image_size: int) -> Cost:
    model = build_model(spec, seed=0)  # a fresh one on the CPU in fp32: hooks and counting leave the scored model alone
    image, corners = example_input(1, image_size, image_size, torch.device("cpu"))
    return Cost(
        macs=count_macs(model, image, corners),
        macs_one_digit=count_macs(model, image, corners[:, :1]),
        parameters=count_parameters(model),
        height=image_size,
        width=image_size,
    )
