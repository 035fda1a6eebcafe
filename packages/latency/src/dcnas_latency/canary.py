"""The canary: a fixed reference op that is slow exactly when the machine is, and the best time that this machine ever gave for it."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import read_json, write_json
from dcnas_latency.cuda import Cuda
from dcnas_latency.timers import CpuTimer, CudaEventTimer, Program, Timer
from dcnas_schema.latency import Milliseconds, Runtime
from dcnas_schema.provenance import Record

if TYPE_CHECKING:
    import torch

_CPU_SIZE, _CPU_CHAIN = 192, 4
_PANEL_ROWS, _PANEL_SIZE = 8, 1408
"""
On a CPU the canary is a product that lives in registers and one that streams 8 MB of weights, as a net at batch 1 does: a neighbour on
the same host that only fills the shared cache slows nets by half and the first product hardly at all. About 1 ms on a server of 2024.
"""
_CUDA_SIZE, _CUDA_CHAIN = 1024, 8
_RUNS = 2
_BEST_SHARE = 0.05
LEAST_SAMPLES = 20
"""Below this the 5th percentile is no better than the minimum, which one lucky sample decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """A reference op with its timer."""

    op: str
    """What is timed, by which version of which library: times of two ops are never compared."""
    program: Program
    timer: Timer

    def sample(self) -> float:
        """
        Return the time of the op in ms: the less of two right after an untimed one.

        What ran before must not decide what is in the cache, nor a single hiccup whether a sample beside it counts.
        """
        self.program.run()
        return min(self.timer.sample(self.program).total_ms for _ in range(_RUNS))


def choose_canary(device: object, *, runtime: Runtime) -> Canary:
    """
    Return the canary for work of `runtime` on `device` (a `torch.device` or its text), on as many threads as that work has.

    A chain of matrix products: by torch, whose thread pool is that of the work; by NumPy where ONNX Runtime does the work, so that
    torch is not needed; in half precision on CUDA, where no setting of TF32 changes it.
    """
    kind, _, index = str(device).partition(":")
    if kind == "cuda":
        return _cuda_canary(int(index or 0))
    if runtime == "onnxruntime":
        return _numpy_canary()
    return _torch_canary()


class CanaryReference(Record):
    """
    The best canary time of one device, runtime and thread count: the least of the 5th percentiles of all sessions so far.

    It outlives a session because a machine that is slow throughout looks steady from within.
    """

    version: Literal[1] = 1
    fingerprint: str
    runtime: Runtime
    threads: Annotated[int, Field(ge=1)]
    op: str
    best_ms: Milliseconds

    def accepts(self, ms: float, *, band_pct: float) -> bool:
        """Return whether a canary time is at most `band_pct` per cent above the best."""
        return ms <= self.best_ms * (1 + band_pct / 100)


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryStore:
    """
    Where this machine keeps the reference of one canary.

    Args:
        folder: A scratch folder, never a pipeline output.

        fingerprint: That of the device (`card.fingerprint`).

        op: `Canary.op`.
    """

    folder: Path
    fingerprint: str
    runtime: Runtime
    threads: int
    op: str

    @property
    def path(self) -> Path:
        """The file; deleting it forgets the best time."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{self.fingerprint}-{self.runtime}-{self.threads}")
        return self.folder / f"{name}.json"

    def read(self) -> CanaryReference | None:
        """
        Return the reference; `None` where this machine has none for this very op.

        Raises:
            CorruptArtefactError: The file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            found = CanaryReference.model_validate(read_json(self.path))
        except (ValidationError, CorruptArtefactError) as error:
            raise CorruptArtefactError(
                f"{self.path} is no canary reference: {error}", remedy="delete it: the best time is then measured anew"
            ) from error
        return found if found.op == self.op else None

    def learn(self, samples: Sequence[float]) -> CanaryReference:
        """
        Take a session's canary times in ms into account and return the reference as it is kept from now on.

        Raises:
            ValueError: There are fewer than 20 samples.
        """
        if len(samples) < LEAST_SAMPLES:
            raise ValueError(f"a canary reference needs at least {LEAST_SAMPLES} samples, got {len(samples)}")
        best = sorted(samples)[math.ceil(_BEST_SHARE * len(samples)) - 1]
        known = self.read()
        if known is not None and known.best_ms <= best:
            return known
        reference = CanaryReference(
            fingerprint=self.fingerprint, runtime=self.runtime, threads=self.threads, op=self.op, best_ms=best
        )
        write_json(self.path, reference.model_dump(mode="json"))
        return reference


