"""One latency profile as a job: interruption and its conditions, the closed gate, a profile of another device, and the device itself."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dcnas_harness.errors import BadInputError, CorruptArtefactError, UnfitEnvironmentError
from dcnas_latency.canary import session_best
from dcnas_latency.files import read_profile, write_profile
from dcnas_latency.rig import RigSample
from dcnas_latency.simulated import Law, SimulatedRig, simulated_card
from dcnas_latency.table import LatencyKeyMissingError
from dcnas_profile_latency import job, sessions
from dcnas_profile_latency.job import Settings, profile_job, setting_of
from dcnas_schema.latency import ProfileMetadata
from dcnas_schema.params import Params
from dcnas_schema.provenance import DeviceCard, DeviceState

FEW = {"profile_latency.ops": 4, "profile_latency.image_size": 32}
Ask = Callable[..., Settings]


@dataclass(kw_only=True, slots=True)
class Machine(SimulatedRig):
    """A simulated device that passes for a real one: it has states of its own, and Ctrl-C may come."""

    law: Law = field(
        default_factory=lambda: Law(noise=0.002, modulus_gain=0.0)
    )  # without steps the plan is half as long
    stop_at: int | None = None
    """Number of the turn in which Ctrl-C comes."""
    turns: int = 0
    seen: list[DeviceState] = field(default_factory=list)
    """States that it will tell, the first first; afterwards it is quiet."""

    def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
        """Return samples, or be interrupted."""
        self.turns += 1
        if self.turns == self.stop_at:
            raise KeyboardInterrupt
        # not super(): a dataclass with slots is made anew, and super() would look in the class from before
        return SimulatedRig.sample(self, build, round=round, marked=marked, order=order)

    def state(self) -> DeviceState:
        """Return the next state."""
        return self.seen.pop(0) if self.seen else DeviceState(load_average=0.25)


@pytest.fixture(scope="module")
def ask(tiny_params: Callable[..., Params]) -> Ask:
    """A function that gives the parameters of a small profile, with changed ones."""

    def make(**changes: Any) -> Settings:
        named = {f"profile_latency.{name}": value for name, value in changes.items()}
        params = tiny_params({**FEW, **named})
        return Settings(device=params.device, profile_latency=params.profile_latency)

    return make


@pytest.fixture
def real(ask: Ask) -> Settings:
    """Parameters that ask for a real runtime, with a gate that must be open."""
    return ask(runtime="torch_eager", allow_noisy=False)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> dict[str, float | None]:
    """The share of the processors that others take, of each run as long as this says; a test may change it."""
    told: dict[str, float | None] = {"share": 0.0}

    class Watcher:
        def __init__(self, _cores: Sequence[int]) -> None: ...

        def share(self) -> float | None:
            return told["share"]

    monkeypatch.setattr(sessions, "Bystanders", Watcher)
    return told


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch, others: dict[str, float | None]) -> Callable[..., Machine]:
    """A function that puts a device in the place of the real one."""

    def place(*, kind: str = "cpu", **fields: Any) -> Machine:
        machine = Machine(builds=2, **fields)
        card = simulated_card(1).model_copy(update={"kind": kind})

        def open_rig(_settings: Settings, _setting: object, _scratch: Path, stack: ExitStack) -> Any:
            return job._Opened(rig=stack.enter_context(machine), card=card, learn_canary=session_best)

        monkeypatch.setattr(job, "_open_rig", open_rig)
        return machine

    assert others["share"] == 0.0
    return place


@pytest.fixture
def profile(tmp_path: Path) -> Callable[..., ProfileMetadata]:
    """A function that makes a profile in the test's own folder."""

    def run(settings: Settings, out: str = "profile.parquet") -> ProfileMetadata:
        return profile_job(settings, tmp_path / out, tmp_path / "scratch")

    return run


def kept_rounds(folder: Path) -> int:
    """Return how many finished rounds lie in the scratch folder."""
    return len(list(folder.glob("scratch/profile_latency/*/*-[0-9]*-[0-9].json")))


