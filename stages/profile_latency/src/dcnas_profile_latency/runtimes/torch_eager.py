"""PyTorch as it comes: one kernel after the other, on a CPU or on CUDA; the parts of a whole net can be marked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dcnas_latency.rig import Subject
from dcnas_latency.timers import Cache, Program, Timer, choose_timer
from dcnas_nets.blocks import build_part, part_inputs
from dcnas_nets.photo_nets import build_photo_net
from dcnas_nets.space import SpaceNet
from dcnas_profile_latency.runtimes import DeviceKind
from dcnas_schema.latency import LatencySetting, Runtime
from dcnas_schema.photo_models import BaselineSpec

SEED = 0
"""Of inputs; time does not depend on their values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchProgram:
    """A module with its input."""

    module: nn.Module
    inputs: tuple[Tensor, ...]

    def run(self) -> object:
        """Run one forward pass; on CUDA it may return before the device is done."""
        return self.module(*self.inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchPart(TorchProgram):
    """A part alone with its input, to be marked like a net of one part."""

    def run_marked(self, mark: Callable[[], None]) -> object:
        """Run as `run` does and call `mark`."""
        output = self.module(*self.inputs)
        mark()
        return output


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchNet(TorchProgram):
    """A whole net with its image."""

    module: SpaceNet

    def run_marked(self, mark: Callable[[], None]) -> object:
        """Run as `run` does, calling `mark` after each part."""
        return self.module.run(self.inputs[0], mark)


class TorchEager:
    """PyTorch without compiler or graph. Precision bf16 is autocast with weights cast once beforehand, as its cache does."""

    name: Runtime = "torch_eager"
    in_context = True
    clock: Literal["wall", "cuda_events"]

    def __init__(self, setting: LatencySetting, device_kind: DeviceKind) -> None:
        self.setting = setting
        self.device = torch.device(device_kind)
        self.clock = "wall" if device_kind == "cpu" else "cuda_events"
        torch.set_num_threads(setting.threads)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = setting.tf32, False

    def available(self) -> str | None:
        """Return why this machine cannot run it; `None` where it can."""
        missing = self.device.type == "cuda" and not torch.cuda.is_available()
        return "torch finds no CUDA device." if missing else None

    def prepare(self, subject: Subject) -> Program:
        """Return the subject in eval mode on the device, with a normally distributed input."""
        return self.program(subject)

    def program(self, subject: Subject) -> TorchProgram:
        """Return what `prepare` does, as the type that other torch runtimes build on."""
        last = self.setting.memory_format == "channels_last"
        memory_format = torch.channels_last if last else torch.contiguous_format
        module = self._module(subject).eval().requires_grad_(False)
        if self.setting.precision == "bf16":
            _cast_weights(module)
        module = module.to(self.device).to(memory_format=memory_format)
        inputs = tuple(x.contiguous(memory_format=memory_format) for x in self._inputs(subject))
        if subject.reference is not None:
            return TorchProgram(module=module, inputs=inputs)
        if isinstance(module, SpaceNet):
            return TorchNet(module=module, inputs=inputs)
        return TorchPart(module=module, inputs=inputs)

    @contextmanager
    def context(self) -> Iterator[None]:
        """Surround runs with inference mode and, for bf16, autocast."""
        bf16 = self.setting.precision == "bf16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            yield

    def timer(self, *, cache: Cache) -> Timer:
        """Return the timer of the device."""
        return choose_timer(self.device, cache=cache)

    def release(self) -> None:
        """Give the allocator's free blocks back to the device; a CPU's stay in the process."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _module(self, subject: Subject) -> nn.Module:
        if subject.reference is not None:
            spec = BaselineSpec(kind=subject.reference)
            net = build_photo_net(spec, genotype=None, classes=self.setting.classes, seed=SEED)
            _fill(net)
            return net
        # Random weights are most of what making a net costs, and time does not depend on them.
        with torch.device("meta"):
            if subject.kind is None:
                module = build_part(subject.parts[0])
            else:
                assert subject.genotype is not None
                module = SpaceNet(subject.kind, subject.genotype, classes=self.setting.classes)
        module = module.to_empty(device="cpu")
        _fill(module)
        return module

    def _inputs(self, subject: Subject) -> tuple[Tensor, ...]:
        setting = self.setting
        if subject.kind is not None or subject.reference is not None:
            generator = torch.Generator().manual_seed(SEED)
            shape = (setting.batch, 3, setting.height, setting.width)
            return (torch.randn(shape, generator=generator).to(self.device),)
        part = subject.parts[0]
        inputs = part_inputs(part, setting.batch, device=self.device, seed=SEED)
        cast = setting.precision == "bf16" and part.key.part != "first_stem"  # the image alone comes in fp32
        return tuple(x.bfloat16() for x in inputs) if cast else inputs


def _fill(module: nn.Module) -> None:
    """Give every weight a plain value: layers average their inputs, so that no activation is ever infinite or subnormal."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 0.5)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _cast_weights(module: nn.Module) -> None:
    """Cast what autocast casts, so that no pass does it again; batch norm stays in fp32."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.to(torch.bfloat16)
