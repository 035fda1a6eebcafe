"""Training by two processes: the loss curve of one, one set of files, the same bits when resumed, and no survivor of a death."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_harness.errors import ExitCode
from dcnas_harness.files import sha256_of
from dcnas_retrain.__main__ import main
from dcnas_schema.parquet import read_parquet
from dcnas_schema.photo_records import PHOTO_TRAINING_LOG, PhotoTrainingMetadata
from dcnas_schema.records import TRAINING_LOG, TrainingMetadata

pytestmark = [pytest.mark.slow, pytest.mark.long]
Python = Callable[..., subprocess.CompletedProcess[str]]
Trained = tuple[Path, list[list[int]]]
TRAIN = """
from dcnas_retrain import loop, photo_loop
from dcnas_retrain.job import Job, train_job
from dcnas_retrain.photo_job import PhotoJob, train_photo_job
from dcnas_schema.params import load_params

folder, settings, scenes, photos = (Path(word) for word in sys.argv[1:])
params = load_params(settings)
one_epoch = params.model_copy(update={"retrain_photos": params.retrain_photos.model_copy(update={"epochs": 1})})

def recorded(module, name, path):
    original, losses = getattr(module, name), []
    def step(*arguments, **others):
        loss = original(*arguments, **others)
        losses.append(float(loss))
        path.write_text(json.dumps(losses))
        return loss
    setattr(module, name, step)

def digits(model, out):
    def act(seat):
        recorded(loop, "train_step", folder / f"{out}-{seat.size}-{seat.rank}.losses")
        where = {"scenes": scenes, "scratch": folder / f"{out}-{seat.size} scratch"}
        train_job(Job(model=model, seed=0, params=params, seat=seat, **where), folder / f"{out}-{seat.size}")
    return act

def of_photos(model, out, settings=params):
    def act(seat):
        recorded(photo_loop, "photo_step", folder / f"{out}-{seat.size}-{seat.rank}.losses")
        where = {"photos": photos, "genotype": None, "scratch": folder / f"{out}-{seat.size} scratch"}
        train_photo_job(PhotoJob(model=model, seed=0, settings=settings, seat=seat, **where), folder / f"{out}-{seat.size}")
    return act

def stopped(act):
    def stop(seat):
        original, count = photo_loop.photo_step, []
        def step(*arguments, **others):
            count.append(1)
            if len(count) == 20:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **others)
        photo_loop.photo_step = step
        act(seat)
    assert -9 in together(2, stop)
    return together(2, act)

def poisoned(act):
    def poison(seat):
        original, count = photo_loop.photo_loss, []
        def loss(*arguments):
            count.append(1)
            return original(*arguments) * (float("nan") if seat.rank == 1 and len(count) == 5 else 1)
        photo_loop.photo_loss = loss
        act(seat)
    return together(2, poison)

kinds = digits("dcnet_reduced_integrated", "digits"), of_photos("dcnet_s", "photos")
ends = [together(processes, act) for act in kinds for processes in (1, 2)]
ends += [together(processes, of_photos("dc_nas", "space", one_epoch)) for processes in (1, 2)]
ends += [stopped(of_photos("dcnet_s", "resumed")), poisoned(of_photos("dcnet_s", "poisoned"))]
print(json.dumps(ends))
"""
SETTINGS = {
    "retrain.epochs": 10,
    "retrain.batch_size": 8,
    "retrain.memory_format": "contiguous",  # PyTorch's batch norm of one process rounds a hundred times more coarsely in channels_last
    "retrain.recalibrate": 20,
    "retrain.learning_rate": 4e-5,  # Adam's steps are as long for a gradient of rounding alone: at higher rates it grows into the loss
    "retrain_photos.epochs": 7,
    "retrain_photos.memory_format": "contiguous",
    "retrain_photos.recalibrate": 8,
}


@pytest.fixture(scope="module")
def trained(
    forks: Callable[..., Any], write_photo_params: Callable[..., Path], tiny_scenes: Path, tiny_photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:  # fmt: skip
    """The folder with what one process and two made of each kind of training, and how all ended; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("together")
    settings = write_photo_params(folder / "settings.yaml", SETTINGS)
    return folder, forks(TRAIN, folder, settings, tiny_scenes, tiny_photos)


def losses(trained: Trained, name: str) -> list[float]:
    """Return the losses of a process."""
    found: list[float] = json.loads((trained[0] / f"{name}.losses").read_text())
    return found


@pytest.mark.parametrize("kind", ["digits", "photos"])
def test_two_processes_have_the_loss_curve_of_one(trained: Trained, kind: str) -> None:
    """Over twenty steps every loss is that of one process within 1e-5, and the same in both."""
    one, first, second = (losses(trained, f"{kind}-{process}") for process in ("1-0", "2-0", "2-1"))
    assert len(one) >= 20
    assert first == second
    assert first == pytest.approx(one, abs=1e-5, rel=0)


