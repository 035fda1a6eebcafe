"""ONNX Runtime with its CPU, CUDA or TensorRT provider, batch norm folded, fp32; needs no torch but for a cold cache and CUDA's canary."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime

from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_latency.cuda import Cuda
from dcnas_latency.rig import Subject
from dcnas_latency.timers import Cache, Program, Timer, WallTimer, choose_timer
from dcnas_profile_latency.runtimes import DeviceKind
from dcnas_profile_latency.runtimes.onnx_graph import build_onnx, input_shapes, random_weights
from dcnas_schema.latency import LatencySetting, Runtime

SEED = 0
"""Of weights and inputs; time does not depend on their values."""
PROVIDERS: dict[DeviceKind, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "TensorrtExecutionProvider"),
}
_ERRORS_ONLY = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxProgram:
    """A session with its inputs and outputs lying on the device."""

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding

    def run(self) -> None:
        """Run one forward pass; it returns when the device is done."""
        self.session.run_with_iobinding(self.binding)


class OnnxRuntime:
    """
    ONNX Runtime, whose optimiser fuses across parts: nothing can be marked. The session's own threads, as many as the setting says.

    Raises:
        BadInputError: The setting asks for what this runtime does not do here.
    """

    name: Runtime = "onnxruntime"
    in_context = False
    clock: Literal["wall", "cuda_events"] = "wall"

    def __init__(self, setting: LatencySetting, device_kind: DeviceKind) -> None:
        self._setting, self._device_kind = setting, device_kind
        wanted = {"provider": PROVIDERS[device_kind], "precision": ("fp32",), "memory_format": ("contiguous",)}
        for field, values in wanted.items():
            value = getattr(setting, field)
            if value not in values:
                raise BadInputError(
                    f"Runtime onnxruntime on {device_kind} does not do {field} {value}.",
                    remedy=f"set {field}: {' or '.join(values)}",
                )
        self._provider = str(setting.provider)

    def available(self) -> str | None:
        """Return why this machine cannot run it; `None` where it can."""
        listed = onnxruntime.get_available_providers()
        if self._provider in listed:
            return None
        return f"this build of ONNX Runtime has no {self._provider}; it lists {', '.join(listed)}."

    def prepare(self, subject: Subject) -> Program:
        """
        Return a session on the subject's model, with a normally distributed input.

        Raises:
            BadInputError: The subject is a net of the literature, which comes from torch.

            UnfitEnvironmentError: The provider did not start, and the session would run on another.
        """
        setting = self._setting
        if subject.reference is not None:
            raise BadInputError(
                f"Runtime onnxruntime does not time {subject.reference} here.",
                remedy="set profile_latency.references: []",
            )
        size = {"batch": setting.batch, "height": setting.height, "width": setting.width}
        model = build_onnx(subject, weights=random_weights(SEED), **size)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), self._options(), providers=[self._with_options()]
        )
        if session.get_providers()[0] != self._provider:
            raise UnfitEnvironmentError(
                f"ONNX Runtime's {self._provider} did not start; the session would run on {session.get_providers()[0]}.",
                remedy="check that the libraries it needs are installed (CUDA, cuDNN, TensorRT)",
            )
        return OnnxProgram(session=session, binding=self._bound(session, input_shapes(subject, **size)))

    def context(self) -> AbstractContextManager[None]:
        """Return nothing to surround a run with."""
        return nullcontext()

    def timer(self, *, cache: Cache) -> Timer:
        """Return a timer by the wall clock: a call returns when its result is there, on CUDA too."""
        if self._device_kind == "cpu":
            return choose_timer("cpu", cache=cache)
        return WallTimer(Cuda() if cache == "cold" else None, cache=cache)

    def release(self) -> None:
        """Keep nothing: a session frees all that it has."""

    def _with_options(self) -> str | tuple[str, dict[str, str]]:
        if self._provider != "CUDAExecutionProvider":
            return self._provider
        return self._provider, {"use_tf32": str(int(self._setting.tf32))}

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._setting.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        return options

    def _bound(
        self, session: onnxruntime.InferenceSession, shapes: dict[str, tuple[int, int, int, int]]
    ) -> onnxruntime.IOBinding:
        binding, generator = session.io_binding(), np.random.default_rng(SEED)
        for name, shape in shapes.items():
            values = generator.standard_normal(shape, dtype=np.float32)
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, self._device_kind, 0))
        for output in session.get_outputs():
            room = onnxruntime.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32, self._device_kind, 0)
            binding.bind_ortvalue_output(output.name, room)
        return binding