def test_an_interrupted_profile_goes_on_and_ends_as_the_undisturbed_one(
    real: Settings,
    put: Callable[..., Machine],
    profile: Callable[..., ProfileMetadata],
    tmp_path: Path,
) -> None:
    """Ctrl-C in the middle: the second run takes only the turns that were missing, gives the same table, and tidies up."""
    whole = put()
    profile(real, "whole.parquet")
    put(stop_at=whole.turns - 2)
    with pytest.raises(KeyboardInterrupt):
        profile(real)
    assert not (tmp_path / "profile.parquet").exists()
    assert kept_rounds(tmp_path) > 0
    rest = put()
    profile(real)
    assert rest.turns < whole.turns / 3
    assert kept_rounds(tmp_path) == 0
    entries, metadata = read_profile(tmp_path / "profile.parquet")
    expected, undisturbed = read_profile(tmp_path / "whole.parquet")
    assert entries == expected
    assert (metadata.nets, metadata.calibration) == (undisturbed.nets, undisturbed.calibration)


def test_an_interruption_does_not_make_the_gate_forget(
    real: Settings,
    put: Callable[..., Machine],
    others: dict[str, float | None],
    profile: Callable[..., ProfileMetadata],
) -> None:
    """What others took and how the device was before Ctrl-C belongs to the samples from then: the gate hears of it."""
    limits = real.profile_latency.limits.model_copy(update={"others_pct": 0.5})
    real = real.model_copy(update={"profile_latency": _changed(real, limits=limits)})
    others["share"] = 0.9
    put(stop_at=20, seen=[DeviceState(load_average=7.0)] * 2)
    with pytest.raises(KeyboardInterrupt):
        profile(real)
    put()
    others["share"] = 0.0
    with pytest.raises(UnfitEnvironmentError, match="processor time taken by other programs"):
        profile(real)
    rejudged = put(seen=[DeviceState(load_average=9.0)] * 9)
    metadata = profile(real.model_copy(update={"profile_latency": _changed(real, allow_noisy=True)}))
    assert rejudged.turns == 0
    assert metadata.states[0][1].load_average == 7.0
    assert all(state.load_average != 9.0 for _, state in metadata.states)  # a run that measured nothing tells nothing
    assert [seconds for seconds, _ in metadata.states] == sorted(seconds for seconds, _ in metadata.states)
    assert not metadata.gate.passed


def _changed(settings: Settings, **changes: Any) -> Any:
    return settings.profile_latency.model_copy(update=changes)


def test_a_closed_gate_measures_anew(
    real: Settings, put: Callable[..., Machine], profile: Callable[..., ProfileMetadata], tmp_path: Path
) -> None:
    """Refused samples would be refused again: on a quiet machine the same command measures all of them once more, and passes."""
    put(law=Law(build_bias=0.2, modulus_gain=0.0))
    with pytest.raises(UnfitEnvironmentError, match="two interleaved builds differ") as caught:
        profile(real)
    assert "it measures anew" in str(caught.value)
    assert not (tmp_path / "profile.parquet").exists()
    quiet = put()
    assert profile(real).gate.passed
    assert quiet.turns > 0


@pytest.mark.parametrize("changes", [{"allow_noisy": True}, {"limits": None}], ids=["noise allowed", "wider limits"])
def test_a_refused_profile_need_not_be_measured_again_to_be_written(
    real: Settings,
    put: Callable[..., Machine],
    profile: Callable[..., ProfileMetadata],
    changes: dict[str, Any],
) -> None:
    """Whoever allows noise, or sets other limits, gets what was measured: only the verdict is made anew, and the flag recorded."""
    put(law=Law(build_bias=0.2, modulus_gain=0.0))
    with pytest.raises(UnfitEnvironmentError):
        profile(real)
    if "limits" in changes:
        changes = {"limits": real.profile_latency.limits.model_copy(update={"builds_differ_pct": 30.0})}
    untouched = put()
    metadata = profile(real.model_copy(update={"profile_latency": _changed(real, **changes)}))
    assert untouched.turns == 0
    assert metadata.gate.passed == ("limits" in changes)
    assert metadata.gate.allow_noisy == ("allow_noisy" in changes)


