"""The search's loop: one long, flat, readable function, and the state that a killed search needs to go on bit for bit."""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dcnas_data.noise import add_uniform_noise
from dcnas_data.photo_loader import PhotoBatch
from dcnas_data.photo_views import CentreView, RandomView, View
from dcnas_data.share import ALL, Share
from dcnas_harness.console import progress
from dcnas_harness.errors import CorruptArtefactError, NumericalError
from dcnas_nets.supernet import Supernet
from dcnas_schema.search_params import SearchSpec, SearchSupernetParams
from dcnas_search_supernet.steps import ArchitectureSteps, Images, Normaliser, WeightSteps
from dcnas_training.architecture import Architecture, chosen_depths, chosen_ops, kept_places, scale_to_target
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.distributed import ALONE, Team, newest_of_leader
from dcnas_training.execution import Execution
from dcnas_training.search_latency import NetLatency, expected_latency_ms
from dcnas_training.search_sampling import HostCopy, PathSampler, gumbel_noise, temperature
from dcnas_training.seeds import generator

_STEPS_BETWEEN_CHECKS = 50
"""Steps after which losses are fetched from the device and checked: each fetch makes a GPU wait."""
_ON_DEVICE = ("crops", "noise", "architecture_noise")
_ON_HOST = ("shuffle", "jitter_order", "architecture_shuffle", "paths", "gumbel")


class PhotoSource(Protocol):
    """A split of photographs, such as `PhotoStore`."""

    def __len__(self) -> int:
        """Return how many there are."""

    def shuffled(self, batch_size: int, view: View, order: torch.Generator, share: Share) -> Iterator[PhotoBatch]:
        """Yield one epoch in random order, of each of its whole batches the share."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Everything that one search works with."""

    name: str
    spec: SearchSpec
    params: SearchSupernetParams
    net: Supernet
    architecture: Architecture
    latency: NetLatency
    """Of the net that the target bounds."""
    target_ms: float
    weight_photos: PhotoSource
    architecture_photos: PhotoSource
    execution: Execution
    seed: int
    checkpoints: CheckpointFolder
    team: Team = ALONE
    """The processes that search together: all draw the same paths and Gumbel noise; the leader keeps the checkpoints and reports."""
    share: Share = ALL
    """What this one takes of each batch."""


