"""The device card: what the machine says of itself, and a reason wherever it says nothing."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest
import torch

from dcnas_harness.errors import ExitCode, UnfitEnvironmentError
from dcnas_latency import host
from dcnas_latency.card import cpu_card, device_card, device_state, fingerprint, gpu_state
from dcnas_schema.provenance import DeviceCard, DeviceState

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NVML_OF_CARD = {"driver", "power_cap_w", "mig", "persistence", "max_sm_clock_mhz", "compute_capability"}
NVML_OF_STATE = {
    *("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "temperature_margin_c", "power_w"),
    *("throttle_reasons", "throttle_counters", "compute_processes", "other_processes"),
}
COUNTERS = {"sw_power_cap", "sw_thermal", "hw_thermal", "hw_power_brake"}


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Linux box of two cores whose /proc and /sys are folders; nothing stands there but what a test writes."""
    monkeypatch.setattr(host, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "_CPUS", tmp_path / "cpu")
    monkeypatch.setattr(host, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    return tmp_path


def write(path: Path, text: str) -> None:
    """Write a file of the box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_card_of_a_cpu_invents_nothing() -> None:
    """Model, cores, threads, memory and versions are the machine's; what only a GPU has is absent."""
    card = device_card(CPU)
    assert card.kind == "cpu"
    assert card.cores == os.cpu_count()
    assert card.threads == torch.get_num_threads()
    assert (card.python, card.torch) == (platform.python_version(), torch.__version__)
    assert card.system == f"{platform.system()} {platform.machine()}"
    assert card.isa == torch.backends.cpu.get_cpu_capability()
    kilobytes = next(
        line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    assert card.memory_gb == pytest.approx(int(kilobytes) * 1024 / 1e9, abs=0.1)
    assert all(getattr(card, field) is None for field in (*NVML_OF_CARD, "uuid", "cuda", "cudnn"))
    assert card.cpu_model is None or f": {card.cpu_model}" in Path("/proc/cpuinfo").read_text()


def test_a_cpu_that_tells_nothing_gives_reasons(box: Path) -> None:
    """Without /proc and /sys the card is named after the architecture and each silent field says why."""
    (box / "proc").mkdir()
    card = cpu_card(3)
    assert (card.cpu_model, card.name, card.threads) == (None, platform.processor() or platform.machine(), 3)
    for field in ("cpu_model", "governor", "min_mhz", "max_mhz", "container_cpus", "container_memory_gb"):
        assert getattr(card, field) is None
        assert card.absent[field]


def test_an_unknown_memory_size_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not tell its memory gives no number, and the reason stands in `absent`."""

    def refuse(_name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", refuse)
    card = device_card(CPU)
    assert card.memory_gb is None
    assert "unrecognized" in card.absent["memory_gb"]


def test_clocks_and_governor_are_sysfs(box: Path) -> None:
    """Frequencies stand in sysfs in kHz and on the card in MHz, over the allowed cores alone."""
    for core, (least, greatest, governor) in enumerate(
        [(800_000, 3_000_000, "performance"), (900_000, 3_500_000, "powersave"), (1_000, 9_000_000, "not ours")]
    ):
        folder = box / "cpu" / f"cpu{core}" / "cpufreq"
        write(folder / "cpuinfo_min_freq", f"{least}\n")
        write(folder / "cpuinfo_max_freq", f"{greatest}\n")
        write(folder / "scaling_governor", f"{governor}\n")
    card = cpu_card(1)
    assert (card.min_mhz, card.max_mhz, card.governor) == (800, 3500, "performance, powersave")
    assert card.affinity == "0-1"


@pytest.mark.parametrize(
    ("cores", "text"), [([], ""), ([5], "5"), ([0, 1, 2, 3, 8], "0-3,8"), ([1, 3, 4, 6], "1,3-4,6")]
)
def test_cores_are_listed_as_the_kernel_lists_them(cores: list[int], text: str) -> None:
    """Neighbours are a range, single cores stand alone."""
    assert host.in_list_format(cores) == text


def test_limits_of_a_container_are_the_tightest_of_its_groups(box: Path) -> None:
    """In version 2 the group and every group above it binds; `max` is no limit."""
    write(box / "proc" / "self" / "cgroup", "0::/slice/job\n")
    write(box / "cgroup" / "cgroup.controllers", "cpu memory\n")
    write(box / "cgroup" / "slice" / "cpu.max", "150000 100000\n")
    write(box / "cgroup" / "slice" / "memory.max", "2000000000\n")
    write(box / "cgroup" / "slice" / "job" / "cpu.max", "max 100000\n")
    write(box / "cgroup" / "slice" / "job" / "memory.max", "max\n")
    card = cpu_card(1)
    assert (card.container_cpus, card.container_memory_gb) == (1.5, 2.0)


def test_limits_of_the_older_control_groups_are_read_too(box: Path) -> None:
    """Version 1 has a folder for each controller and huge numbers or -1 for no limit; a group that is not mounted here is passed over."""
    write(box / "proc" / "self" / "cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n")
    write(box / "cgroup" / "cpu" / "cpu.cfs_quota_us", "50000\n")
    write(box / "cgroup" / "cpu" / "cpu.cfs_period_us", "100000\n")
    write(box / "cgroup" / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    card = cpu_card(1)
    assert (card.container_cpus, card.container_memory_gb) == (0.5, None)
    assert not {"container_cpus", "container_memory_gb"} & set(card.absent)
    write(box / "cgroup" / "cpu" / "cpu.cfs_quota_us", "-1\n")
    assert cpu_card(1).container_cpus is None


def test_allocator_settings_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What glibc's malloc was told stands on the card; nothing stands there where it was told nothing."""
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert cpu_card(1).allocator is None
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    assert cpu_card(1).allocator == {"MALLOC_MMAP_MAX_": "0"}


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("fpu fma avx2 avx512f avx512vl avx512bw avx512dq", "AVX512"),
        ("fpu fma avx2 avx512f", "AVX2"),
        ("fpu avx", "DEFAULT"),
    ],
)
def test_the_instruction_set_is_told_without_torch(
    box: Path, flags: str, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch is not installed the flags of an x86 processor tell it in torch's words."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    write(box / "proc" / "cpuinfo", f"processor : 0\nmodel name : Box\nflags : {flags}\n")
    card = cpu_card(1)
    assert (card.isa, card.torch, card.name) == (isa, "not installed", "Box")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert cpu_card(1).absent["isa"]


def test_a_box_without_torch_can_time_and_lock(tmp_path: Path) -> None:
    """Card, state, timer, canary, watch and lock of a CPU work where torch cannot be imported."""
    code = """
import sys
sys.modules["torch"] = None
from dcnas_latency import canary, card, lock, timers, watch
found = card.cpu_card(1)
with lock.device_lock(found, exclusive=True), watch.Watch("cpu") as seen:
    ms = canary.choose_canary("cpu", runtime="onnxruntime").sample()
    timers.choose_timer("cpu")
print(found.torch, ms > 0, len(seen.states))
"""
    environment = {**os.environ, "DCNAS_LOCK_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "not installed True 2\n", done.stderr


def test_the_state_of_a_cpu_has_nothing_of_a_gpu() -> None:
    """A CPU gives its load average and available memory, and no field of NVML's."""
    state = device_state(CPU)
    assert state.load_average == pytest.approx(os.getloadavg()[0], abs=0.5)
    assert state.memory_available_gb is not None
    assert 0 < state.memory_available_gb <= (device_card(CPU).memory_gb or 0)
    assert all(getattr(state, field) is None for field in NVML_OF_STATE)


def test_pressure_clock_and_memory_are_those_of_proc(box: Path) -> None:
    """The pressure is that of some task over 10 s, the clock the mean of the allowed cores, memory what is available."""
    write(box / "proc" / "pressure" / "cpu", "some avg10=51.97 avg60=18.23 avg300=8.28 total=1\nfull avg10=0.00\n")
    cpus = "".join(f"processor : {core}\ncpu MHz : {mhz}\n\n" for core, mhz in enumerate([2000.4, 3000.4, 9999.0]))
    write(box / "proc" / "cpuinfo", cpus)
    write(box / "proc" / "meminfo", "MemTotal: 4000000 kB\nMemAvailable: 2000000 kB\n")
    state = device_state("cpu")
    assert (state.cpu_pressure_pct, state.cpu_mhz, state.memory_available_gb) == (51.97, 2500, 2.0)
    assert state.absent == {}


def test_what_proc_does_not_tell_has_its_reason(box: Path) -> None:
    """A kernel without pressure, clock or memory figures gives no number for any of them."""
    write(box / "proc" / "cpuinfo", "processor : 0\n")
    write(box / "proc" / "meminfo", "MemTotal: 4000000 kB\n")
    state = device_state("cpu")
    for field in ("cpu_pressure_pct", "cpu_mhz", "memory_available_gb"):
        assert getattr(state, field) is None
        assert "/proc" in state.absent[field]


@pytest.mark.usefixtures("nvml")
def test_the_card_of_a_gpu_is_nvmls() -> None:
    """Every field is what NVML and torch answered, in the card's units."""
    card = device_card(CUDA)
    assert (card.kind, card.name, card.cuda, card.cudnn) == ("cuda", "Test GPU", "13.0", 92400)
    assert (card.uuid, card.driver, card.power_cap_w, card.mig) == ("GPU-1234", "580.1", 350.0, False)
    assert (card.persistence, card.max_sm_clock_mhz, card.compute_capability) == (True, 2100, "9.0")
    assert not NVML_OF_CARD & set(card.absent)


def test_the_state_of_a_gpu_is_nvmls(nvml: Any) -> None:
    """Clocks, heat, power and throttle bits (unknown ones too) are recorded; our own process is not another one."""
    nvml.counters = {74: 5, 269: 6, 270: 7, 271: 8}
    state = device_state(CUDA)
    assert (state.sm_clock_mhz, state.memory_clock_mhz) == (1980, 2619)
    assert (state.temperature_c, state.temperature_margin_c, state.power_w) == (41, 47, 123.4)
    assert state.throttle_reasons == 0x804
    assert state.throttle_counters == {"sw_power_cap": 5, "sw_thermal": 6, "hw_thermal": 7, "hw_power_brake": 8}
    assert (state.compute_processes, state.other_processes) == (2, 1)
    assert not NVML_OF_STATE & set(state.absent)
    assert state.load_average is not None
    nvml.answers["nvmlDeviceGetComputeRunningProcesses"] = []
    assert device_state(CUDA).other_processes == 0


def test_the_gpus_share_of_a_state_leaves_the_host_alone(nvml: Any) -> None:
    """What a watch asks ten times a second reads none of the host's files."""
    state = gpu_state(CUDA)
    assert (state.sm_clock_mhz, state.load_average, state.memory_available_gb) == (1980, None, None)
    assert nvml.arguments["nvmlDeviceGetHandleByUUID"] == ("GPU-1234",)


CALLS = {
    "nvmlSystemGetDriverVersion": {"driver"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_cap_w"},
    "nvmlDeviceGetMigMode": {"mig"},
    "nvmlDeviceGetPersistenceMode": {"persistence"},
    "nvmlDeviceGetMaxClockInfo": {"max_sm_clock_mhz"},
    "nvmlDeviceGetCudaComputeCapability": {"compute_capability"},
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz", "memory_clock_mhz"},
    "nvmlDeviceGetMarginTemperature": {"temperature_margin_c"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetFieldValues": {"throttle_counters"},
    "nvmlDeviceGetComputeRunningProcesses": {"compute_processes", "other_processes"},
}
REFUSALS = [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_UNKNOWN]


def found_of(call: str) -> tuple[DeviceCard | DeviceState, set[str]]:
    """Return the record that the call serves and all of NVML's fields in it."""
    if CALLS[call] <= NVML_OF_CARD:
        return device_card(CUDA), NVML_OF_CARD
    return device_state(CUDA), NVML_OF_STATE


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", REFUSALS)
def test_a_call_that_nvml_refuses_costs_its_own_fields_alone(nvml: Any, call: str, error: int) -> None:
    """Whatever call fails, its fields are absent with NVML's reason and all others are there."""
    nvml.failing[call] = error
    found, fields = found_of(call)
    for field in fields:
        assert (getattr(found, field) is None) == (field in CALLS[call])
    reasons = {field: reason for field, reason in found.absent.items() if field.split(".")[0] in fields}
    assert {field.split(".")[0] for field in reasons} == CALLS[call]
    assert set(reasons.values()) == {str(pynvml.NVMLError(error))}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("nvml")
def test_a_function_that_the_binding_lacks_is_named(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older or newer nvidia-ml-py without a function costs the function's fields, with the function's name as the reason."""
    monkeypatch.delattr(pynvml, call)
    found, _ = found_of(call)
    for field in CALLS[call]:
        assert getattr(found, field) is None
    assert any(call in reason for reason in found.absent.values())


READ_BY = [
    *((call, device_card if fields <= NVML_OF_CARD else gpu_state) for call, fields in CALLS.items()),
    *((call, read) for call in ("nvmlInit", "nvmlDeviceGetHandleByUUID") for read in (device_card, device_state)),
]


@pytest.mark.parametrize(("call", "read"), READ_BY)
@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
def test_a_lost_gpu_ends_the_work(nvml: Any, call: str, read: Callable[[object], object], error: int) -> None:
    """A GPU that is gone is no missing field: whatever call learns it, exit code 3."""
    nvml.failing[call] = error
    with pytest.raises(UnfitEnvironmentError, match="does not answer") as raised:
        read(CUDA)
    assert raised.value.exit_code == ExitCode.UNFIT_ENVIRONMENT


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_without_nvml_the_card_says_so(nvml: Any, call: str, error: int) -> None:
    """No library, no driver or an unknown device: nothing of NVML's is there, and one reason says why."""
    nvml.failing[call] = error
    for found, fields in ((device_card(CUDA), NVML_OF_CARD), (device_state(CUDA), NVML_OF_STATE)):
        assert found.absent["nvml"] == str(pynvml.NVMLError(error))
        assert all(getattr(found, field) is None for field in fields)
    assert (device_card(CUDA).name, device_card(CUDA).uuid) == ("Test GPU", "GPU-1234")


@pytest.mark.usefixtures("nvml")
def test_without_the_binding_the_card_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nvidia-ml-py is not installed the card is made without it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_card(CUDA).absent["nvml"] == "nvidia-ml-py is not installed"
    assert device_state(CUDA).absent["nvml"] == "nvidia-ml-py is not installed"


@pytest.mark.parametrize(
    ("newer", "older", "field"),
    [
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons", "throttle_reasons"),
        ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature", "temperature_c"),
    ],
)
@pytest.mark.parametrize("lacks", ["binding", "driver"])
def test_the_older_name_of_a_call_will_do(
    nvml: Any, monkeypatch: pytest.MonkeyPatch, newer: str, older: str, field: str, lacks: str
) -> None:
    """A binding or a driver from before CUDA 13 knows the call by its former name only."""
    nvml.answers[older] = 7
    monkeypatch.setattr(pynvml, older, nvml.call(older), raising=False)
    if lacks == "binding":
        monkeypatch.delattr(pynvml, newer)
    else:
        nvml.failing[newer] = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    state = device_state(CUDA)
    assert getattr(state, field) == 7
    assert field not in state.absent


def test_a_counter_that_the_driver_lacks_costs_itself_alone(nvml: Any) -> None:
    """Of four counters three are given and one says why not."""
    nvml.unsupported_counters = {269}
    state = device_state(CUDA)
    assert set(state.throttle_counters or ()) == COUNTERS - {"sw_thermal"}
    assert state.absent["throttle_counters.sw_thermal"] == str(pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED))


def test_a_slice_of_a_gpu_is_found_by_its_own_uuid(nvml: Any) -> None:
    """Under MIG torch's UUID is the slice's, which NVML knows by another prefix."""

    def only_mig(name: str) -> object:
        if not name.startswith("MIG-"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return object()

    nvml.answers["nvmlDeviceGetHandleByUUID"] = only_mig
    assert device_card(CUDA).driver == "580.1"


def test_a_fingerprint_tells_devices_apart_and_nothing_else() -> None:
    """Name, UUID, cores, driver, MIG and instruction set change it; threads, versions of software, settings and reasons do not."""
    base = device_card(CPU)
    own = [{"name": "Other"}, {"uuid": "GPU-2"}, {"cores": 99}, {"driver": "1"}, {"mig": True}, {"isa": "OLD"}]
    for change in [*own, {"kind": "cuda"}, {"cpu_model": "Other"}]:
        assert fingerprint(base.model_copy(update=change)) != fingerprint(base)
    same = {"threads": 99, "affinity": "0", "torch": "0", "allocator": {"MALLOC_A": "1"}, "absent": {"uuid": "hidden"}}
    assert fingerprint(base.model_copy(update=same)) == fingerprint(base)


def test_a_fingerprint_is_the_digest_of_named_fields(card: DeviceCard) -> None:
    """A stored table stays its device's from one version of ours to the next: the text that is hashed is fixed."""
    text = (
        '{"cores": 2, "cpu_model": null, "driver": null, "isa": null, "kind": "cpu", "mig": null, '
        '"name": "Test CPU", "uuid": null}'
    )
    assert fingerprint(card) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_records_of_before_these_fields_still_parse() -> None:
    """A card and a state as version 1 wrote them are read, and say nothing that they did not say."""
    card = {"kind": "cpu", "name": "Old", "cores": 2, "threads": 2, "python": "3.11", "torch": "2.14", "system": "L"}
    assert DeviceCard.model_validate_json(json.dumps(card)).isa is None
    state = {"load_average": 0.5, "throttle_reasons": None, "other_processes": None, "absent": {}}
    assert DeviceState.model_validate_json(json.dumps(state)).throttle_counters is None
