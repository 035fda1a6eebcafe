"""A killed run goes on bit for bit, and each piece of the saved state is needed for that."""

import copy
import hashlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dcnas_data.loader import ResidentScenes
from dcnas_data.scenes import read_scenes
from dcnas_harness.errors import CorruptArtefactError
from dcnas_harness.files import sha256_of
from dcnas_nets.models import build_model
from dcnas_retrain import loop
from dcnas_retrain.loop import Run, Scores, State
from dcnas_schema.params import Params
from dcnas_schema.seeds import derive_seed
from dcnas_training.checkpoints import CheckpointFolder
from dcnas_training.execution import Execution

Python = Callable[..., subprocess.CompletedProcess[str]]
Train = Callable[..., Path]
EPOCHS = {"retrain.epochs": 5, "retrain.plateau.patience": 0}

KILLS = """
import hashlib, json, os, random, runpy, signal, sys, time
from pathlib import Path
import dcnas_retrain.job  # once; each run below is a fork that runs the command

out, scratch, command = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]

def run(name):
    child = os.fork()
    if child:
        return child
    sys.argv = ["dcnas_retrain", *command, "--out", str(out / name), "--scratch", str(scratch / name)]
    os.dup2(2, 1)
    try:
        runpy.run_module("dcnas_retrain", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        os._exit(end.code or 0)
    os._exit(99)

began = time.monotonic()
assert os.waitpid(run("undisturbed"), 0)[1] == 0
duration = time.monotonic() - began
chance = random.Random(0)
result = []
while sum(len(ends) - 1 for ends in result) < 5:
    chain, ends = len(result), []
    assert chain < 12, result
    while not ends or ends[-1] != 0:
        assert len(ends) < 40, ends
        child = run(f"killed {chain}")
        if len(ends) < 6:  # after six kills it may end, however slow a busy machine makes it
            time.sleep(chance.uniform(0, duration))
            os.kill(child, chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    result.append(ends)
print(json.dumps(result))
"""


def parts(folder: Path) -> list[str]:
    """Return the temporary files anywhere below a folder."""
    return [path.name for path in folder.rglob("*.tmp")]


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_the_undisturbed(
    tmp_path: Path, python: Python, arguments: Callable[..., list[Any]]
) -> None:
    """Killed by SIGKILL, SIGTERM or Ctrl-C at random moments and run again until done: weights and log are the same bytes."""
    _, _, *command = arguments(EPOCHS)
    without_folders = command[: command.index("--out")]
    done = python("-c", KILLS, tmp_path / "outs", tmp_path / "scratches", *without_folders)
    assert done.returncode == 0, done.stderr
    chains = json.loads(done.stdout)
    kills = [end for chain in chains for end in chain if end != 0]
    assert set(kills) <= {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 130, 143}
    for chain in range(len(chains)):
        for file in ("weights.safetensors", "log.parquet"):
            killed, undisturbed = (tmp_path / "outs" / name / file for name in (f"killed {chain}", "undisturbed"))
            assert sha256_of(killed) == sha256_of(undisturbed), killed
    assert parts(tmp_path / "outs") == parts(tmp_path / "scratches") == []


