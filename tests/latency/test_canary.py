"""The canary: one fixed op, timed warm, and a best time that outlives the session."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcnas_harness.errors import CorruptArtefactError, ExitCode
from dcnas_latency import canary as canary_module
from dcnas_latency.canary import Canary, CanaryStore, choose_canary, state_folder
from dcnas_latency.timers import Program, Sample


@pytest.fixture
def store(tmp_path: Path) -> CanaryStore:
    """An empty store of one device's canary."""
    return CanaryStore(folder=tmp_path / "canary", fingerprint="abc", runtime="torch_eager", threads=2, op="products")


def session(*, best: float, rest: float = 9.0) -> list[float]:
    """Return 201 times of which eleven, its 5 %, are at most `best`."""
    return [best / 2] * 10 + [best] + [rest] * 190


class Log:
    """A program and a timer that note their turns; the timer gives one time after the other."""

    def __init__(self, *times_ms: float) -> None:
        self.log, self.times_ms = "", iter(times_ms)

    def run(self) -> None:
        """Note a run."""
        self.log += "r"

    def sample(self, program: Program, *, marked: bool = False) -> Sample:
        """Time a run without marks."""
        assert not marked
        self.log += "t"
        program.run()
        return Sample(total_ms=next(self.times_ms), wall_ms=9.0)


def test_a_sample_is_the_least_of_a_few_after_an_untimed_run() -> None:
    """One hiccup does not decide, nor what ran before; the time is by the timer's own clock, and the next sample is as fresh."""
    runs = canary_module._RUNS
    log = Log(*range(runs, 0, -1), *range(9, 9 + runs))
    canary = Canary(op="products", program=log, timer=log)
    assert canary.sample() == 1
    assert log.log == "r" + "tr" * runs
    assert canary.sample() == 9


@pytest.mark.parametrize("runtime", ["torch_eager", "torch_compile", "onnxruntime"])
def test_the_op_is_the_same_at_every_run(runtime: Any) -> None:
    """It is a product of known matrices: always the same, always finite and never small, and it takes some time."""
    canary = choose_canary("cpu", runtime=runtime)
    results = []
    for _ in range(3):
        assert 0.005 < canary.sample() < 1000
        results.append(last_product(canary).copy())
    assert all((result == results[0]).all() for result in results)
    assert np.isfinite(results[0]).all()
    assert float(np.abs(results[0]).std()) > 0.01


@pytest.mark.parametrize("runtime", ["torch_eager", "onnxruntime"])
def test_the_op_computes_what_it_says(runtime: Any) -> None:
    """The chain of n products ends with the n+1st power of an orthogonal matrix; the streaming product is that of its factors."""
    canary = choose_canary("cpu", runtime=runtime)
    canary.sample()
    matrix = np.asarray(chain_of(canary)._matrix, dtype=np.float64)
    power = np.linalg.matrix_power(matrix, canary_module._CPU_CHAIN + 1)
    np.testing.assert_allclose(last_product(canary), power, atol=1e-5)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-5)
    panel = chain_of(canary)._panel
    assert panel is not None
    left, right, result = map(np.asarray, panel)
    np.testing.assert_allclose(result, left @ right, rtol=1e-3, atol=1e-3)


def last_product(canary: Canary) -> Any:
    """Return the result of the chain, of which every other product goes to the same buffer."""
    return np.asarray(chain_of(canary)._buffers[(canary_module._CPU_CHAIN - 1) % 2])


def chain_of(canary: Canary) -> canary_module._Chain:
    """Return what the canary runs."""
    assert isinstance(canary.program, canary_module._Chain)
    return canary.program


def test_torchs_work_and_onnx_runtimes_have_canaries_of_their_own() -> None:
    """The library is part of the op's name, with its version: a new one starts a new reference."""
    ours, theirs = (choose_canary("cpu", runtime=runtime) for runtime in ("torch_eager", "onnxruntime"))
    assert f"torch {torch.__version__}" in ours.op
    assert f"numpy {np.__version__}" in theirs.op
    assert choose_canary(torch.device("cpu"), runtime="torch_eager").op == ours.op


def test_a_canary_made_within_inference_mode_works_outside() -> None:
    """Where it is made does not matter to where it runs."""
    with torch.inference_mode():
        canary = choose_canary("cpu", runtime="torch_eager")
        canary.sample()
    assert canary.sample() > 0
    with torch.inference_mode():
        assert canary.sample() > 0


def test_autocast_does_not_change_the_op() -> None:
    """Within bf16 autocast, where the work may run, the op stays the product in fp32."""
    canary = choose_canary("cpu", runtime="torch_eager")
    canary.sample()
    plain = last_product(canary).copy()
    with torch.autocast("cpu", torch.bfloat16):
        canary.sample()
    assert (last_product(canary) == plain).all()


def test_a_new_machine_has_no_reference(store: CanaryStore) -> None:
    """Before the first session there is nothing to compare with, and reading makes no file."""
    assert store.read() is None
    assert not store.path.exists()


def test_the_quiet_time_of_a_session_is_its_fifth_percentile(store: CanaryStore) -> None:
    """A few lucky samples of a hundred do not set the reference; what is kept is what is returned."""
    learnt = store.learn(session(best=2.0))
    assert learnt.best_ms == pytest.approx(2.0)
    assert store.read() == learnt


