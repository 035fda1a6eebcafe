"""The measured latency of a net of one's own in the setting of a profile: the net that a search found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dcnas_latency.call import CallPlan, CallSetting, measure_call
from dcnas_latency.canary import CanaryStore
from dcnas_latency.card import fingerprint
from dcnas_latency.cuda import convolutions_in_tf32
from dcnas_latency.lock import device_lock
from dcnas_schema.latency import LatencySetting, ProfileMetadata
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.records import MeasuredLatency

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class _Program:
    net: "Callable[[torch.Tensor], object]"
    image: "torch.Tensor"

    def run(self) -> object:
        """Run the net once."""
        return self.net(self.image)


def why_not_measurable(profile: ProfileMetadata, card: DeviceCard) -> str | None:
    """Return why a net cannot be timed here as `profile` was: another runtime, or another device; `None` where it can."""
    if profile.setting.runtime != "torch_eager":
        return f"the profile's runtime is {profile.setting.runtime}; only torch_eager is timed here"
    if fingerprint(profile.device) != fingerprint(card):
        return f"the profile is of another device, {profile.device.name}; this one is {card.name}"
    return None


def measure_in_setting(
    net: "torch.nn.Module", setting: LatencySetting, card: DeviceCard, plan: CallPlan, *, scratch: Path | None = None
) -> MeasuredLatency:
    """
    Time one forward pass of `net` on random images: batch, size, precision, memory format, cache, TF32 and threads are the setting's.

    Waits until it has the device of `card` to itself. The caller has made sure that it can be timed here. Unlike a profile's processes
    this one is not bound to cores: its threads run already.

    Args:
        scratch: Folder where this machine's best time of the reference op is kept, as profile_latency keeps it. Without it samples are
            judged by the best of this session, which cannot tell that the machine is slow throughout.
    """
    import torch

    device = torch.device(card.kind)
    memory_format = torch.channels_last if setting.memory_format == "channels_last" else torch.contiguous_format
    ready = net.to(device=device, memory_format=memory_format).eval()  # type: ignore[call-overload] # torch's stub lacks this pair
    image = torch.empty((setting.batch, 3, setting.height, setting.width), device=device)
    image.normal_(generator=torch.Generator(device).manual_seed(0))
    program = _Program(ready, image.contiguous(memory_format=memory_format))

    @contextmanager
    def inference() -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=setting.precision == "bf16"):
            yield

    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    try:
        with device_lock(card, exclusive=True), convolutions_in_tf32(setting.tf32):
            store_of = None if scratch is None else partial(_store, scratch / "canary", setting, card)
            found = measure_call(program, device, plan, context=inference, store_of=store_of, cache=setting.cache)
    finally:
        torch.set_num_threads(threads)
    called = CallSetting(
        batch=setting.batch,
        height=setting.height,
        width=setting.width,
        precision=setting.precision,
        memory_format=setting.memory_format,
        cache=setting.cache,
        tf32=setting.tf32,
    )
    return found.record(plan, called)


def _store(folder: Path, setting: LatencySetting, card: DeviceCard, op: str) -> CanaryStore:
    return CanaryStore(
        folder=folder, fingerprint=fingerprint(card), runtime="torch_eager", threads=setting.threads, op=op
    )