def test_a_net_of_the_space_starts_as_with_one_process(trained: Trained) -> None:
    """
    With dropout and drop-connect the first loss is that of one process.

    So small a net of the space, whose last maps are a pixel large, multiplies a difference of rounding at every step: one process whose
    weights differ in the last bit has another curve, too.
    """
    one, first, second = (losses(trained, f"space-{process}") for process in ("1-0", "2-0", "2-1"))
    assert first == second
    assert first[0] == pytest.approx(one[0], abs=3e-5, rel=0)


def test_the_leader_alone_writes_the_log_of_one(trained: Trained) -> None:
    """Validation and rates of every epoch are those of one process; the log says how many worked, and one process's does not."""
    folder, ends = trained
    assert ends[:6] == [[0], [0, 0]] * 3
    for kind, schema, type_ in (
        ("digits", TRAINING_LOG, TrainingMetadata),
        ("photos", PHOTO_TRAINING_LOG, PhotoTrainingMetadata),
    ):
        (one, of_one), (two, of_two) = (read_parquet(folder / f"{kind}-{n}/log.parquet", schema, type_) for n in (1, 2))
        for row, expected in zip(two.to_pylist(), one.to_pylist(), strict=True):
            assert row == pytest.approx(expected, rel=1e-4, nan_ok=True), kind
        assert (of_one.provenance.processes, of_two.provenance.processes) == (1, 2)
        assert "processes" not in of_one.provenance.model_dump()
        assert sorted(path.name for path in (folder / f"{kind}-2").iterdir()) == ["log.parquet", "weights.safetensors"]


def test_a_killed_run_of_two_goes_on_bit_for_bit(trained: Trained) -> None:
    """Both killed in the middle of the last epoch and started again: the weights are the undisturbed run's, byte for byte."""
    folder, ends = trained
    assert ends[6] == [0, 0]
    assert sha256_of(folder / "resumed-2/weights.safetensors") == sha256_of(folder / "photos-2/weights.safetensors")


def test_a_loss_of_one_that_is_not_finite_stops_both(trained: Trained) -> None:
    """Where one process's loss is not a number all stop with the exit code for that, and nothing is written."""
    folder, ends = trained
    assert ends[7] == [ExitCode.NUMERICAL_FAILURE] * 2
    assert not (folder / "poisoned-2/weights.safetensors").exists()


@pytest.fixture
def command(tmp_path: Path, tiny_scenes: Path, write_params: Callable[..., Path]) -> Callable[..., list[Any]]:
    """A function that gives the arguments of a training of hours, with changes."""

    def make(**changes: Any) -> list[Any]:
        params = write_params(tmp_path / "params.yaml", {"retrain.epochs": 100_000, **changes})
        return [
            "-m", "dcnas_retrain", "--params", params, "--model", "dcnet_reduced_integrated", "--seed", 0,
            "--scenes", tiny_scenes, "--out", tmp_path / "out", "--scratch", tmp_path / "scratch",
        ]  # fmt: skip

    return make


def test_a_batch_that_cannot_be_shared_is_refused(
    in_process: Python, command: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work, the error names batch size, processes and what would do."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("dcnas_harness.seat.die_with_parent", lambda _: None)
    done = in_process(main, *command(**{"retrain.batch_size": 5})[2:])
    assert done.returncode == ExitCode.BAD_INPUT
    assert "retrain.batch_size is 5, which 2 processes cannot share" in done.stderr
    assert "such as 4 or 6" in done.stderr


@pytest.mark.parametrize(("victim", "sent"), [(1, signal.SIGKILL), (0, signal.SIGTERM)])
def test_no_process_survives_another(
    start: Callable[..., subprocess.Popen[str]], command: Callable[..., list[Any]], tmp_path: Path,
    victim: int, sent: signal.Signals,
) -> None:  # fmt: skip
    """With one killed or asked to end, the other ends in seconds, and what is said is said by the leader without a traceback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    both = [start(*command(), RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.rglob("epoch-*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        both[victim].send_signal(sent)
        ends = [process.communicate(timeout=30) for process in both]
    finally:
        for process in both:
            process.kill()
    assert both[0].returncode == (ExitCode.TERMINATED if victim == 0 else ExitCode.UNFIT_ENVIRONMENT)
    assert both[1].returncode == (ExitCode.UNFIT_ENVIRONMENT if victim == 0 else -sent)
    assert "Traceback" not in ends[0][1] + ends[1][1]
    assert ("terminated" if victim == 0 else "Another process of this training has ended") in ends[0][1]
    assert not list((tmp_path / "out").iterdir())


def test_torchrun_starts_it_and_an_error_is_told_once(
    python: Python, command: Callable[..., list[Any]], tmp_path: Path
) -> None:
    """Two processes of torchrun train; the error that both find, a loss that is not finite, is told once, and no weights are written."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    failed = python(*torchrun, *command(**{"retrain.learning_rate": 1e30}), GLOO_SOCKET_IFNAME="lo")
    assert failed.returncode != 0
    assert failed.stderr.count("is not finite at epoch") == 1
    assert not list((tmp_path / "out").iterdir())
