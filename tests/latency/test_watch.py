"""The watch: whatever slows the device or shares it while others time is seen, also between two looks."""

import os
import time
from typing import Any

import pynvml
import pytest
import torch

from dcnas_harness.errors import ExitCode, UnfitEnvironmentError
from dcnas_latency.seen import summarise, throttled, unknown_bits
from dcnas_latency.watch import Watch, foreign_processes_before_context
from dcnas_schema.provenance import DeviceState

CUDA = torch.device("cuda", 0)
REASONS = "nvmlDeviceGetCurrentClocksEventReasons"
PROCESSES = "nvmlDeviceGetComputeRunningProcesses"


@pytest.fixture
def quiet(nvml: Any) -> Any:
    """A GPU at work with nothing that slows it and no process but ours."""
    nvml.answers[REASONS] = 0
    nvml.answers[PROCESSES] = nvml.processes(11)
    return nvml


def wait_for_looks(watch: Watch, count: int) -> None:
    """Wait until the watch has looked `count` times more."""
    wanted, patience = len(watch.states) + count, time.monotonic() + 5
    while len(watch.states) < wanted:
        assert time.monotonic() < patience
        time.sleep(0.002)


@pytest.mark.parametrize("bit", [0x4, 0x8, 0x20, 0x40, 0x80, 0x200, 0x400])
def test_each_bit_that_slows_the_device_rejects(bit: int) -> None:
    """Any of the seven gives one reason, also beside harmless bits."""
    assert len(throttled(bit)) == 1
    assert throttled(bit | 0x1) == throttled(bit)
    assert unknown_bits(bit) == 0


@pytest.mark.parametrize("bit", [0x0, 0x1, 0x2, 0x10, 0x100])
def test_idling_and_set_clocks_do_not_reject(bit: int) -> None:
    """Between calls a device idles; clocks that someone set are the device's own."""
    assert throttled(bit) == ()
    assert unknown_bits(bit) == 0


def test_a_bit_of_the_future_is_known_to_be_unknown() -> None:
    """What no header names yet rejects nothing, and is told apart from what is known."""
    assert throttled(0x801) == ()
    assert unknown_bits(0x805) == 0x800


def test_states_are_summarised_over_all_of_them() -> None:
    """Bits are united, clocks spread, the worst of heat and company kept; counters count from first to last."""
    seen = summarise(
        [
            DeviceState(throttle_reasons=0x1, sm_clock_mhz=1000, temperature_c=50, temperature_margin_c=30),
            DeviceState(throttle_reasons=0x4, sm_clock_mhz=900, temperature_c=70, throttle_counters={"a": 5, "b": 1}),
            DeviceState(other_processes=2, sm_clock_mhz=1000, temperature_margin_c=10),
            DeviceState(other_processes=0, sm_clock_mhz=1100, throttle_counters={"a": 9, "b": 1, "c": 7}),
        ]
    )
    assert (seen.bits, seen.counters_rise) == (0x5, {"a": 4})
    assert seen.sm_clock_mhz == (900, 1000, 1100)
    assert seen.clock_spread_pct == pytest.approx(20.0)
    assert (seen.temperature_c, seen.temperature_margin_c, seen.other_processes) == (70, 10, 2)
    assert len(seen.throttled) == 2


def test_nothing_is_invented_of_a_silent_device() -> None:
    """Where NVML tells nothing the summary has no clock, heat or process count, and rejects nothing."""
    seen = summarise([DeviceState(), DeviceState()])
    assert (seen.sm_clock_mhz, seen.clock_spread_pct, seen.temperature_c, seen.other_processes) == (None,) * 4
    assert seen.throttled == ()


def test_a_cpu_is_looked_at_before_and_after_without_a_thread() -> None:
    """On a CPU nothing runs beside the measurement."""
    with Watch("cpu", hertz=1000) as watch:
        time.sleep(0.05)
        assert len(watch.states) == 1
    (began, before), (ended, after) = watch.states
    assert began < 0.05 <= ended
    assert before.load_average is not None
    assert after.memory_available_gb is not None


def test_a_gpu_is_looked_at_all_along(quiet: Any) -> None:
    """The thread looks while the block runs and stops with it; the ends hold the host's load too."""
    with Watch(CUDA, hertz=500) as watch:
        wait_for_looks(watch, 3)
    count = len(watch.states)
    time.sleep(0.02)
    assert len(watch.states) == count
    seconds = [when for when, _ in watch.states]
    assert seconds == sorted(seconds)
    ends = [watch.states[0][1], watch.states[-1][1]]
    assert all(state.load_average is not None for state in ends)
    assert watch.states[1][1].load_average is None
    assert {state.sm_clock_mhz for _, state in watch.states} == {1980}
    assert quiet.arguments[PROCESSES]


def test_throttling_between_the_ends_is_seen(quiet: Any) -> None:
    """Bits that stand during one poll only are seen."""
    with Watch(CUDA, hertz=500) as watch:
        quiet.answers[REASONS] = 0x40
        wait_for_looks(watch, 2)
        quiet.answers[REASONS] = 0x1
    assert watch.seen().throttled == ("hardware thermal slowdown",)


def test_throttling_between_two_polls_is_seen_by_the_counters(quiet: Any) -> None:
    """Without any poll in between, a counter that rose tells."""
    with Watch(CUDA, hertz=0.01) as watch:
        assert watch.seen().throttled == ()
        quiet.counters[74] += 1
    assert watch.seen().throttled == ("counter sw_power_cap rose",)