def test_a_gpu_that_throttled_before_an_interruption_is_refused_after_it(
    real: Settings,
    put: Callable[..., Machine],
    profile: Callable[..., ProfileMetadata],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One thermal slowdown in the first run closes the gate of the second."""

    class Watch:
        states = ()

        def __init__(self, _device: str) -> None:
            pass

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(job, "Watch", Watch)
    hot = DeviceState(throttle_reasons=0x40, other_processes=0)
    put(kind="cuda", stop_at=20, seen=[DeviceState(), hot])
    with pytest.raises(KeyboardInterrupt):
        profile(real)
    put(kind="cuda")
    with pytest.raises(UnfitEnvironmentError, match=r"NVML reported 0x40"):
        profile(real)


def test_damaged_conditions_are_not_passed_over(
    real: Settings, put: Callable[..., Machine], profile: Callable[..., ProfileMetadata], tmp_path: Path
) -> None:
    """What cannot be read might have closed the gate: it is named, with what to delete."""
    put(stop_at=20)
    with pytest.raises(KeyboardInterrupt):
        profile(real)
    (file,) = tmp_path.glob("scratch/profile_latency/*/session-*.json")
    file.write_text("{}")
    put()
    with pytest.raises(CorruptArtefactError, match=r"session-0\.json is damaged.*\n.*delete .* measured anew"):
        profile(real)


@pytest.mark.parametrize(
    ("runtime", "provider", "expected"),
    [
        ("simulated", None, ("channels_last", None)),
        ("torch_eager", "CPUExecutionProvider", ("channels_last", None)),
        ("onnxruntime", "CPUExecutionProvider", ("contiguous", "CPUExecutionProvider")),
        ("onnxruntime", None, ("contiguous", "CPUExecutionProvider")),
    ],
)
def test_the_setting_says_what_really_runs(
    ask: Ask, runtime: str, provider: str | None, expected: tuple[str, str | None]
) -> None:
    """ONNX Runtime has one memory format and a provider, the others none: what is unused does not tell tables apart."""
    setting = setting_of(ask(runtime=runtime, provider=provider))
    assert (setting.memory_format, setting.provider) == expected
    assert (setting.height, setting.width, setting.batch, setting.threads) == (32, 32, 1, 1)


@pytest.fixture(scope="module")
def elsewhere(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile from another device, made by other parameters of the same setting; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("elsewhere")
    profile_job(ask(seed=3), folder / "profile.parquet", folder / "scratch")
    return folder / "profile.parquet"


@pytest.fixture
def foreign(elsewhere: Path, tmp_path: Path) -> Path:
    """A copy of that profile."""
    return Path(shutil.copyfile(elsewhere, tmp_path / "from_elsewhere.parquet"))


def test_a_profile_of_another_device_is_taken_as_it_is(
    ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata], tmp_path: Path
) -> None:
    """With `source: file` the output is the file, byte by byte, even where it lies at the output already."""
    metadata = profile(ask(source="file", file=str(foreign)))
    assert metadata == read_profile(foreign)[1]
    assert metadata.canary == ()  # a formula's clock stands still
    assert (tmp_path / "profile.parquet").read_bytes() == foreign.read_bytes()
    before = foreign.read_bytes()
    profile(ask(source="file", file=str(foreign)), foreign.name)
    assert foreign.read_bytes() == before


def test_a_missing_file_is_named(ask: Ask, profile: Callable[..., ProfileMetadata], tmp_path: Path) -> None:
    """The path, the parameter that names it, and how such a file comes about."""
    with pytest.raises(BadInputError, match=r"nowhere\.parquet does not exist") as caught:
        profile(ask(source="file", file=str(tmp_path / "nowhere.parquet")))
    assert "profile_latency.file" in str(caught.value)
    assert "dcnas profile" in str(caught.value)


def test_a_file_of_another_setting_is_refused(
    ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata], tmp_path: Path
) -> None:
    """Every difference is named, and nothing is written."""
    with pytest.raises(BadInputError, match=r"batch 1, not 8; height 32, not 64; width 32, not 64"):
        profile(ask(source="file", file=str(foreign), batch=8, image_size=64))
    assert not (tmp_path / "profile.parquet").exists()


def test_threads_are_the_other_devices_own(ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata]) -> None:
    """How many threads this machine trains with has nothing to do with how many the profiled box runs its nets on."""
    settings = ask(source="file", file=str(foreign))
    many = settings.model_copy(update={"device": settings.device.model_copy(update={"threads": 64})})
    assert profile(many).setting.threads == 1


def test_a_provider_that_is_not_named_is_the_other_devices(
    ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata]
) -> None:
    """A box with TensorRT may be profiled for a pipeline on a machine without; a provider that is named must be the profile's."""
    entries, metadata = read_profile(foreign)
    changes = {"runtime": "onnxruntime", "provider": "TensorrtExecutionProvider", "memory_format": "contiguous"}
    setting = metadata.setting.model_copy(update=changes)
    write_profile(foreign, entries, metadata.model_copy(update={"setting": setting}))
    asked = {"source": "file", "file": str(foreign), "runtime": "onnxruntime"}
    assert profile(ask(**asked, provider=None)).setting == setting
    with pytest.raises(BadInputError, match="provider 'TensorrtExecutionProvider', not 'CPUExecutionProvider'"):
        profile(ask(**asked, provider="CPUExecutionProvider"))


def test_a_file_that_lacks_some_ops_is_refused(
    ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata]
) -> None:
    """A table of the four-op space does not do for eight ops: told here, not days later by the search."""
    with pytest.raises(LatencyKeyMissingError, match=r"block .* se16 .*\n.*remedy"):
        profile(ask(source="file", file=str(foreign), ops=8))


