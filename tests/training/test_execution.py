"""Device, threads, precision and memory format: chosen from what the machine can, and refused where it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dcnas_harness.errors import ExitCode, UnfitEnvironmentError
from dcnas_nets.models import build_model
from dcnas_schema.params import DenoiserSpec, DeviceParams, UNetSpec
from dcnas_training.execution import choose_device, choose_execution, multiplies_bf16

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NARROW = build_model(DenoiserSpec(kind="denoiser", unet=UNetSpec(depth=4, base=8, multiplier=1.5, convs=2)), seed=0)
WIDE = build_model(DenoiserSpec(kind="denoiser", unet=UNetSpec(depth=3, base=32, multiplier=2.0, convs=1)), seed=0)


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    """Whether the CPU is said to have AMX tiles."""
    there: bool = request.param
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: there)
    return there


def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch find no CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("amx", [True, False], indirect=True)
def test_auto_precision_on_a_cpu_follows_amx(amx: bool) -> None:
    """bf16 where the CPU multiplies it in hardware, else fp32."""
    assert multiplies_bf16(CPU) == amx
    assert choose_execution(NARROW, CPU, precision="auto").precision == ("bf16" if amx else "fp32")


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16"), ((12, 1), "bf16")]
)
def test_auto_precision_on_cuda_follows_the_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    """bf16 from Ampere on."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert choose_execution(WIDE, CUDA, precision="auto").precision == precision


@pytest.mark.parametrize("amx", [True, False], indirect=True)
@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("memory_format", ["channels_last", "contiguous"])
def test_what_is_asked_for_is_taken(precision: str, memory_format: str) -> None:
    """A precision or memory format named in the parameters is never overruled."""
    execution = choose_execution(NARROW, CPU, precision=precision, memory_format=memory_format)  # type: ignore[arg-type] # one of the words, parametrized
    assert (execution.precision, execution.memory_format) == (precision, memory_format)


@pytest.mark.parametrize("amx", [True], indirect=True)
@pytest.mark.usefixtures("amx")
def test_auto_memory_format_is_contiguous_for_narrow_nets_in_bf16_on_a_cpu() -> None:
    """Narrow nets in bf16 on a CPU run contiguous; in fp32, wide ones and on CUDA they run channels_last."""
    assert choose_execution(NARROW, CPU, precision="bf16").memory_format == "contiguous"
    assert choose_execution(WIDE, CPU, precision="bf16").memory_format == "channels_last"
    assert choose_execution(NARROW, CPU, precision="fp32").memory_format == "channels_last"
    assert choose_execution(NARROW, CUDA, precision="bf16").memory_format == "channels_last"


@pytest.mark.parametrize("kind", ["auto", "cpu", "cuda"])
def test_a_machine_without_cuda(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """`auto` and `cpu` take the CPU; `cuda` is refused with exit 3, the parameter and the remedy, before any work."""
    without_cuda(monkeypatch)
    params = DeviceParams(kind=kind, threads=2)  # type: ignore[arg-type] # one of the words, parametrized
    if kind != "cuda":
        assert choose_device(params) == CPU
        return
    with pytest.raises(UnfitEnvironmentError, match=r"(?s)device\.kind is cuda.*no CUDA device.*auto or cpu") as caught:
        choose_device(params)
    assert caught.value.exit_code == ExitCode.UNFIT_ENVIRONMENT == 3


def test_a_machine_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` and `cuda` take the first CUDA device, `cpu` does not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    kinds = {kind: choose_device(DeviceParams(kind=kind, threads=2)) for kind in ("auto", "cuda", "cpu")}  # type: ignore[arg-type] # one of the words, parametrized
    assert kinds == {"auto": torch.device("cuda", 0), "cuda": torch.device("cuda", 0), "cpu": CPU}


def test_the_threads_of_the_parameters_are_set() -> None:
    """Results depend on the number of threads: it is the parameters', not the machine's."""
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            choose_device(DeviceParams(kind="cpu", threads=threads))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast_is_on_only_in_bf16(precision: str, dtype: torch.dtype) -> None:
    """A matrix product inside the context has the precision of the execution."""
    execution = choose_execution(NARROW, CPU, precision=precision)  # type: ignore[arg-type] # one of the words, parametrized
    with execution.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


LARGE = """
import sys
import dcnas_retrain.job
import dcnas_search_supernet.job
import torch
from dcnas_training.execution import prepare_training

if sys.argv[1] == "prepared":
    prepare_training(torch.device("cpu"))
map = torch.ones(32, 8, 96, 96)
lines = open("/proc/self/smaps_rollup").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("AnonHugePages")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_tensors_of_a_training_lie_in_large_pages() -> None:
    """Prepared, also after all imports of a stage, a tensor of 9 MB takes pages of 2 MB; else none does."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[madvise]" not in setting.read_text():
        pytest.skip("this kernel gives large pages always or never")
    clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    huge_kb = {
        how: int(subprocess.check_output([sys.executable, "-c", LARGE, how], text=True, env=clean))
        for how in ("prepared", "not")
    }
    assert huge_kb["not"] == 0
    assert huge_kb["prepared"] >= 4096


def test_a_prepared_process_collects_no_modules() -> None:
    """What was imported is out of the garbage collector's sight; cycles made later are still found."""
    script = """
import gc, sys, weakref
import torch
from dcnas_training.execution import prepare_training

prepare_training(torch.device("cpu"))
seen = gc.get_objects()
class Ring: pass
ring = Ring(); ring.own = ring
gone = weakref.ref(ring)
del ring; gc.collect()
print(any(o is torch.nn.Conv2d for o in seen), gone() is None)
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True).split() == ["False", "True"]
