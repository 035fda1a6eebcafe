"""The training loop on scenes: one long, flat, readable step, and the state that a killed run needs to go on bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dcnas_data.loader import ResidentScenes, SceneBatch
from dcnas_data.noise import add_training_noise, evaluation_noise
from dcnas_data.share import ALL, Share
from dcnas_nets.models import SceneModel
from dcnas_nets.quick import quicken
from dcnas_retrain.epochs import Course, Learner, TrainingState, run_course
from dcnas_schema.params import NoiseParams, RetrainParams
from dcnas_schema.seeds import derive_seed
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.distributed import ALONE, Team
from dcnas_training.execution import Execution
from dcnas_training.losses import scene_loss
from dcnas_training.metrics import correct_digits, psnr_db, squared_error_per_image
from dcnas_training.norm import recalibrate_norm
from dcnas_training.optimizers import EagerAdam
from dcnas_training.seeds import generator

_RECALIBRATION_BATCH = 16
"""Scenes a pass when batch norm's statistics are computed anew."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that one training run works with."""

    model: SceneModel
    train: ResidentScenes
    validation: ResidentScenes
    execution: Execution
    epochs: int
    noise: NoiseParams
    params: RetrainParams
    seed: int
    checkpoints: CheckpointFolder
    label: str
    team: Team = ALONE
    """The processes that train together."""
    share: Share = ALL
    """What this one takes of each batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What the validation scenes say of the model; `None` for a task that it does not have."""

    loss: float
    psnr_db: float | None
    top1_pct: float | None


@dataclass(frozen=True, kw_only=True)
class State(TrainingState):
    """What changes while training on scenes."""

    schedule: ReduceLROnPlateau
    shuffle: torch.Generator
    noise: torch.Generator


def train(run: Run) -> list[dict[str, Any]]:
    """
    Train `run.model` in place and return the log, one row an epoch.

    Raises:
        NumericalError: A loss is not finite; no checkpoint of that epoch is written.
    """
    course = Course(
        label=run.label,
        epochs=run.epochs,
        checkpoints=run.checkpoints,
        samples=len(run.train),
        unit="scenes",
        section="retrain",
        team=run.team,
    )
    rows = run_course(course, _SceneLearner(run))
    run.model.eval()
    return rows


