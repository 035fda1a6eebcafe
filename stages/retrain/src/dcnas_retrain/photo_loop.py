"""Training on photos: TF-NAS's recipe, and the state that a killed run needs to go on bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from dcnas_data.noise import add_uniform_noise
from dcnas_data.photo_loader import PhotoBatch, PhotoStore
from dcnas_data.photo_views import CentreView, RandomView
from dcnas_data.share import ALL, Share
from dcnas_nets.quick import quicken
from dcnas_nets.space import SpaceOutput
from dcnas_retrain.epochs import Course, Learner, TrainingState, run_course
from dcnas_schema.photo_models import Images
from dcnas_schema.photo_params import PhotoViewParams
from dcnas_schema.photo_training import PhotoNoiseParams, RetrainPhotosParams
from dcnas_schema.seeds import derive_step_seed
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.distributed import ALONE, Team
from dcnas_training.execution import Execution
from dcnas_training.metrics import correct_among, psnr_db, squared_error_per_image
from dcnas_training.norm import recalibrate_norm
from dcnas_training.optimizers import EagerSGD
from dcnas_training.photo_losses import photo_loss
from dcnas_training.schedules import cosine_rate, peak_rate
from dcnas_training.seeds import generator, seeded

_CPU = torch.device("cpu")
_RECALIBRATION_BATCH = 64
"""Photos a pass when batch norm's statistics are computed anew: more than a step takes, as they stand for all photos."""


@dataclass(frozen=True, kw_only=True)
class PhotoRun:
    """Everything that one training run works with."""

    model: nn.Module
    """Gives `SpaceOutput`."""
    images: Images
    train: PhotoStore
    validation: PhotoStore | None
    execution: Execution
    epochs: int
    view: PhotoViewParams
    noise: PhotoNoiseParams
    params: RetrainPhotosParams
    seed: int
    checkpoints: CheckpointFolder
    label: str
    team: Team = ALONE
    """The processes that train together."""
    share: Share = ALL
    """What this one takes of each batch."""

    @property
    def peak_rate(self) -> float:
        """The highest learning rate."""
        return peak_rate(
            self.params.learning_rate, batch_size=self.params.batch_size, of_batch=self.params.learning_rate_batch
        )


@dataclass(frozen=True, kw_only=True)
class PhotoState(TrainingState):
    """What changes while training on photos."""

    shuffle: torch.Generator
    crops: torch.Generator
    """Random crops, flips and factors, on the device."""
    jitter_order: torch.Generator
    noise: torch.Generator


def train_on_photos(run: PhotoRun) -> list[dict[str, Any]]:
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
        unit="photos",
        section="retrain_photos",
        team=run.team,
    )
    rows = run_course(course, _PhotoLearner(run))
    run.model.eval()
    return rows


def start_photo_state(run: PhotoRun) -> PhotoState:
    """Put the model on its device and return the state before the first step."""
    device, params = run.execution.device, run.params
    quicken(run.model)
    model = run.model.to(device=device, memory_format=run.execution.torch_format)  # type: ignore[call-overload] # torch's stub lacks this pair
    optimizer = EagerSGD(
        model.parameters(),
        lr=run.peak_rate,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        fused=True,
    )
    return PhotoState(
        model=model,
        optimizer=optimizer,
        shuffle=generator(run.seed, "shuffle", _CPU),
        crops=generator(run.seed, "crops", device),
        jitter_order=generator(run.seed, "jitter_order", _CPU),
        noise=generator(run.seed, "noise", device),
        rows=[],
    )


def photo_step(run: PhotoRun, state: PhotoState, batch: PhotoBatch, *, epoch: int, step: int) -> Tensor:
    """Take one optimiser step on `batch` and return its loss, still on the device."""
    image = _network_input(run, state, batch)
    seed = derive_step_seed(run.seed, "dropout", epoch, step)
    with seeded(seed, run.execution.device), run.team.sharing(len(image)), run.execution.autocast():
        output: SpaceOutput = run.model(image)
    loss = photo_loss(output.restored, output.logits, batch.clean, batch.labels, run.params.loss)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call] # torch gives it no types
    mean = run.team.average_gradients(run.model.parameters(), loss)
    if run.params.grad_clip is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.params.grad_clip, foreach=True)
    state.optimizer.step()
    return mean


def _network_input(run: PhotoRun, state: PhotoState, batch: PhotoBatch) -> Tensor:
    memory_format = run.execution.torch_format
    if run.images == "clean":
        return batch.clean.contiguous(memory_format=memory_format)
    noisy, _ = add_uniform_noise(
        batch.clean, run.noise.highest, generator=state.noise, clip=run.noise.clip, rows=batch.rows
    )
    return noisy.contiguous(memory_format=memory_format)