def test_a_slower_session_does_not_move_the_reference(store: CanaryStore) -> None:
    """A machine that is slow throughout is measured against its better days; a better day is remembered."""
    store.learn(session(best=2.0))
    assert store.learn(session(best=3.0)).best_ms == 2.0
    assert store.learn(session(best=1.5)).best_ms == 1.5
    again = CanaryStore(folder=store.folder, fingerprint="abc", runtime="torch_eager", threads=2, op="products").read()
    assert again is not None
    assert again.best_ms == 1.5


def test_one_lucky_session_of_many_does_not_set_the_reference(store: CanaryStore) -> None:
    """Of more than ten sessions the tenth best of a hundred counts: a freak among them is no measure of the others."""
    for number in range(30):
        store.learn(session(best=2.0 + number / 100))
    assert store.learn(session(best=0.5)).best_ms == pytest.approx(2.02)


def test_the_reference_ages(store: CanaryStore) -> None:
    """A machine that got slower for good is judged by what it was in its last hundred sessions, not by what it once was."""
    for number in range(20):
        store.learn(session(best=1.0 + number / 1000))
    for number in range(100):
        found = store.learn(session(best=2.0 + number / 1000))
    assert found.best_ms == pytest.approx(2.009)


def test_a_session_that_tells_more_counts_once(store: CanaryStore) -> None:
    """Each call of a session stands in the place of the one before; stored samples that are judged again are no new session."""
    learn = store.session()
    learn(session(best=5.0))
    assert learn(session(best=2.0)).sessions_ms == (2.0,)
    assert store.learn(session(best=2.0)).sessions_ms == (2.0,)


def test_a_reference_of_the_earlier_kind_is_forgotten(store: CanaryStore) -> None:
    """It was the least ever, which only falls: the machine is learnt anew."""
    store.path.parent.mkdir(parents=True, exist_ok=True)
    store.path.write_text(json.dumps({"version": 1, "best_ms": 0.1}))
    assert store.read() is None
    assert store.learn(session(best=2.0)).best_ms == 2.0


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"DCNAS_STATE_DIR": "/a", "XDG_STATE_HOME": "/b"}, "/a/canary"),
        ({"XDG_STATE_HOME": "/b"}, "/b/dcnas/canary"),
        ({"HOME": "/c"}, "/c/.local/state/dcnas/canary"),
    ],
)
def test_all_work_of_a_user_may_share_one_folder(
    environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The XDG place for state, which a variable of one's own overrides."""
    for name in ("DCNAS_STATE_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(folder)


@pytest.mark.parametrize("change", [{"fingerprint": "xyz"}, {"runtime": "onnxruntime"}, {"threads": 1}])
def test_each_device_runtime_and_thread_count_has_its_own(store: CanaryStore, change: dict[str, Any]) -> None:
    """None of them sees another's best time."""
    store.learn(session(best=2.0))
    known = {name: getattr(store, name) for name in ("folder", "fingerprint", "runtime", "threads", "op")}
    assert CanaryStore(**{**known, **change}).read() is None


def test_another_op_starts_anew(store: CanaryStore) -> None:
    """A new library version may be slower for good: its times are not held against the old one's."""
    store.learn(session(best=2.0))
    newer = CanaryStore(
        folder=store.folder, fingerprint="abc", runtime="torch_eager", threads=2, op="products, next version"
    )
    assert newer.read() is None
    assert newer.learn(session(best=3.0)).best_ms == 3.0


def test_few_samples_make_no_reference(store: CanaryStore) -> None:
    """From 99 samples no 5th percentile is taken."""
    with pytest.raises(ValueError, match="at least 100"):
        store.learn([1.0] * 99)
    assert not store.path.exists()
    assert store.learn([1.0] * 100).best_ms == 1.0


def test_a_fingerprint_cannot_leave_the_folder(store: CanaryStore) -> None:
    """The file lies in the folder whatever the fingerprint holds."""
    odd = CanaryStore(folder=store.folder, fingerprint="../a/b", runtime="torch_eager", threads=1, op="products")
    assert odd.path.parent == store.folder


@pytest.mark.parametrize("damage", ["{", "[]", '{"best_ms": 1}', "zero", "newer"])
def test_a_damaged_reference_is_named(store: CanaryStore, damage: str) -> None:
    """Exit code 4 with the file and the remedy, never a made-up best time."""
    store.learn(session(best=2.0))
    whole = json.loads(store.path.read_text())
    text = {"zero": json.dumps({**whole, "sessions_ms": [0]}), "newer": json.dumps({**whole, "version": 3})}.get(
        damage, damage
    )
    store.path.write_text(text)
    with pytest.raises(CorruptArtefactError, match="delete it") as raised:
        store.read()
    assert str(store.path) in str(raised.value)
    assert raised.value.exit_code == ExitCode.CORRUPT_ARTEFACT


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_canary_of_a_gpu_is_timed_by_events() -> None:
    """Its time is the device's, steady from one sample to the next."""
    canary = choose_canary("cuda", runtime="torch_eager")
    times = sorted(canary.sample() for _ in range(50))
    assert 0 < times[25] < 100
    assert times[40] < 1.5 * times[10]