def test_a_damaged_file_is_refused(ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata]) -> None:
    """A copy that broke off on its way home is no profile."""
    foreign.write_bytes(foreign.read_bytes()[:-100])
    with pytest.raises(CorruptArtefactError, match="damaged"):
        profile(ask(source="file", file=str(foreign)))


def test_a_noisy_file_needs_leave_here_too(ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata]) -> None:
    """That the other device's owner allowed noise does not mean that this pipeline does."""
    entries, metadata = read_profile(foreign)
    (first, *rest) = metadata.gate.checks
    gate = metadata.gate.model_copy(
        update={"checks": (first.model_copy(update={"value": 99.0, "passed": False}), *rest), "allow_noisy": True}
    )
    write_profile(foreign, entries, metadata.model_copy(update={"gate": gate}))
    with pytest.raises(UnfitEnvironmentError, match=first.name.replace("(", r"\(").replace(")", r"\)")):
        profile(ask(source="file", file=str(foreign), allow_noisy=False))
    assert not profile(ask(source="file", file=str(foreign), allow_noisy=True)).gate.passed


def test_a_profile_says_how_it_was_made(ask: Ask, profile: Callable[..., ProfileMetadata], tmp_path: Path) -> None:
    """Protocol, plan and provenance are those of the run; a simulated device marks itself, takes no time and leaves nothing."""
    settings = ask(rounds=4, builds=2, warm_calls=3)
    metadata = profile(settings)
    assert (metadata.protocol.rounds, metadata.protocol.processes, metadata.protocol.warm_calls) == (8, 2, 3)
    assert (metadata.protocol.clock, metadata.protocol.seconds) == ("simulated", 0.0)
    assert (metadata.device.name, metadata.setting.runtime) == ("simulated device", "simulated")
    assert metadata.provenance.stage == "profile_latency"
    assert metadata.provenance.seed == settings.profile_latency.seed
    assert len(metadata.states) == 1
    assert {(net.kind, net.use) for net in metadata.nets} == {
        (kind, use) for kind in ("c_nas", "d_nas", "dc_nas") for use in ("fit", "held_out")
    }
    assert not (tmp_path / "scratch").exists()


