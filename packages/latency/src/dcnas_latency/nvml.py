"""One device of NVML through nvidia-ml-py; every call is guarded, because drivers, bindings and devices each lack some."""

from collections.abc import Sequence
from typing import Any, Self

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_latency.readers import NotGivenError, Reader

_COUNTERS = {
    "sw_power_cap": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP",
    "sw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "hw_power_brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
}
COUNTER_FIELD = "throttle_counters."
_VALUE_OF_TYPE = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal")
"""Member of the value's union by `nvmlValueType_t`."""


class NvmlDevice:
    """A device of NVML by its handle; made by `by_uuid` or `by_index`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def by_uuid(cls, uuid: str) -> Self:
        """
        Return the device, or the slice of one under MIG, whose UUID without its prefix is `uuid`.

        Raises:
            NotGivenError: There is no NVML or it does not know the device.

            UnfitEnvironmentError: The device is lost.
        """
        nvml_call("nvmlInit")
        try:
            return cls(nvml_call("nvmlDeviceGetHandleByUUID", f"GPU-{uuid}"))
        except NotGivenError as whole:
            try:
                return cls(nvml_call("nvmlDeviceGetHandleByUUID", f"MIG-{uuid}"))
            except NotGivenError:
                raise whole from None

    @classmethod
    def by_name(cls, name: str) -> Self:
        """Return the device of a UUID with its prefix, or of the beginning of one, as CUDA_VISIBLE_DEVICES takes it."""
        nvml_call("nvmlInit")
        try:
            return cls(nvml_call("nvmlDeviceGetHandleByUUID", name))
        except NotGivenError:
            devices = (cls.by_index(index) for index in range(nvml_call("nvmlDeviceGetCount")))
            found = [device for device in devices if device.uuid().startswith(name)]
        if len(found) != 1:
            raise NotGivenError(f"NVML knows {len(found)} devices whose UUID begins with {name}")
        return found[0]

    @classmethod
    def by_index(cls, index: int) -> Self:
        """Return the device that NVML itself counts as `index`; raises as `by_uuid` does."""
        nvml_call("nvmlInit")
        return cls(nvml_call("nvmlDeviceGetHandleByIndex", index))

    def card_readers(self) -> dict[str, Reader]:
        """Return the readers of NVML's fields of a device card."""
        return {
            "driver": lambda: _text(nvml_call("nvmlSystemGetDriverVersion")),
            "power_cap_w": lambda: self._get("nvmlDeviceGetEnforcedPowerLimit") / 1000,
            "mig": lambda: bool(self._get("nvmlDeviceGetMigMode")[0]),
            "persistence": lambda: bool(self._get("nvmlDeviceGetPersistenceMode")),
            "max_sm_clock_mhz": lambda: self._get("nvmlDeviceGetMaxClockInfo", _constant("NVML_CLOCK_SM")),
            "compute_capability": lambda: ".".join(map(str, self._get("nvmlDeviceGetCudaComputeCapability"))),
        }

    def state_readers(self) -> dict[str, Reader]:
        """Return the readers of NVML's fields of a device state; counters bear `COUNTER_FIELD` before their name."""
        fields: dict[str, Reader] = {
            "sm_clock_mhz": lambda: self._get("nvmlDeviceGetClockInfo", _constant("NVML_CLOCK_SM")),
            "memory_clock_mhz": lambda: self._get("nvmlDeviceGetClockInfo", _constant("NVML_CLOCK_MEM")),
            "temperature_c": self._temperature_c,
            "temperature_margin_c": lambda: self._get("nvmlDeviceGetMarginTemperature"),
            "power_w": lambda: self._get("nvmlDeviceGetPowerUsage") / 1000,
            "throttle_reasons": self._throttle_reasons,
            "compute_processes": lambda: len(self._get("nvmlDeviceGetComputeRunningProcesses")),
        }
        return {
            **fields,
            **{f"{COUNTER_FIELD}{name}": self._counter_reader(field) for name, field in _COUNTERS.items()},
        }

    def uuid(self) -> str:
        """Return the device's UUID, prefix included."""
        return _text(self._get("nvmlDeviceGetUUID"))

    def processes(self) -> frozenset[int]:
        """Return the ids of processes with a context here; inside a container they are the host's, or there are none."""
        return frozenset(int(process.pid) for process in self._get("nvmlDeviceGetComputeRunningProcesses"))

    def used_memory_gb(self) -> float:
        """Return the device's memory in use, the driver's own share included."""
        return round(float(self._get("nvmlDeviceGetMemoryInfo").used) / 1e9, 3)

    def _get(self, name: str, *arguments: Any) -> Any:
        return nvml_call(name, self._handle, *arguments)

    def _temperature_c(self) -> int:
        sensor = _constant("NVML_TEMPERATURE_GPU")
        return int(self._first(("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), sensor))

    def _throttle_reasons(self) -> int:
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        return int(self._first(names))

    def _first(self, names: Sequence[str], *arguments: Any) -> Any:
        """Call the first of `names` that answers: the later ones are deprecated in CUDA 13, the first unknown to older drivers."""
        *newer, last = names
        for name in newer:
            try:
                return self._get(name, *arguments)
            except NotGivenError:
                continue
        return self._get(last, *arguments)

    def _counter_reader(self, field: str) -> Reader:
        def read() -> int:
            (value,) = self._get("nvmlDeviceGetFieldValues", [_constant(field)])
            if value.nvmlReturn:
                raise NotGivenError(str(_error(value.nvmlReturn)))
            return int(getattr(value.value, _VALUE_OF_TYPE[value.valueType]))

        return read


def nvml_call(name: str, *arguments: Any) -> Any:
    """
    Call NVML's function `name`.

    Raises:
        NotGivenError: The binding, the library or the device lacks it, or it failed; the message says which.

        UnfitEnvironmentError: The device is lost or must be reset.
    """
    pynvml = _binding()
    function = getattr(pynvml, name, None)
    if function is None:
        raise NotGivenError(f"this version of nvidia-ml-py has no {name}")
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        if error.value in (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED):
            raise UnfitEnvironmentError(
                f"The GPU does not answer any more: NVML says {error}.",
                remedy="look for Xid messages in the kernel's log; restart the machine, then run the same command again",
            ) from error
        raise NotGivenError(str(error)) from error
    except TypeError as error:  # a binding whose function takes other arguments
        raise NotGivenError(f"{name}: {error}") from error


def _binding() -> Any:
    try:
        import pynvml
    except ImportError:
        raise NotGivenError("nvidia-ml-py is not installed") from None
    return pynvml


def _constant(name: str) -> int:
    value = getattr(_binding(), name, None)
    if value is None:
        raise NotGivenError(f"this version of nvidia-ml-py has no {name}")
    return int(value)


def _error(code: int) -> Exception:
    error: Exception = _binding().NVMLError(code)
    return error


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