def test_sigterm_ends_a_run_at_once_and_keeps_its_checkpoints(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]], arguments: Callable[..., list[Any]]
) -> None:
    """SIGTERM in the middle of training exits 143 within ten seconds, without a traceback; what was complete is whole."""
    process = start(*arguments({"retrain.epochs": 100_000}))
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("epoch-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 143
    assert "Traceback" not in err
    (folder,) = (tmp_path / "scratch/retrain/dcnet_reduced_integrated-0").iterdir()
    assert CheckpointFolder(folder).newest() is not None
    assert parts(tmp_path) == []
    assert not list((tmp_path / "out").iterdir())


def test_ctrl_c_while_starting_shows_no_traceback(
    start: Callable[..., subprocess.Popen[str]], arguments: Callable[..., list[Any]]
) -> None:
    """Ctrl-C in the seconds in which torch is imported ends as quietly as later: exit 130, one message."""
    process = start(*arguments())
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 30
    while "libtorch" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def new_run(tiny_scenes: Path, tiny_params: Callable[..., Params]) -> Callable[..., Run]:
    """A function that gives a training run at its start; runs with one folder share their checkpoints."""
    splits = {
        split: ResidentScenes(read_scenes(tiny_scenes / f"{split}.parquet"), torch.device("cpu"))
        for split in ("train", "validation")
    }

    def make(folder: Path, epochs: int) -> Run:
        # no recalibration: it replaces batch norm's statistics, and a run of one epoch would end with it
        params = tiny_params({"retrain.plateau.patience": 0, "retrain.learning_rate": 0.01, "retrain.recalibrate": 0})
        return Run(
            model=build_model(params.models["dcnet_reduced_integrated"], seed=derive_seed(0, "weights")),
            train=splits["train"],
            validation=splits["validation"],
            execution=Execution(device=torch.device("cpu"), precision="fp32", memory_format="channels_last"),
            epochs=epochs,
            noise=params.noise,
            params=params.retrain,
            seed=0,
            checkpoints=CheckpointFolder(folder),
            label="test",
        )

    return make


def trained(run: Run) -> str:
    """
    Train a run and return its hash.

    The validation loss is the number of the epoch, so that every epoch after the first lowers the learning rate of the next.
    """
    original = loop.validate

    def rising(run: Run, batches: list[Any]) -> Scores:
        original(run, batches)
        newest = run.checkpoints.newest()
        return Scores(loss=float(newest[0] + 1 if newest else 1), psnr_db=None, top1_pct=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "validate", rising)
        return digest(run, loop.train(run))


def digest(run: Run, rows: list[dict[str, Any]]) -> str:
    """Return a hash over all weights, batch-norm statistics and log rows of a finished run."""
    found = hashlib.sha256(json.dumps(rows, sort_keys=True).encode())
    for name, tensor in sorted(run.model.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def goes_on(new_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """A function that takes up a run of one epoch in a run made anew, trains two more, and returns the hash."""
    first = tmp_path_factory.mktemp("first") / "checkpoints"
    trained(new_run(first, epochs=1))

    def run(folder: Path) -> str:
        shutil.copytree(first, folder)
        return trained(new_run(folder, epochs=3))

    return run


@pytest.fixture(scope="module")
def resumed(goes_on: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of a resumed run."""
    return goes_on(tmp_path_factory.mktemp("resumed") / "checkpoints")


def left_out(saved: dict[str, Any], fresh: dict[str, Any], piece: str) -> dict[str, Any]:
    """Return a saved state in which one piece is that of a fresh start."""
    if piece == "batch norm":
        model = {key: fresh["model"][key] if "running" in key else value for key, value in saved["model"].items()}
        return {**saved, "model": model}
    return {**saved, piece: fresh[piece]}


PIECES = ["model", "batch norm", "optimizer", "schedule", "shuffle", "noise", "rows"]


def test_a_resumed_run_is_the_undisturbed_one(new_run: Callable[..., Run], resumed: str, tmp_path: Path) -> None:
    """One epoch and two more, in a run made anew, give the hash of three epochs at a stretch."""
    assert resumed == trained(new_run(tmp_path, epochs=3))


@pytest.mark.parametrize("piece", PIECES)
def test_without_any_piece_of_the_state_the_result_differs(
    goes_on: Callable[[Path], str], resumed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: str
) -> None:
    """Leaving one saved piece out when resuming changes the hash: none of them is there in vain, and the test above sees each."""
    original = State.restore

    def restore(self: State, saved: dict[str, Any]) -> None:
        original(self, left_out(saved, copy.deepcopy(self.to_save()), piece))

    monkeypatch.setattr(State, "restore", restore)
    assert goes_on(tmp_path / "without") != resumed


def test_every_saved_piece_is_one_that_the_tests_leave_out(new_run: Callable[..., Run], tmp_path: Path) -> None:
    """A piece added to the state must be added to the list above."""
    assert set(loop.start_state(new_run(tmp_path, epochs=1)).to_save()) == set(PIECES) - {"batch norm"}


@pytest.mark.parametrize("piece", [piece for piece in PIECES if piece != "batch norm"])
def test_a_missing_piece_is_refused_by_its_name(new_run: Callable[..., Run], tmp_path: Path, piece: str) -> None:
    """A checkpoint without one of its pieces is never taken up with a silent default."""
    run = new_run(tmp_path, epochs=1)
    state = loop.start_state(run).to_save()
    run.checkpoints.save(1, {key: value for key, value in state.items() if key != piece})
    with pytest.raises(CorruptArtefactError, match=piece):
        loop.train(new_run(tmp_path, epochs=2))


def test_a_damaged_checkpoint_costs_an_epoch_and_no_bit(train: Train, tmp_path: Path) -> None:
    """With the newest checkpoint cut off the run goes on from the one before, to the same weights."""
    expected = sha256_of(train({"retrain.epochs": 3}) / "weights.safetensors")
    newest = max((tmp_path / "scratch").rglob("epoch-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-50])
    assert sha256_of(train({"retrain.epochs": 3}, out="again") / "weights.safetensors") == expected


def test_a_finished_run_is_not_trained_again(
    train: Train, default_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run again on the same inputs, it writes the same bytes from its last checkpoint, without a step."""
    shutil.copytree(default_run / "scratch", tmp_path / "scratch")
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail("a step was taken"))
    again = train()
    for file in ("weights.safetensors", "log.parquet"):
        assert sha256_of(default_run / "out" / file) == sha256_of(again / file)


@pytest.mark.parametrize(
    "changes",
    [
        {"retrain.learning_rate": 0.002},
        {"noise.sigmas": [0.0, 0.3, 0.5]},
        {"retrain.epochs": 3},
        {"retrain.batch_size": 8},
    ],
)
def test_checkpoints_of_other_parameters_are_not_taken_up(
    train: Train, default_run: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """With one parameter changed the run starts anew, as in an empty scratch folder; the checkpoints of the last run stay beside."""
    shutil.copytree(default_run / "scratch", tmp_path / "scratch")
    changed = train(changes, out="changed")
    fresh = train(changes, out="fresh", scratch="empty")
    assert sha256_of(changed / "weights.safetensors") == sha256_of(fresh / "weights.safetensors")
    assert len(list((tmp_path / "scratch/retrain/dcnet_reduced_integrated-0").iterdir())) == 2