class _Chain:
    """Matrix products, each of the last result and one fixed matrix, into two buffers in turn: nothing is allocated while it runs."""

    def __init__(
        self,
        product: Callable[[Any, Any, Any], object],
        matrix: Any,
        buffers: tuple[Any, Any],
        length: int,
        *,
        panel: tuple[Any, Any, Any] | None = None,
    ) -> None:
        self._product, self._matrix, self._buffers, self._length = product, matrix, buffers, length
        self._panel = panel
        """Left factor, right factor and result of a product that streams its right factor; `None` for none."""

    def run(self) -> None:
        source, (target, other) = self._matrix, self._buffers
        for _ in range(self._length):
            self._product(source, self._matrix, target)
            source, target, other = target, other, target
        if self._panel is not None:
            self._product(*self._panel)


def _orthogonal(size: int) -> Any:
    """Return a fixed matrix whose powers neither grow nor vanish, so that no value is ever infinite or subnormal."""
    import numpy as np

    return np.linalg.qr(np.random.default_rng(0).normal(size=(size, size))).Q


def _panel() -> tuple[Any, Any, Any]:
    """Return the factors and the place of the result of the streaming product, as NumPy arrays."""
    import numpy as np

    generator = np.random.default_rng(1)
    left = generator.standard_normal((_PANEL_ROWS, _PANEL_SIZE), dtype=np.float32)
    right = generator.standard_normal((_PANEL_SIZE, _PANEL_SIZE), dtype=np.float32)
    return left, right, np.empty_like(left)


def _numpy_canary() -> Canary:
    import numpy as np

    matrix = _orthogonal(_CPU_SIZE).astype(np.float32)
    buffers = (np.empty_like(matrix), np.empty_like(matrix))
    chain = _Chain(
        lambda left, right, out: np.matmul(left, right, out=out), matrix, buffers, _CPU_CHAIN, panel=_panel()
    )
    return Canary(op=_cpu_op(f"numpy {np.__version__}"), program=chain, timer=CpuTimer())


def _torch_canary() -> Canary:
    import torch

    with torch.inference_mode(False):
        panel = tuple(torch.from_numpy(array) for array in _panel())
    chain = _torch_chain(_CPU_SIZE, _CPU_CHAIN, torch.device("cpu"), torch.float32, panel=panel)
    return Canary(op=_cpu_op(f"torch {torch.__version__}"), program=chain, timer=CpuTimer())


def _cuda_canary(index: int) -> Canary:
    import torch

    timer = CudaEventTimer(Cuda(index))
    chain = _torch_chain(_CUDA_SIZE, _CUDA_CHAIN, torch.device("cuda", index), torch.float16)
    return Canary(op=_op(_CUDA_SIZE, _CUDA_CHAIN, "fp16", f"torch {torch.__version__}"), program=chain, timer=timer)


def _torch_chain(size: int, length: int, device: "torch.device", dtype: "torch.dtype", *, panel: Any = None) -> _Chain:
    import torch

    with torch.inference_mode(False):  # a buffer made in that mode could be written in that mode only
        matrix = torch.from_numpy(_orthogonal(size)).to(device, dtype)
        buffers = (torch.empty_like(matrix), torch.empty_like(matrix))
    return _Chain(lambda left, right, out: torch.mm(left, right, out=out), matrix, buffers, length, panel=panel)


def _cpu_op(library: str) -> str:
    return f"{_op(_CPU_SIZE, _CPU_CHAIN, 'fp32', library)}, and one of {_PANEL_ROWS}x{_PANEL_SIZE} by {_PANEL_SIZE}x{_PANEL_SIZE}"


def _op(size: int, length: int, precision: str, library: str) -> str:
    return f"{length} matrix products of {size}x{size} in {precision}, {library}"