@dataclass(frozen=True, kw_only=True)
class State:
    """
    What changes in a search: all of it goes into each checkpoint, and nothing else decides the next epoch.

    Optimisers are made anew every epoch, as TF-NAS does, whose nets change their widths between epochs: they have no state to save.
    """

    net: Supernet
    architecture: Architecture
    generators: dict[str, torch.Generator]
    rows: list[dict[str, Any]]

    def to_save(self) -> dict[str, Any]:
        """Return the state as nested dicts of tensors and JSON values."""
        return {
            "net": self.net.to_save(),
            "architecture": self.architecture.to_save(),
            "generators": {name: one.get_state() for name, one in self.generators.items()},
            "rows": self.rows,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take up a saved state; a missing part is a `KeyError`, never a silent default."""
        self.net.restore(saved["net"])
        self.architecture.restore(saved["architecture"])
        for name, one in self.generators.items():
            one.set_state(saved["generators"][name])
        self.rows[:] = saved["rows"]


def search(run: Search) -> list[dict[str, Any]]:
    """
    Search: change `run.net` and `run.architecture` in place, and return the log, one row an epoch.

    Raises:
        NumericalError: A loss is not finite; no checkpoint of that epoch is written.
    """
    state = start_state(run)
    done = _take_up(run, state)
    label = f"search {run.name} seed {run.seed}"
    with progress(label, run.params.epochs) if run.team.leads else nullcontext() as report:
        for epoch in range(done + 1, run.params.epochs + 1):
            began = time.monotonic()
            row = _train_epoch(run, state, epoch)
            if epoch > run.params.warmup_epochs:
                _scale_widths(run)
            state.rows.append({**row, **describe(run)})
            _save(run, state, epoch, row["weight_rate"])
            speed = len(run.weight_photos) / (time.monotonic() - began)
            note = (
                f"loss {row['weight_loss']:.3f}, derived {state.rows[-1]['derived_ms']:.3f} of {run.target_ms:.3f} ms"
            )
            if report is not None:
                report.update(epoch, f"{note}, {speed:.0f} images/s")
    return state.rows


def start_state(run: Search) -> State:
    """Put the supernet on its device and return the state before the first step."""
    device, cpu = run.execution.device, torch.device("cpu")
    run.net.put_on(device, run.execution.torch_format)
    run.net.train()
    places = {**dict.fromkeys(_ON_DEVICE, device), **dict.fromkeys(_ON_HOST, cpu)}
    generators = {name: generator(run.seed, name, place) for name, place in places.items()}
    return State(net=run.net, architecture=run.architecture, generators=generators, rows=[])


def describe(run: Search) -> dict[str, Any]:
    """Return the log's columns that hold the architecture as it stands, and its latency."""
    architecture, ops = run.architecture, run.spec.candidates
    widths = run.net.widths()
    log_alphas = architecture.log_alphas.detach().cpu()
    log_betas = [log_beta.detach().cpu() for log_beta in architecture.log_betas]
    choices, depths = chosen_ops(log_alphas), chosen_depths(log_betas)
    table = torch.tensor(run.latency.table(ops, widths), dtype=torch.float64)
    shares = [log_beta.double().softmax(0) for log_beta in log_betas] or None
    expected = expected_latency_ms(log_alphas.double().softmax(1), table, run.latency.rest_ms, shares)
    kept = [(place, ops[choices[place]], widths[place][choices[place]]) for place in kept_places(depths)]
    return {
        "expected_ms": float(expected),
        "derived_ms": run.latency.total(kept),
        "log_alphas": log_alphas.double().flatten().tolist(),
        "log_betas": torch.cat(log_betas).double().tolist() if log_betas else None,
        "widths": [width for row in widths for width in row],
        "choices": choices,
        "depths": depths,
    }


def _train_epoch(run: Search, state: State, epoch: int) -> dict[str, Any]:
    """Train weights, and behind the warm-up the architecture, on every batch of an epoch, counted from 1; return the log's columns."""
    params, device = run.params, run.execution.device
    searching = epoch > params.warmup_epochs
    rate = params.learning_rate * (1 + math.cos(math.pi * (epoch - 1) / params.epochs)) / 2
    heat = temperature(
        epoch - 1, start=params.temperature.start, decay=params.temperature.decay, warmup_epochs=params.warmup_epochs
    )
    weights = WeightSteps(run.net, run.execution, params, rate=rate, team=run.team)
    steps = _architecture_steps(run) if searching else None
    view = _Batches(run, state)
    photos, sampler = view.of_architecture(), PathSampler(state.generators["paths"])
    log_alphas, depths = HostCopy(run.architecture.log_alphas), _detached(run.architecture)
    losses: list[Tensor] = []
    scores: list[Tensor] = []
    checked = 0
    for number, images in enumerate(view.of_weights()):
        paths = [sampler.first(log_alphas.read())]
        if searching:
            paths.append(sampler.second(paths[0], len(run.spec.candidates)))
        losses.append(weights.step(images, paths, depths))
        if steps is not None and number % params.architecture.every == 0:
            noise = gumbel_noise(tuple(run.architecture.log_alphas.shape), state.generators["gumbel"])
            scores.append(steps.step(next(photos), noise.to(device, non_blocking=True), heat))
            log_alphas.refresh()
            depths = _detached(run.architecture)
        if len(losses) - checked == _STEPS_BETWEEN_CHECKS:
            _check_finite(run, losses, scores, epoch, rate)
            checked = len(losses)
    _check_finite(run, losses, scores, epoch, rate)
    task, latency, expected = torch.stack(scores).double().mean(0).tolist() if scores else (None, None, None)
    return {
        "epoch": epoch,
        "weight_rate": rate,
        "architecture_rate": params.architecture.learning_rate if searching else None,
        "temperature": heat,
        "weight_loss": float(torch.stack(losses).double().mean()),
        "task_loss": task,
        "latency_loss": latency,
        "sampled_ms": expected,
    }


class _Batches:
    """The images of one epoch: random views to train weights on, centred ones for the architecture, as often round as they are needed."""

    def __init__(self, run: Search, state: State) -> None:
        self._run, self._generators, self._normalise = run, state.generators, Normaliser(run.execution)

    def of_weights(self) -> Iterator[Images]:
        """Yield the weights' images once, shuffled."""
        own = self._generators
        view = RandomView(self._run.params.view, draws=own["crops"], order=own["jitter_order"])
        run = self._run
        for batch in run.weight_photos.shuffled(run.params.batch_size, view, own["shuffle"], run.share):
            yield self._seen(batch, own["noise"])

    def of_architecture(self) -> Iterator[Images]:
        """Yield the architecture's images, shuffled anew whenever they are through."""
        run, own, view = self._run, self._generators, CentreView(self._run.params.view)
        while True:
            for batch in run.architecture_photos.shuffled(
                run.params.batch_size, view, own["architecture_shuffle"], run.share
            ):
                yield self._seen(batch, own["architecture_noise"])

    def _seen(self, batch: PhotoBatch, noise: torch.Generator) -> Images:
        if self._run.spec.images == "clean":
            return self._normalise(batch.clean, batch)
        params = self._run.params
        noisy, _ = add_uniform_noise(
            batch.clean, params.sigma, generator=noise, clip=params.clip_noisy, rows=batch.rows
        )
        return self._normalise(noisy, batch)


def _architecture_steps(run: Search) -> ArchitectureSteps:
    table = run.latency.table(run.spec.candidates, run.net.widths())
    return ArchitectureSteps(
        run.net,
        run.architecture,
        run.execution,
        run.params,
        block_ms=torch.tensor(table, dtype=torch.float32, device=run.execution.device),
        rest_ms=run.latency.rest_ms,
        target_ms=run.target_ms,
        team=run.team,
    )


def _detached(architecture: Architecture) -> list[Tensor] | None:
    depths = architecture.depth_weights()
    return None if depths is None else [depth.detach() for depth in depths]


def _scale_widths(run: Search) -> None:
    choices = chosen_ops(run.architecture.log_alphas.detach())
    depths = chosen_depths([log_beta.detach() for log_beta in run.architecture.log_betas])
    scaled = scale_to_target(
        run.latency,
        run.spec.candidates,
        choices,
        depths,
        run.net.widths(),
        target_ms=run.target_ms,
        width_multiple=run.spec.width_multiple,
    )
    run.net.rescale(scaled)


def _take_up(run: Search, state: State) -> int:
    """Restore the newest checkpoint and return its epoch, 0 where there is none."""
    checkpoint = newest_of_leader(run.checkpoints, run.team)
    if checkpoint is None:
        return 0
    done, saved = checkpoint
    try:
        state.restore(saved)
    except KeyError as error:
        raise CorruptArtefactError(
            f"The checkpoint of epoch {done} lacks {error}.",
            where=run.checkpoints.folder,
            remedy="delete the folder to search from the start",
        ) from error
    return done


def _save(run: Search, state: State, epoch: int, rate: float) -> None:
    alphas = {str(number): value for number, value in enumerate(run.architecture.parameters())}
    run.team.require_alike({**dict(run.net.named_parameters()), **alphas})
    if not run.team.leads:
        return
    try:
        run.checkpoints.save(epoch, state.to_save())
    except ValueError as error:  # finite losses, but weights or alphas overflowed
        raise _not_finite(run, "state of the supernet", epoch, rate) from error


def _check_finite(run: Search, losses: list[Tensor], scores: list[Tensor], epoch: int, rate: float) -> None:
    recent = torch.stack(losses[-_STEPS_BETWEEN_CHECKS:]).isfinite().all()
    if scores:
        recent = recent & torch.stack(scores[-_STEPS_BETWEEN_CHECKS:]).isfinite().all()
    if not recent:
        raise _not_finite(
            run, f"loss, within the last {_STEPS_BETWEEN_CHECKS} batches up to {len(losses)},", epoch, rate
        )


def _not_finite(run: Search, what: str, epoch: int, rate: float) -> NumericalError:
    last = f"the last good checkpoint is epoch {epoch - 1}" if epoch > 1 else "there is no checkpoint yet"
    return NumericalError(
        f"The {what} is not finite at epoch {epoch}, learning rate {rate:g}; {last}.",
        where=f"search {run.name}",
        remedy="lower search_supernet.learning_rate, or set search_supernet.precision: fp32",
    )
