"""
What executes the nets on a device: each runtime makes programs of subjects, and says which clock times them.

Only the chosen runtime's libraries are imported, so that a board with ONNX Runtime alone can be profiled.
"""

from contextlib import AbstractContextManager
from typing import Literal, Protocol

from dcnas_harness.errors import BadInputError, UnfitEnvironmentError
from dcnas_latency.rig import Subject
from dcnas_latency.timers import Cache, Program, Timer
from dcnas_schema.latency import LatencySetting, Runtime

DeviceKind = Literal["cpu", "cuda"]

INSTALL: dict[str, str] = {
    "torch": "torch",
    "onnx": "dcnas-profile-latency[onnx]",
    "onnxruntime": "dcnas-profile-latency[onnx]",
}
"""What to install where a module is missing."""


class RuntimePlugin(Protocol):
    """A runtime in one setting on one device."""

    name: Runtime
    in_context: bool
    """Its programs of whole nets let their parts be marked."""
    clock: Literal["wall", "cuda_events"]
    """What `total_ms` is measured by."""

    def available(self) -> str | None:
        """Return why this machine cannot run it, in a sentence; `None` where it can."""

    def prepare(self, subject: Subject) -> Program:
        """Return `subject` with weights and an input of the setting's batch, ready to run; call it inside `context`."""

    def context(self) -> AbstractContextManager[object]:
        """Return what must surround every run and every `prepare`; it is entered anew each time, outside of the timed region."""

    def timer(self, *, cache: Cache) -> Timer:
        """Return the timer of its programs."""

    def release(self) -> None:
        """Give back what the runtime itself keeps of programs that nobody holds any more."""


def load_runtime(setting: LatencySetting, device_kind: DeviceKind) -> RuntimePlugin:
    """
    Return the runtime of `setting`; its libraries are imported here.

    Raises:
        BadInputError: The runtime cannot do what the setting says, such as bf16 in ONNX Runtime.

        UnfitEnvironmentError: It or what it needs is not installed, or it does not find the device.
    """
    try:
        runtime = _make(setting, device_kind)
    except ModuleNotFoundError as error:
        if error.name not in INSTALL:
            raise
        raise UnfitEnvironmentError(
            f"Runtime {setting.runtime} needs the package {error.name}, which is not installed.",
            remedy=f"install {INSTALL[error.name]}, or choose another runtime",
        ) from error
    reason = runtime.available()
    if reason is not None:
        raise UnfitEnvironmentError(
            f"Runtime {setting.runtime} cannot run here: {reason}",
            remedy="install or attach what is missing, or choose another runtime or device",
        )
    return runtime


def _make(setting: LatencySetting, device_kind: DeviceKind) -> RuntimePlugin:
    match setting.runtime:
        case "torch_eager":
            from dcnas_profile_latency.runtimes.torch_eager import TorchEager

            return TorchEager(setting, device_kind)
        case "torch_cuda_graph":
            from dcnas_profile_latency.runtimes.torch_cuda_graph import TorchCudaGraph

            return TorchCudaGraph(setting, device_kind)
        case "torch_compile":
            from dcnas_profile_latency.runtimes.torch_compile import TorchCompile

            return TorchCompile(setting, device_kind)
        case "onnxruntime":
            from dcnas_profile_latency.runtimes.onnxruntime import OnnxRuntime

            return OnnxRuntime(setting, device_kind)
        case "simulated":
            raise BadInputError(
                "A simulated device has no runtime.", remedy="choose one of torch_eager, torch_compile, onnxruntime"
            )
