"""The latency of a trained model, timed while no other program of this pipeline uses the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcnas_evaluate.question import Question
from dcnas_latency.call import CallPlan, CallSetting, measure_call
from dcnas_latency.canary import CanaryStore
from dcnas_latency.card import fingerprint
from dcnas_latency.cuda import convolutions_in_tf32
from dcnas_latency.lock import device_lock
from dcnas_nets.models import build_model, example_input
from dcnas_nets.photo_nets import build_photo_net
from dcnas_schema.records import MeasuredLatency
from dcnas_training.checkpoints import load_tensors
from dcnas_training.execution import Execution


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """One forward pass of a whole batch."""

    model: nn.Module
    image: Tensor
    further: tuple[Tensor, ...] = ()
    """What the model takes beside the image."""

    def run(self) -> Any:
        """Run it; on CUDA it returns before the device is done."""
        return self.model(self.image, *self.further)


def measure(question: Question) -> MeasuredLatency:
    """
    Time a trained net in this process, on random images.

    Waits until it has the device of the question's card to itself. Its threads run already, so it is not bound to cores, as the processes
    of profile_latency are.

    Raises:
        CorruptArtefactError: The weights are damaged.
    """
    device = torch.device(question.card.kind)
    execution = Execution(device=device, precision=question.precision, memory_format=question.memory_format)
    batch, height, width = question.params.batch, question.height, question.width
    further: tuple[Tensor, ...]
    if (scene := question.scene_net) is not None:
        model: nn.Module = build_model(scene.spec, seed=0)
        image, corners = example_input(batch, height, width, device)
        further = (corners,)
    else:
        photo = question.photo_net
        assert photo is not None, "one of the two is given"
        model = build_photo_net(photo.spec, genotype=photo.genotype, classes=photo.classes, seed=0)
        image, further = torch.empty((batch, 3, height, width), device=device), ()
    inputs = (_random(image, execution), *further)
    return _measure(_trained(model, Path(question.weights), execution), inputs, execution, question)


def _trained(model: nn.Module, weights: Path, execution: Execution) -> nn.Module:
    """Return `model` with the weights that fit it, in eval mode on its device."""
    own = model.state_dict()
    fitting = {n: w for n, w in load_tensors(weights).items() if n in own and w.shape == own[n].shape}
    model.load_state_dict({**own, **fitting})
    return model.to(device=execution.device, memory_format=execution.torch_format).eval()  # type: ignore[call-overload, no-any-return] # torch's stub lacks this pair


def _random(image: Tensor, execution: Execution) -> Tensor:
    image.normal_(generator=torch.Generator(execution.device).manual_seed(0))
    return image.contiguous(memory_format=execution.torch_format)


def _measure(model: nn.Module, inputs: tuple[Tensor, ...], execution: Execution, question: Question) -> MeasuredLatency:
    params, card = question.params, question.card
    one_pass = _Pass(model=model, image=inputs[0], further=inputs[1:])
    plan = CallPlan(
        warmup=params.warmup,
        repeats=params.repeats,
        canary_band_pct=params.canary_band_pct,
        unsynchronised=params.unsynchronised,
    )
    tf32 = question.tf32 and card.kind == "cuda" and execution.precision == "fp32"

    @contextmanager
    def inference() -> Iterator[None]:
        with torch.inference_mode(), execution.autocast():
            yield

    def store_of(op: str) -> CanaryStore:
        return CanaryStore(
            folder=Path(question.scratch) / "canary",
            fingerprint=fingerprint(card),
            runtime="torch_eager",
            threads=card.threads,
            op=op,
        )

    with device_lock(card, exclusive=True), _any_kernel(), convolutions_in_tf32(tf32):
        found = measure_call(
            one_pass, execution.device, plan, context=inference, store_of=store_of, cache=question.cache
        )
    called = CallSetting(
        batch=params.batch,
        height=one_pass.image.shape[2],
        width=one_pass.image.shape[3],
        precision=execution.precision,
        memory_format=execution.memory_format,
        cache=question.cache,
        tf32=tf32,
    )
    return found.record(plan, called)


@contextmanager
def _any_kernel() -> Iterator[None]:
    """
    Let torch take kernels whose results need not repeat, for which profile_latency never asks: those that repeat are slower on CUDA.

    cuDNN's choice by benchmark stays off in both.
    """
    if not torch.are_deterministic_algorithms_enabled():
        yield  # the call below imports torch's compiler: three seconds
        return
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True)
