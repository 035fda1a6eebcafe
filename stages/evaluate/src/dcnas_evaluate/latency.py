"""The latency of a trained model, timed while no other program of this pipeline uses the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcnas_latency.call import WARM_CALLS, CallPlan, measure_call
from dcnas_latency.canary import CanaryStore
from dcnas_latency.card import fingerprint
from dcnas_latency.lock import device_lock
from dcnas_nets.models import SceneModel, example_input
from dcnas_schema.params import LatencyParams
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import MeasuredLatency
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


def measure_latency(
    model: SceneModel,
    execution: Execution,
    card: DeviceCard,
    params: LatencyParams,
    *,
    image_size: int,
    scratch: Path,
) -> MeasuredLatency:
    """
    Time `model`, which is in eval mode on its device, on random images of `image_size` by `image_size` pixels.

    Waits until it has the device of `card` to itself.

    Args:
        scratch: Folder where this machine's best time of the reference op is kept, as profile_latency keeps it.
    """
    device = execution.device
    image, corners = example_input(params.batch, image_size, image_size, device)
    return _measure(model, (_random(image, execution), corners), execution, card, params, scratch=scratch)


def measure_photo_latency(
    model: nn.Module,
    execution: Execution,
    card: DeviceCard,
    params: LatencyParams,
    *,
    height: int,
    width: int,
    scratch: Path,
) -> MeasuredLatency:
    """
    Time `model`, which is in eval mode on its device and takes photos alone, on random ones of `height` by `width` pixels.

    Waits until it has the device of `card` to itself.

    Args:
        scratch: Folder where this machine's best time of the reference op is kept, as profile_latency keeps it.
    """
    image = torch.empty((params.batch, 3, height, width), device=execution.device)
    return _measure(model, (_random(image, execution),), execution, card, params, scratch=scratch)


def _random(image: Tensor, execution: Execution) -> Tensor:
    image.normal_(generator=torch.Generator(execution.device).manual_seed(0))
    return image.contiguous(memory_format=execution.torch_format)


def _measure(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    execution: Execution,
    card: DeviceCard,
    params: LatencyParams,
    *,
    scratch: Path,
) -> MeasuredLatency:
    one_pass = _Pass(model=model, image=inputs[0], further=inputs[1:])
    plan = CallPlan(warmup=params.warmup, repeats=params.repeats, canary_band_pct=params.canary_band_pct)

    @contextmanager
    def inference() -> Iterator[None]:
        with torch.inference_mode(), execution.autocast():
            yield

    def store_of(op: str) -> CanaryStore:
        return CanaryStore(
            folder=scratch / "canary",
            fingerprint=fingerprint(card),
            runtime="torch_eager",
            threads=card.threads,
            op=op,
        )

    with device_lock(card, exclusive=True), _any_kernel():
        found = measure_call(one_pass, execution.device, plan, context=inference, store_of=store_of)
    timing = found.timing
    return MeasuredLatency(
        batch=params.batch,
        height=one_pass.image.shape[2],
        width=one_pass.image.shape[3],
        precision=execution.precision,
        memory_format=execution.memory_format,
        warmup=params.warmup,
        warm_calls=WARM_CALLS,
        repeats=params.repeats,
        median_ms=timing.median_ms,
        p5_ms=timing.p5_ms,
        p95_ms=timing.p95_ms,
        device_median_ms=timing.device_median_ms,
        raw=timing.raw,
        kept=timing.kept,
        rejected=timing.rejected,
        canary_band_pct=params.canary_band_pct,
        canary_reference_ms=timing.canary_reference_ms,
        others_pct=found.others_pct,
        noise=found.noise,
        before=found.before,
        after=found.after,
    )


@contextmanager
def _any_kernel() -> Iterator[None]:
    """Let torch take its fastest kernels, as profile_latency does: where results must repeat it takes slower ones on CUDA."""
    if not torch.are_deterministic_algorithms_enabled():
        yield  # the call below imports torch's compiler: three seconds
        return
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True)
