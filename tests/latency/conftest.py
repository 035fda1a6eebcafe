"""A machine with one NVIDIA device, as torch and NVML would describe it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import torch


class FakeNVML:
    """NVML's calls with known answers; those named in `failing` raise the error given with them."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.counters = {74: 0, 269: 0, 270: 0, 271: 0}
        self.unsupported_counters: set[int] = set()
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByUUID": object(),
            "nvmlDeviceGetHandleByIndex": object(),
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetUUID": "GPU-1234",
            "nvmlSystemGetDriverVersion": b"580.1",
            "nvmlDeviceGetEnforcedPowerLimit": 350_000,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetMaxClockInfo": {pynvml.NVML_CLOCK_SM: 2100},
            "nvmlDeviceGetCudaComputeCapability": (9, 0),
            "nvmlDeviceGetClockInfo": {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619},
            "nvmlDeviceGetTemperatureV": 41,
            "nvmlDeviceGetTemperature": 40,
            "nvmlDeviceGetMarginTemperature": 47,
            "nvmlDeviceGetPowerUsage": 123_400,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x804,
            "nvmlDeviceGetComputeRunningProcesses": self.processes(11, 12),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=1_500_000_000),
            "nvmlDeviceGetFieldValues": self._field_values,
        }
        self.arguments: dict[str, tuple[Any, ...]] = {}

    @staticmethod
    def processes(*pids: int) -> list[SimpleNamespace]:
        """Return what NVML lists for these processes."""
        return [SimpleNamespace(pid=pid) for pid in pids]

    def call(self, name: str) -> Callable[..., Any]:
        """Return the function that stands for NVML's."""

        def function(*arguments: Any) -> Any:
            self.arguments[name] = arguments
            if name in self.failing:
                raise pynvml.NVMLError(self.failing[name])
            answer = self.answers[name]
            if isinstance(answer, dict):
                return answer[arguments[1]]
            return answer(*arguments) if callable(answer) else answer

        return function

    def _field_values(self, _handle: object, fields: list[int]) -> list[pynvml.c_nvmlFieldValue_t]:
        values = (pynvml.c_nvmlFieldValue_t * len(fields))()
        for value, field in zip(values, fields, strict=True):
            value.valueType = pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
            value.value.ullVal = self.counters[field]
            value.nvmlReturn = pynvml.NVML_ERROR_NOT_SUPPORTED if field in self.unsupported_counters else 0
        return list(values)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNVML:
    """A machine with one NVIDIA device of UUID 1234."""
    fake = FakeNVML()
    for name in fake.answers:
        monkeypatch.setattr(pynvml, name, fake.call(name), raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(uuid="1234"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92400)
    return fake
