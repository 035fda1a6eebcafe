"""The canary: a fixed reference op that is slow exactly when the machine is, and the time that it takes on this machine's good days."""

import math
import os
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
LEAST_SAMPLES = 100
"""Of fewer the 5th percentile is hardly better than the minimum, which a few lucky samples decide."""
_SESSIONS_KEPT = 100
_GOOD_DAYS = 0.1
"""
The best session of many is the luckiest, and all samples would be judged by it for ever: a machine whose library or cooling changed would
never be quiet again. So the last hundred sessions count, and of those the tenth best; of ten or fewer the best.
"""
STATE_VARIABLE = "DCNAS_STATE_DIR"


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


def session_best(times_ms: Sequence[float]) -> float:
    """Return the canary's quiet time of one session in ms: the 5th percentile."""
    import numpy as np

    return float(np.quantile(np.asarray(times_ms, dtype=np.float64), _BEST_SHARE))


def state_folder() -> Path:
    """
    Return the folder of canary references that all of a user's work on this machine shares.

    DCNAS_STATE_DIR, else `dcnas` in XDG_STATE_HOME or ~/.local/state.
    """
    own = os.environ.get(STATE_VARIABLE)
    if own:
        return Path(own) / "canary"
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path("~/.local/state").expanduser()) / "dcnas" / "canary"


class CanaryReference(Record):
    """
    The canary's quiet times in the last sessions of one device, runtime and thread count.

    They outlive a session because a machine that is slow throughout looks steady from within.
    """

    version: Literal[2] = 2
    fingerprint: str
    runtime: Runtime
    threads: Annotated[int, Field(ge=1)]
    op: str
    sessions_ms: Annotated[tuple[Milliseconds, ...], Field(min_length=1, max_length=_SESSIONS_KEPT)]
    """5th percentile of each session, the oldest first."""

    @property
    def best_ms(self) -> float:
        """What samples are judged by: the 10th percentile of the sessions."""
        return sorted(self.sessions_ms)[math.ceil(_GOOD_DAYS * len(self.sessions_ms)) - 1]


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
        """The file; deleting it forgets what the machine can do."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{self.fingerprint}-{self.runtime}-{self.threads}")
        return self.folder / f"{name}.json"

    def read(self) -> CanaryReference | None:
        """
        Return the reference; `None` where this machine has none for this very op, or one of the earlier kind, which only ever fell.

        Raises:
            CorruptArtefactError: The file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            stored = read_json(self.path)
            if isinstance(stored, dict) and stored.get("version") == 1:
                return None
            found = CanaryReference.model_validate(stored)
        except (ValidationError, CorruptArtefactError) as error:
            raise CorruptArtefactError(
                f"{self.path} is no canary reference: {error}", remedy="delete it: the best time is then measured anew"
            ) from error
        return found if found.op == self.op else None

    def learn(self, samples: Sequence[float]) -> CanaryReference:
        """
        Take the canary times in ms of one session into account and return the reference as it is kept from now on.

        Raises:
            ValueError: There are fewer than 100 samples.
        """
        return self.session()(samples)

    def session(self) -> Callable[[Sequence[float]], CanaryReference]:
        """Return what `learn` does, for one session that may call it again with more of its samples: it counts once."""
        known = self.read()
        earlier = () if known is None else known.sessions_ms

        def learn(samples: Sequence[float]) -> CanaryReference:
            if len(samples) < LEAST_SAMPLES:
                raise ValueError(f"a canary reference needs at least {LEAST_SAMPLES} samples, got {len(samples)}")
            best = session_best(samples)
            if known is not None and best in earlier:
                return known  # stored samples, judged again
            reference = CanaryReference(
                fingerprint=self.fingerprint,
                runtime=self.runtime,
                threads=self.threads,
                op=self.op,
                sessions_ms=(*earlier, best)[-_SESSIONS_KEPT:],
            )
            write_json(self.path, reference.model_dump(mode="json"))
            return reference

        return learn


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
