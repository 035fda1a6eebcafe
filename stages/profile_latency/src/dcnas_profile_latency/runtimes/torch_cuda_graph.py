"""PyTorch replayed as one CUDA graph: the device's time alone, without the cost of launches; nothing can be marked in it."""

from dcnas_latency.cuda import Cuda
from dcnas_latency.rig import Subject
from dcnas_latency.timers import CapturedProgram, Program
from dcnas_profile_latency.runtimes.torch_eager import TorchEager
from dcnas_schema.latency import Runtime


class TorchCudaGraph(TorchEager):
    """Whole nets and parts alone, captured once and replayed."""

    name: Runtime = "torch_cuda_graph"
    in_context = False

    def available(self) -> str | None:
        """Return why this machine cannot run it; `None` where it can."""
        if self.device.type != "cuda":
            return "a CUDA graph needs a CUDA device, and the device is a CPU."
        return super().available()

    def prepare(self, subject: Subject) -> Program:
        """Return the replay of one pass."""
        return CapturedProgram(self.program(subject), Cuda(self.device.index or 0))
