"""The device card: what the machine says of itself, and a reason wherever it says nothing."""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch

from dcnas_latency import card as card_module
from dcnas_latency.card import device_card, device_state

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
CARD_FIELDS = {"uuid", "driver", "power_cap_w", "mig"}
STATE_FIELDS = {"sm_clock_mhz", "memory_clock_mhz", "temperature_c", "throttle_reasons", "other_processes"}


class FakeNVML:
    """NVML's calls with known answers; those named in `failing` raise the error given with them."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByUUID": object(),
            "nvmlDeviceGetUUID": "GPU-1234",
            "nvmlSystemGetDriverVersion": b"580.1",
            "nvmlDeviceGetEnforcedPowerLimit": 350_000,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x804,
            "nvmlDeviceGetComputeRunningProcesses": ["ours", "another"],
        }
        self.arguments: dict[str, tuple[Any, ...]] = {}

    def call(self, name: str) -> Callable[..., Any]:
        """Return the function that stands for NVML's."""

        def function(*arguments: Any) -> Any:
            self.arguments[name] = arguments
            if name in self.failing:
                raise pynvml.NVMLError(self.failing[name])
            answer = self.answers[name]
            return answer[arguments[1]] if isinstance(answer, dict) else answer

        return function


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNVML:
    """A machine with one NVIDIA device as torch and NVML would describe it."""
    fake = FakeNVML()
    for name in fake.answers:
        monkeypatch.setattr(pynvml, name, fake.call(name), raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="1234"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    return fake


def test_the_card_of_a_cpu_invents_nothing() -> None:
    """Model, cores, threads, memory and versions are the machine's; what only a GPU has is absent."""
    card = device_card(CPU)
    assert card.kind == "cpu"
    assert card.cores == os.cpu_count()
    assert card.threads == torch.get_num_threads()
    assert (card.python, card.torch) == (platform.python_version(), torch.__version__)
    assert card.system == f"{platform.system()} {platform.machine()}"
    kilobytes = next(
        line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    assert card.memory_gb == pytest.approx(int(kilobytes) * 1024 / 1e9, abs=0.1)
    assert (card.uuid, card.driver, card.cuda, card.cudnn, card.power_cap_w, card.mig) == (None,) * 6
    if card.cpu_model is not None:
        assert card.name == card.cpu_model
        assert f": {card.cpu_model}" in Path("/proc/cpuinfo").read_text()


def test_a_cpu_that_does_not_tell_its_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model name the card is named after the architecture, and says why."""
    monkeypatch.setattr(card_module, "_cpu_model", lambda: None)
    card = device_card(CPU)
    assert (card.cpu_model, card.name) == (None, platform.machine())
    assert "model name" in card.absent["cpu_model"]


def test_an_unknown_memory_size_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not tell its memory gives no number, and the reason stands in `absent`."""

    def refuse(_name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", refuse)
    card = device_card(CPU)
    assert card.memory_gb is None
    assert card.absent["memory_gb"]


def test_the_state_of_a_cpu_is_its_load() -> None:
    """A CPU gives its load average and no clock of a GPU."""
    state = device_state(CPU)
    assert state.load_average == pytest.approx(os.getloadavg()[0], abs=0.5)
    assert all(getattr(state, field) is None for field in STATE_FIELDS)


def test_the_card_of_a_gpu_is_nvmls(nvml: FakeNVML) -> None:
    """Every field is what NVML and torch answered, in the card's units, and nothing is absent."""
    card = device_card(CUDA)
    assert (card.kind, card.name, card.cuda, card.cudnn) == ("cuda", "Test GPU", "13.0", 92400)
    assert (card.uuid, card.driver, card.power_cap_w, card.mig) == ("GPU-1234", "580.1", 350.0, False)
    assert card.absent == {}
    assert nvml.arguments["nvmlDeviceGetHandleByUUID"] == ("GPU-1234",)


def test_the_state_of_a_gpu_is_nvmls(nvml: FakeNVML) -> None:
    """Clocks, temperature and throttle bits (unknown ones too) are recorded; our own process is not another one."""
    state = device_state(CUDA)
    assert (state.sm_clock_mhz, state.memory_clock_mhz, state.temperature_c) == (1980, 2619, 41)
    assert (state.throttle_reasons, state.other_processes) == (0x804, 1)
    assert state.absent == {}
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = []
    assert device_state(CUDA).other_processes == 0


CALLS = {
    "nvmlDeviceGetUUID": {"uuid"},
    "nvmlSystemGetDriverVersion": {"driver"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_cap_w"},
    "nvmlDeviceGetMigMode": {"mig"},
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz", "memory_clock_mhz"},
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetCurrentClocksEventReasons": {"throttle_reasons"},
    "nvmlDeviceGetComputeRunningProcesses": {"other_processes"},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST])
def test_a_call_that_nvml_refuses_costs_its_own_field_alone(nvml: FakeNVML, call: str, error: int) -> None:
    """Whatever call fails, its fields are absent with NVML's reason and all others are there."""
    nvml.failing[call] = error
    found = device_card(CUDA) if CALLS[call] <= CARD_FIELDS else device_state(CUDA)
    assert set(found.absent) == CALLS[call]
    assert set(found.absent.values()) == {str(pynvml.NVMLError(error))}
    for field in CARD_FIELDS if CALLS[call] <= CARD_FIELDS else STATE_FIELDS:
        assert (getattr(found, field) is None) == (field in CALLS[call])


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_nvml_the_card_says_so(nvml: FakeNVML, call: str, error: int) -> None:
    """No library, no driver or an unknown device: nothing of NVML's is there, and one reason says why."""
    nvml.failing[call] = error
    for found, fields in ((device_card(CUDA), CARD_FIELDS), (device_state(CUDA), STATE_FIELDS)):
        assert found.absent == {"nvml": f"NVML: {pynvml.NVMLError(error)}"}
        assert all(getattr(found, field) is None for field in fields)
    assert device_card(CUDA).name == "Test GPU"


@pytest.mark.usefixtures("nvml")
def test_without_the_binding_the_card_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nvidia-ml-py is not installed the card is made without it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_card(CUDA).absent == {"nvml": "nvidia-ml-py is not installed"}
    assert device_state(CUDA).absent == {"nvml": "nvidia-ml-py is not installed"}


def test_the_older_name_of_the_throttle_call_will_do(nvml: FakeNVML, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding from before CUDA 13 knows the reasons by their former name."""
    older = nvml.call("nvmlDeviceGetCurrentClocksEventReasons")
    monkeypatch.delattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", older, raising=False)
    assert device_state(CUDA).throttle_reasons == 0x804