def test_many_states_are_thinned_between_first_and_last(
    real: Settings,
    put: Callable[..., Machine],
    profile: Callable[..., ProfileMetadata],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long run keeps so many states, the first and the last among them."""
    monkeypatch.setattr(job, "_POINTS_KEPT", 4)
    put(seen=[DeviceState(load_average=float(number)) for number in range(100)])
    loads = [state.load_average for _, state in profile(real).states]
    assert len(loads) == 4
    assert loads[0] == 0.0
    assert loads == sorted(loads, key=lambda load: load or 0.0)


def test_the_canary_over_the_run_is_kept(
    real: Settings, put: Callable[..., Machine], profile: Callable[..., ProfileMetadata]
) -> None:
    """Times in order from the beginning to the end, before and after an interruption, each with the canary of then."""
    put(stop_at=40)
    with pytest.raises(KeyboardInterrupt):
        profile(real)
    put()
    metadata = profile(real)
    seconds = [when for when, _ in metadata.canary]
    assert 10 < len(seconds) <= 200
    assert seconds == sorted(seconds)
    assert seconds[-1] <= metadata.states[-1][0] + 0.1
    assert {ms for _, ms in metadata.canary} == {0.3}


def test_the_device_is_locked_before_anything_starts_on_it(
    real: Settings, monkeypatch: pytest.MonkeyPatch, profile: Callable[..., ProfileMetadata]
) -> None:
    """Measuring processes load libraries and open the GPU: in the time of whoever holds the device that would disturb him."""
    log: list[str] = []

    @contextmanager
    def device_lock(card: DeviceCard, *, exclusive: bool) -> Iterator[None]:
        assert exclusive
        log.append(f"lock {card.kind}")
        try:
            yield
        finally:
            log.append("unlock")

    class Process(Machine):
        canary_op = "products"
        cores = ()

        def __init__(self, *_: object, builds: int, **__: object) -> None:
            super().__init__(builds=builds, stop_at=1)
            self.card = simulated_card(1)
            log.append("start")

        def close(self) -> None:
            log.append("end")

        def __exit__(self, *_: object) -> None:
            self.close()

    monkeypatch.setattr(job, "device_lock", device_lock)
    monkeypatch.setattr(job, "ProcessRig", Process)
    with pytest.raises(KeyboardInterrupt):
        profile(real)
    assert log == ["lock cpu", "start", "end", "unlock"]


def test_a_file_is_judged_by_the_limits_of_here(
    ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata], tmp_path: Path
) -> None:
    """What its own limits let pass is refused where these do not; with noise allowed the written file says so."""
    strict = {"source": "file", "file": str(foreign), "limits.mape_pct": 1e-6}
    assert read_profile(foreign)[1].gate.passed
    with pytest.raises(UnfitEnvironmentError, match="mean error of the predictor"):
        profile(ask(**strict, allow_noisy=False))
    told = profile(ask(**strict, allow_noisy=True))
    assert not told.gate.passed
    assert read_profile(tmp_path / "profile.parquet") == (read_profile(foreign)[0], told)


def test_a_file_without_the_reference_net_is_refused(
    ask: Ask, foreign: Path, profile: Callable[..., ProfileMetadata]
) -> None:
    """A relative target would lack its figure: the net is named, and how the other device gives it."""
    with pytest.raises(BadInputError, match="does not hold the latency of resnet18") as caught:
        profile(ask(source="file", file=str(foreign), references=["resnet18"]))
    assert "--reference resnet18" in str(caught.value)


@pytest.mark.parametrize("runtime", ["onnxruntime", "simulated"])
def test_references_need_a_runtime_of_torch(ask: Ask, runtime: str) -> None:
    """Only torch builds them: the parameter and the runtime are named before anything is measured."""
    with pytest.raises((BadInputError, ValueError), match=f"references are timed by torch, and runtime is {runtime}"):
        ask(runtime=runtime, references=["resnet18"])


def test_tf32_and_cache_are_of_the_setting(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's fp32 may be TF32, a CPU's and bf16 never are: what the nets ran in tells one table from another."""
    monkeypatch.setattr(job, "device_kind", lambda device: "cpu" if device.kind == "cpu" else "cuda")

    def found(kind: str, **changes: Any) -> tuple[bool, str]:
        settings = ask(runtime="torch_eager", **changes)
        settings = settings.model_copy(update={"device": settings.device.model_copy(update={"kind": kind})})
        setting = setting_of(settings)
        return setting.tf32, setting.cache

    assert found("cpu") == (False, "warm")
    assert found("cuda") == (True, "warm")
    assert found("cuda", tf32=False, cache="cold") == (False, "cold")
    assert found("cuda", precision="bf16") == (False, "warm")


def test_samples_of_two_versions_of_onnx_runtime_are_never_mixed(ask: Ask) -> None:
    """An interrupted profile does not go on with another library."""
    card = simulated_card(1)
    old, new = (card.model_copy(update={"onnxruntime": version}) for version in ("1.20", "1.21"))
    assert len({job._digest(ask(), one) for one in (card, old, new)}) == 3


def test_the_gate_sees_every_look_at_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten a second, of which the clock's spread is: thinning is for the file."""
    looks = [(number / 10, DeviceState(sm_clock_mhz=1980 - number, other_processes=2)) for number in range(30)]

    class Looks:
        states = looks

        def __init__(self, _device: str) -> None: ...
        def __enter__(self) -> "Looks":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(job, "Watch", Looks)
    with job._watched(simulated_card(1).model_copy(update={"kind": "cuda"})) as polled:
        found = polled()
    assert [state.sm_clock_mhz for _, state in found] == [1980 - number for number in range(30)]