class _PhotoLearner(Learner):
    """A model of Sec. 4 on photos: SGD, and a rate that falls along a cosine."""

    state: PhotoState

    def __init__(self, run: PhotoRun) -> None:
        self.run = run
        self.state = start_photo_state(run)
        self.view = RandomView(run.view, draws=self.state.crops, order=self.state.jitter_order)
        self.centre = CentreView(run.view)

    def rate(self) -> float:
        """Return the learning rate of the epoch that the log has no row of yet."""
        return cosine_rate(
            len(self.state.rows) + 1,
            epochs=self.run.epochs,
            peak=self.run.peak_rate,
            warmup=self.run.params.warmup,
            batch_size=self.run.params.batch_size,
        )

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """Take the epoch's steps, one a whole batch."""
        run, state = self.run, self.state
        run.model.train()
        for group in state.optimizer.param_groups:
            group["lr"] = self.rate()
        batches = run.train.shuffled(run.params.batch_size, self.view, state.shuffle, run.share)
        for step, batch in enumerate(batches, start=1):
            yield photo_step(run, state, batch, epoch=epoch, step=step)
        if epoch == run.epochs and run.params.recalibrate:  # before the last checkpoint, which holds the new statistics
            recalibrate_norm(run.model, self._passes(run.params.recalibrate))

    def _passes(self, photos: int) -> Iterator[Callable[[], object]]:
        """Yield forward passes over random training photos, seen as in training and with fresh noise; every process makes all of them."""
        size = min(_RECALIBRATION_BATCH, len(self.run.train))
        for batch in islice(self._endless(size), -(-photos // size)):
            yield partial(self._forward, _network_input(self.run, self.state, batch))

    def _endless(self, batch_size: int) -> Iterator[PhotoBatch]:
        while True:
            yield from self.run.train.shuffled(batch_size, self.view, self.state.shuffle)

    def _forward(self, image: Tensor) -> None:
        with self.run.execution.autocast():
            self.run.model(image)

    def validate(self) -> tuple[float | None, dict[str, Any]]:
        """Return loss, PSNR [dB], top-1 and top-5 [%] on the validation photos, each with one fixed noise; nulls where there are none."""
        names = ("validation_loss", "validation_psnr_db", "validation_top1_pct", "validation_top5_pct")
        if self.run.validation is None:
            return None, dict.fromkeys(names)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        self.run.model.eval()
        with torch.inference_mode():
            for image, batch in self._validation_batches(self.run.validation):
                with self.run.execution.autocast():
                    output: SpaceOutput = self.run.model(image)
                loss = photo_loss(output.restored, output.logits, batch.clean, batch.labels, self.run.params.loss)
                found["validation_loss"].append(loss.expand(len(image)))
                if output.restored is not None:
                    error = squared_error_per_image(output.restored.clamp(0, 1), batch.clean)
                    found["validation_psnr_db"].append(psnr_db(error))
                if output.logits is not None:
                    for count in (1, 5):
                        right = correct_among(output.logits, batch.labels, count)
                        found[f"validation_top{count}_pct"].append(100 * right.double())
        means = {name: self.run.team.mean([value.double() for value in values]) for name, values in found.items()}
        return means["validation_loss"], means

    def _validation_batches(self, photos: PhotoStore) -> Iterator[tuple[Tensor, PhotoBatch]]:
        """Each validation photo with one noise level and one noise, the same at every epoch and in every run of a seed on one device."""
        run = self.run
        fixed = generator(run.seed, "validation_noise", run.execution.device)
        for batch in photos.in_order(run.params.batch_size, self.centre, run.share):
            image = batch.clean
            if run.images == "noisy":
                levels = [run.noise.sigmas[number % len(run.noise.sigmas)] for number in batch.numbers.tolist()]
                sigma = torch.tensor(levels, device=image.device).view(-1, 1, 1, 1)
                noise = image.new_empty((batch.rows.whole, *image.shape[1:])).normal_(generator=fixed)
                image = image + batch.rows.of(noise) * sigma
                image = image.clamp(0, 1) if run.noise.clip else image
            yield image.contiguous(memory_format=run.execution.torch_format), batch

    def advance(self, epoch: int, validation_loss: float | None) -> None:
        """Do nothing: the epoch alone decides the rate."""
        del epoch, validation_loss