def test_falling_clocks_are_seen(quiet: Any) -> None:
    """The spread is that of all polls, those at both ends included."""
    with Watch(CUDA, hertz=0.01) as watch:
        assert watch.seen().clock_spread_pct == 0
        quiet.answers["nvmlDeviceGetClockInfo"] = {pynvml.NVML_CLOCK_SM: 1584, pynvml.NVML_CLOCK_MEM: 2619}
    assert watch.seen().sm_clock_mhz == (1584, 1782, 1980)


def test_a_process_that_appears_midway_is_seen(quiet: Any) -> None:
    """A second process counts, whatever its id; ours never does."""
    with Watch(CUDA, hertz=0.01) as watch:
        assert watch.seen().other_processes == 0
        quiet.answers[PROCESSES] = quiet.processes(11, os.getpid())
    assert watch.seen().other_processes == 1


def test_an_unknown_bit_is_recorded_and_warned_of_once(quiet: Any) -> None:
    """Bit 0x800 rejects nothing, stands in the record, and is told once."""
    quiet.answers[REASONS] = 0x800

    def work() -> Watch:
        with Watch(CUDA, hertz=500) as watch:
            wait_for_looks(watch, 3)
        return watch

    with pytest.warns(UserWarning, match="0x800") as warned:
        watch = work()
    assert len(warned) == 1
    assert (watch.seen().bits, watch.seen().throttled) == (0x800, ())


def test_a_gpu_lost_midway_ends_the_work(quiet: Any) -> None:
    """What only the side thread met reaches the one who measures at the end, with exit code 3."""

    def work() -> None:
        with Watch(CUDA, hertz=500):
            quiet.failing[REASONS] = pynvml.NVML_ERROR_GPU_IS_LOST
            time.sleep(0.05)
            quiet.failing.clear()

    with pytest.raises(UnfitEnvironmentError) as raised:
        work()
    assert raised.value.exit_code == ExitCode.UNFIT_ENVIRONMENT


def test_an_error_of_the_block_is_not_covered_up(quiet: Any) -> None:
    """What went wrong first is what is raised, though the GPU is lost as well."""

    def work() -> None:
        with Watch(CUDA, hertz=500):
            quiet.failing[REASONS] = pynvml.NVML_ERROR_GPU_IS_LOST
            raise KeyError

    with pytest.raises(KeyError):
        work()


def test_a_device_without_nvml_is_watched_in_vain_but_in_peace(quiet: Any) -> None:
    """Without the library every state says so and nothing is rejected."""
    quiet.failing["nvmlInit"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    with Watch(CUDA, hertz=500) as watch:
        wait_for_looks(watch, 2)
    assert watch.seen().throttled == ()
    assert all("nvml" in state.absent for _, state in watch.states)


def test_strangers_are_counted_before_our_context(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes and memory in use are NVML's, asked without torch touching CUDA."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delattr(torch.cuda, "get_device_properties")
    before = foreign_processes_before_context(0)
    assert (before.processes, before.used_memory_gb, before.absent) == ({11, 12}, 1.5, {})
    assert nvml.arguments["nvmlDeviceGetHandleByIndex"] == (0,)


@pytest.mark.parametrize(
    ("visible", "index", "asked"),
    [("2,0", 0, (2,)), (" 2 , 0", 1, (0,)), ("3", 0, (3,))],
)
def test_the_visible_devices_are_respected(
    nvml: Any, monkeypatch: pytest.MonkeyPatch, visible: str, index: int, asked: tuple[int]
) -> None:
    """CUDA's numbering is that of CUDA_VISIBLE_DEVICES."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    foreign_processes_before_context(index)
    assert nvml.arguments["nvmlDeviceGetHandleByIndex"] == asked


@pytest.mark.parametrize("name", ["GPU-1234", "GPU-12"])
def test_a_visible_device_may_be_a_uuid_or_its_beginning(nvml: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As CUDA does, the beginning of a UUID will do where it fits one device."""

    def exactly(uuid: str) -> object:
        if uuid != "GPU-1234":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return object()

    nvml.answers["nvmlDeviceGetHandleByUUID"] = exactly
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
    assert foreign_processes_before_context(0).processes == {11, 12}


@pytest.mark.parametrize(("visible", "index"), [("", 0), ("0", 1), ("GPU-9", 0), ("MIG-1234", 0)])
def test_a_device_that_is_not_shown_has_a_reason(
    nvml: Any, monkeypatch: pytest.MonkeyPatch, visible: str, index: int
) -> None:
    """No such device: no list, no figure, but why."""
    nvml.failing["nvmlDeviceGetHandleByUUID"] = pynvml.NVML_ERROR_NOT_FOUND
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    before = foreign_processes_before_context(index)
    assert (before.processes, before.used_memory_gb) == (None, None)
    assert before.absent["nvml"]


def test_a_list_that_nvml_withholds_has_its_reason(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processes are not told, memory in use still is."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml.failing[PROCESSES] = pynvml.NVML_ERROR_NO_PERMISSION
    before = foreign_processes_before_context(0)
    assert (before.processes, before.used_memory_gb) == (None, 1.5)
    assert before.absent["processes"] == str(pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION))
