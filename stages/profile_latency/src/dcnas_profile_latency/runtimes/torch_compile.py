"""PyTorch through its compiler in the default mode, shapes fixed; the compiler fuses across parts, so nothing can be marked."""

import importlib.util
import os
import shutil

import torch

from dcnas_latency.rig import Subject
from dcnas_latency.timers import Program
from dcnas_profile_latency.runtimes.torch_eager import TorchEager, TorchProgram
from dcnas_schema.latency import Runtime

_COMPILERS = ("c++", "g++", "clang++")
_MOST_GRAPHS = 100_000
"""The compiler keeps one graph a net at the same line of code and gives up, without an error, after eight."""


class TorchCompile(TorchEager):
    """Whole nets and parts alone, compiled as one graph each at their first run."""

    name: Runtime = "torch_compile"
    in_context = False

    def available(self) -> str | None:
        """Return why this machine cannot run it; `None` where it can."""
        if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", ""), *_COMPILERS)):
            return "torch.compile needs a C++ compiler, and neither $CXX nor g++ nor clang++ is there."
        if self.device.type == "cuda" and importlib.util.find_spec("triton") is None:
            return "torch.compile needs the package triton on CUDA."
        return super().available()

    def prepare(self, subject: Subject) -> Program:
        """Return the compiled module, compiled here by a first pass."""
        from torch._dynamo import config  # here: it takes seconds

        config.recompile_limit = config.accumulated_recompile_limit = _MOST_GRAPHS
        config.fail_on_recompile_limit_hit = True  # else it would run eagerly and be timed so
        eager = self.program(subject)
        eager.module.compile(dynamic=False, fullgraph=True)
        program = TorchProgram(module=eager.module, inputs=eager.inputs)
        program.run()
        return program

    def release(self) -> None:
        """Forget all compiled graphs."""
        torch._dynamo.reset()
        super().release()
