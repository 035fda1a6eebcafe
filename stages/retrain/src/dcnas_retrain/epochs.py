"""What all training runs share: epoch after epoch, each checked, logged, reported and saved, and going on after a kill bit for bit."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from dcnas_harness.console import progress
from dcnas_harness.errors import CorruptArtefactError, NumericalError
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.distributed import ALONE, Team, newest_of_leader

_STEPS_BETWEEN_CHECKS = 50
"""Steps after which losses are fetched from the device and checked: each fetch makes a GPU wait."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """The outside of a training run."""

    label: str
    epochs: int
    checkpoints: CheckpointFolder
    samples: int
    """Of an epoch, for the speed that is reported."""
    unit: str
    """What a sample is called: `scenes`."""
    section: str
    """Section of params.yaml that a remedy names."""
    team: Team = ALONE
    """The processes that train together; the leader keeps the checkpoints and reports."""


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """
    What changes while training: every field goes into each checkpoint, and with the epoch's number nothing else decides the next step.

    A recipe adds what else it has: generators, and what has `state_dict` and `load_state_dict`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rows: list[dict[str, Any]]
    """The log so far, one row an epoch."""

    def to_save(self) -> dict[str, Any]:
        """Return the state as nested dicts of tensors and JSON values."""
        return {field.name: _saved(getattr(self, field.name)) for field in fields(self)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up a saved state; a missing part is a `KeyError`, never a silent default."""
        for field in fields(self):
            _take_back(getattr(self, field.name), saved[field.name])


def _saved(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part if isinstance(part, list) else part.state_dict()


def _take_back(part: Any, saved: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(saved)
    elif isinstance(part, list):
        part[:] = saved
    else:
        part.load_state_dict(saved)


class Learner(ABC):
    """What learns in a training run: it knows its data, its model, and how both are used."""

    state: TrainingState

    @abstractmethod
    def rate(self) -> float:
        """Return the learning rate of the coming epoch."""

    @abstractmethod
    def losses(self, epoch: int) -> Iterator[Tensor]:
        """Take the steps of an epoch, and yield the loss of each, still on the device."""

    @abstractmethod
    def validate(self) -> tuple[float | None, dict[str, Any]]:
        """Return the validation loss, `None` where there is nothing to validate on, and the columns of the log that hold the scores."""

    @abstractmethod
    def advance(self, epoch: int, validation_loss: float | None) -> None:
        """Set the learning rate for the epoch after `epoch`."""


def run_course(course: Course, learner: Learner) -> list[dict[str, Any]]:
    """
    Train from the newest checkpoint, or from the start, and return the log, one row an epoch.

    Raises:
        NumericalError: A loss is not finite; no checkpoint of that epoch is written.

        CorruptArtefactError: A checkpoint lacks a part of the state.
    """
    done = _take_up(course, learner)
    with progress(course.label, course.epochs) if course.team.leads else nullcontext() as report:
        for epoch in range(done + 1, course.epochs + 1):
            began = time.monotonic()
            rate = learner.rate()
            loss = _train_epoch(course, learner, epoch)
            validation_loss, scores = learner.validate()
            if validation_loss is not None and not math.isfinite(validation_loss):
                raise _not_finite("validation loss", epoch, "validation", rate, course)
            learner.advance(epoch, validation_loss)
            learner.state.rows.append({"epoch": epoch, "learning_rate": rate, "train_loss": loss, **scores})
            _save(course, learner, epoch, rate)
            speed = course.samples / (time.monotonic() - began)
            validated = "" if validation_loss is None else f", validation {validation_loss:.4f}"
            if report is not None:
                report.update(epoch, f"loss {loss:.4f}{validated}, {speed:.0f} {course.unit}/s")
    return learner.state.rows


def _take_up(course: Course, learner: Learner) -> int:
    checkpoint = newest_of_leader(course.checkpoints, course.team)
    if checkpoint is None:
        return 0
    done, saved = checkpoint
    try:
        learner.state.restore(saved)
    except KeyError as error:
        raise CorruptArtefactError(
            f"The checkpoint of epoch {done} lacks {error}.",
            where=course.checkpoints.folder,
            remedy="delete the folder to train from the start",
        ) from error
    return done


def _train_epoch(course: Course, learner: Learner, epoch: int) -> float:
    losses: list[Tensor] = []
    checked = 0
    for loss in learner.losses(epoch):
        losses.append(loss)
        if len(losses) - checked == _STEPS_BETWEEN_CHECKS:
            _check_finite(losses, checked, epoch, learner.rate(), course)
            checked = len(losses)
    _check_finite(losses, checked, epoch, learner.rate(), course)
    return float(torch.stack(losses).double().mean())


def _check_finite(losses: list[Tensor], checked: int, epoch: int, rate: float, course: Course) -> None:
    finite = torch.stack(losses[checked:]).isfinite() if losses[checked:] else torch.ones(1, dtype=torch.bool)
    if not finite.all():
        raise _not_finite("loss", epoch, str(checked + int(finite.logical_not().nonzero()[0]) + 1), rate, course)


def _save(course: Course, learner: Learner, epoch: int, rate: float) -> None:
    course.team.require_alike(learner.state.model.state_dict())
    if not course.team.leads:
        return
    try:
        course.checkpoints.save(epoch, learner.state.to_save())
    except ValueError as error:  # finite losses, but weights or averages overflowed
        raise _not_finite("state of the model or of its optimiser", epoch, "the last", rate, course) from error


def _not_finite(what: str, epoch: int, batch: str, rate: float, course: Course) -> NumericalError:
    last = (
        f"the last good checkpoint is epoch {epoch - 1} in {course.checkpoints.folder}"
        if epoch > 1
        else "there is no checkpoint yet"
    )
    return NumericalError(
        f"The {what} is not finite at epoch {epoch}, batch {batch}, learning rate {rate:g}; {last}.",
        where=course.label,
        remedy=f"lower {course.section}.learning_rate, or set {course.section}.precision: fp32",
    )