class _SceneLearner(Learner):
    """A model of Sec. 3 on scenes: Adam, and a rate that falls on a plateau of the validation loss."""

    state: State

    def __init__(self, run: Run) -> None:
        self.run = run
        self.state = start_state(run)
        self.sigmas = torch.tensor(run.noise.sigmas, device=run.execution.device)
        self.validation = list(_validation_batches(run))

    def rate(self) -> float:
        rate: float = self.state.optimizer.param_groups[0]["lr"]
        return rate

    def losses(self, epoch: int) -> Iterator[Tensor]:
        self.run.model.train()
        for batch in self.run.train.shuffled(self.run.params.batch_size, self.state.shuffle, self.run.share):
            yield train_step(self.run, self.state, batch, self.sigmas)
        if epoch == self.run.epochs and self.run.params.recalibrate:
            recalibrate_norm(self.run.model, self._passes(self.run.params.recalibrate))

    def _passes(self, scenes: int) -> Iterator[Callable[[], object]]:
        """Yield forward passes over the first training scenes, with fresh noise; every process makes all of them."""
        for batch in islice(self.run.train.in_order(_RECALIBRATION_BATCH), -(-scenes // _RECALIBRATION_BATCH)):
            image = network_input(self.run, self.state, batch, self.sigmas)
            yield partial(self._forward, image, batch.corners)

    def _forward(self, image: Tensor, corners: Tensor) -> None:
        with self.run.execution.autocast():
            self.run.model(image, corners)

    def validate(self) -> tuple[float, dict[str, Any]]:
        scores = validate(self.run, self.validation)
        columns = {
            "validation_loss": scores.loss,
            "validation_psnr_db": scores.psnr_db,
            "validation_top1_pct": scores.top1_pct,
        }
        return scores.loss, columns

    def advance(self, epoch: int, validation_loss: float | None) -> None:
        del epoch
        assert validation_loss is not None, "there are always validation scenes"
        self.state.schedule.step(validation_loss)


def start_state(run: Run) -> State:
    """Put the model on its device and return the state before the first step."""
    device = run.execution.device
    quicken(run.model)
    model = run.model.to(device=device, memory_format=run.execution.torch_format)  # type: ignore[call-overload] # torch's stub lacks this pair
    optimizer = EagerAdam(model.parameters(), lr=run.params.learning_rate, fused=True)
    plateau = run.params.plateau
    schedule = ReduceLROnPlateau(optimizer, factor=plateau.factor, patience=plateau.patience, min_lr=plateau.minimum)
    return State(
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        shuffle=generator(run.seed, "shuffle", torch.device("cpu")),
        noise=generator(run.seed, "noise", device),
        rows=[],
    )


def train_step(run: Run, state: State, batch: SceneBatch, sigmas: Tensor) -> Tensor:
    """Take one optimiser step on `batch` and return its loss, still on the device."""
    image = network_input(run, state, batch, sigmas)
    with run.team.sharing(len(image)), run.execution.autocast():
        output = run.model(image, batch.corners)
    loss = scene_loss(output.restored, output.logits, batch.clean, batch.labels, run.params.loss)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call] # torch gives it no types
    mean = run.team.average_gradients(run.model.parameters(), loss)
    state.optimizer.step()
    return mean


def network_input(run: Run, state: State, batch: SceneBatch, sigmas: Tensor) -> Tensor:
    """Return the scenes as the model wants them in training: with fresh noise, or clean, in three channels."""
    memory_format = run.execution.torch_format
    if run.model.images == "clean":
        return batch.clean.expand(-1, 3, -1, -1).contiguous(memory_format=memory_format)
    return add_training_noise(
        batch.clean,
        sigmas,
        generator=state.noise,
        clip=run.noise.clip,
        memory_format=memory_format,
        rows=batch.rows,
    )


def validate(run: Run, batches: list[tuple[Tensor, SceneBatch]]) -> Scores:
    """Return the loss, PSNR [dB] and top-1 [%] on the validation scenes, each with one fixed noise."""
    run.model.eval()
    losses, errors, correct = [], [], []
    with torch.inference_mode():
        for image, batch in batches:
            with run.execution.autocast():
                output = run.model(image, batch.corners)
            loss = scene_loss(output.restored, output.logits, batch.clean, batch.labels, run.params.loss)
            losses.append(loss * len(image))
            if output.restored is not None:
                errors.append(squared_error_per_image(output.restored.clamp(0, 1), batch.clean))
            if output.logits is not None:
                correct.append(correct_digits(output.logits, batch.labels).float())
    top1 = run.team.mean(correct)
    return Scores(
        loss=run.team.total(losses) / len(run.validation),
        psnr_db=run.team.mean([psnr_db(torch.cat(errors))] if errors else []),
        top1_pct=None if top1 is None else 100 * top1,
    )


def _validation_batches(run: Run) -> Iterator[tuple[Tensor, SceneBatch]]:
    """Each validation scene with one noise level and one noise, the same at every epoch and in every run of a seed."""
    device, start = run.execution.device, 0
    seed = derive_seed(run.seed, "validation_noise")
    for batch in run.validation.in_order(run.params.batch_size, run.share):
        height, width = batch.clean.shape[-2:]
        image = batch.clean.expand(-1, 3, -1, -1)
        if run.model.images == "noisy":
            numbers = range(start + batch.rows.first, start + batch.rows.end)
            sigma = torch.tensor([run.noise.sigmas[i % len(run.noise.sigmas)] for i in numbers], device=device)
            noise = evaluation_noise((3, height, width), seed=seed, images=numbers, level=0).to(device)
            image = image + noise * sigma.view(-1, 1, 1, 1)
            image = image.clamp(0, 1) if run.noise.clip else image
        start += batch.rows.whole
        yield image.contiguous(memory_format=run.execution.torch_format), batch
