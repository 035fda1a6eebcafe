"""Checkpoints: exact, never half-written, never half-read, never a way to run code."""

import ast
import json
import os
import pickle
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from dcnas_harness.errors import CorruptArtefactError, ExitCode, UnfitEnvironmentError
from dcnas_harness.files import sha256_of
from dcnas_training.checkpoints import CheckpointFolder, load_tensors, save_tensors
from dcnas_training.optimizers import EagerAdam

Python = Callable[..., subprocess.CompletedProcess[str]]

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from dcnas_training.checkpoints import CheckpointFolder

torch.set_num_threads(1)  # no thread pool that a fork would lose
checkpoints = CheckpointFolder(Path(sys.argv[1]))

def state(epoch):
    return {"weights": torch.full((200_000,), float(epoch)), "rows": [epoch] * 1000}

checkpoints.save(0, state(0))
chance = random.Random(0)
last = 0
for attempt in range(25):
    child = os.fork()
    if child == 0:
        while True:
            last += 1
            checkpoints.save(last, state(last))
    time.sleep(chance.uniform(0.002, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    epoch, found = checkpoints.newest()
    whole = set(found["weights"].tolist()) == {float(epoch)} and found["rows"] == [epoch] * 1000
    names = [path.name for path in checkpoints.folder.iterdir()]
    parts = any(name.endswith(".tmp") for name in names) or f"epoch-{epoch + 1:04d}.safetensors" in names
    print(whole, epoch >= last, parts, flush=True)
    last = epoch
"""


def plain(value: Any) -> Any:
    """Return nested values with tensors as (dtype, shape, bytes) and tuples as lists, so that `==` compares every bit."""
    if isinstance(value, Tensor):
        content = value.detach().contiguous().flatten().view(torch.uint8) if value.numel() else torch.empty(0)
        return str(value.dtype), tuple(value.shape), content.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return type(value), repr(value)


def training_state(steps: int = 3) -> dict[str, Any]:
    """Return the state of a short training: net with batch norm, Adam, plateau schedule, generators, rows."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    optimizer = EagerAdam(model.parameters(), lr=1e-3, fused=True)
    schedule = ReduceLROnPlateau(optimizer, patience=0)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        model(torch.rand(4, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
        if step:
            schedule.step(1 / 3)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "shuffle": generator.get_state(),
        "rows": [{"epoch": 1, "loss": 0.1 + 0.2, "psnr": None, "worst": float("inf"), "flag": True, "tiny": 5e-324}],
    }


@pytest.fixture
def checkpoints(tmp_path: Path) -> CheckpointFolder:
    """A folder for checkpoints that does not exist yet."""
    return CheckpointFolder(tmp_path / "run" / "digest")


def names(checkpoints: CheckpointFolder) -> list[str]:
    """Return the names of all files in the folder."""
    return sorted(path.name for path in checkpoints.folder.iterdir())


def newest_epoch(checkpoints: CheckpointFolder) -> int:
    """Return the epoch of the newest whole checkpoint."""
    found = checkpoints.newest()
    assert found is not None
    return found[0]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_training_state_comes_back_bit_for_bit(checkpoints: CheckpointFolder, steps: int) -> None:
    """Tensors, integer keys, infinities, nulls and floats to the last bit: before the first step, and after some."""
    state = training_state(steps)
    checkpoints.save(7, state)
    found = checkpoints.newest()
    assert found is not None
    assert found[0] == 7
    assert plain(found[1]) == plain(state)


def test_a_restored_state_is_taken_up_by_its_owners(checkpoints: CheckpointFolder) -> None:
    """Optimiser and schedule load what comes back, and then hold what was saved."""
    state = training_state()
    checkpoints.save(1, state)
    found = checkpoints.newest()
    assert found is not None
    weights = [nn.Parameter(torch.zeros_like(w)) for n, w in state["model"].items() if n.endswith(("weight", "bias"))]
    optimizer = EagerAdam(weights, lr=1.0, fused=True)
    schedule = ReduceLROnPlateau(optimizer)
    optimizer.load_state_dict(found[1]["optimizer"])
    schedule.load_state_dict(found[1]["schedule"])
    assert plain(optimizer.state_dict()) == plain(state["optimizer"])
    assert plain(schedule.state_dict()) == plain(state["schedule"])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.empty(0, 3),
        torch.arange(5),
        torch.tensor([True, False]),
        torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.rand(4, 6)[:, ::2],
        torch.rand(3, requires_grad=True),
        torch.tensor([1.0, -0.0, 1e-45]),
        torch.rand(3).bfloat16(),
        torch.rand(3, dtype=torch.float64),
    ],
    ids=["scalar", "empty", "integer", "bool", "channels_last", "strided", "with gradient", "signs", "bf16", "double"],
)
def test_any_tensor_comes_back(tmp_path: Path, tensor: Tensor) -> None:
    """Whatever its type, shape, layout or sign of zero."""
    save_tensors(tmp_path / "t.safetensors", {"it": tensor})
    assert plain(load_tensors(tmp_path / "t.safetensors")["it"]) == plain(tensor)


def test_names_with_slashes_do_not_overwrite_each_other(checkpoints: CheckpointFolder) -> None:
    """A key `a/b` and a key `b` inside `a` are two tensors."""
    state = {"a/b": torch.zeros(2), "a": {"b": torch.ones(2)}}
    checkpoints.save(1, state)
    found = checkpoints.newest()
    assert found is not None
    assert plain(found[1]) == plain(state)


def test_the_same_state_is_the_same_bytes(tmp_path: Path) -> None:
    """Two folders given one state hold equal files."""
    folders = [CheckpointFolder(tmp_path / name) for name in ("a", "b")]
    state = training_state()
    paths = [folder.save(1, state) for folder in folders]
    assert sha256_of(paths[0]) == sha256_of(paths[1])
    assert sha256_of(paths[0].with_suffix(".safetensors")) == sha256_of(paths[1].with_suffix(".safetensors"))


@pytest.mark.parametrize("first", [1, 9, 99, 9998])
def test_the_newest_two_are_kept(checkpoints: CheckpointFolder, first: int) -> None:
    """Of four saves the last two stay, whatever the number of digits of an epoch."""
    for epoch in range(first, first + 4):
        checkpoints.save(epoch, {"weights": torch.tensor(float(epoch))})
    assert newest_epoch(checkpoints) == first + 3
    assert len(names(checkpoints)) == 4
    newest = checkpoints.folder / f"epoch-{first + 3:04d}.json"
    newest.unlink()
    assert newest_epoch(checkpoints) == first + 2


def test_no_checkpoint_is_none(checkpoints: CheckpointFolder) -> None:
    """A folder that does not exist, or holds only tensors whose JSON was never written, has no checkpoint."""
    assert checkpoints.newest() is None
    checkpoints.save(1, {"weights": torch.zeros(2)}).unlink()
    assert checkpoints.newest() is None


def test_truncated_tensors_yield_to_the_older_checkpoint(checkpoints: CheckpointFolder) -> None:
    """Cut off at any of twenty lengths, or gone, the newest gives way to the one before."""
    state = training_state()
    checkpoints.save(1, state)
    tensors = checkpoints.save(2, state).with_suffix(".safetensors")
    content = tensors.read_bytes()
    for length in np.linspace(0, len(content) - 1, 20).astype(int):
        tensors.write_bytes(content[:length])
        assert newest_epoch(checkpoints) == 1
    tensors.unlink()
    assert newest_epoch(checkpoints) == 1
    tensors.write_bytes(content)
    assert newest_epoch(checkpoints) == 2


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_flipped_bit_yields_to_the_older_checkpoint(checkpoints: CheckpointFolder, suffix: str) -> None:
    """Each of fifty single-bit changes, in the tensors or in the JSON beside them, is noticed: a rate of 0.003 is not 0.001."""
    state = training_state()
    checkpoints.save(1, state)
    path = checkpoints.save(2, state).with_suffix(suffix)
    content = path.read_bytes()
    taken = []
    for bit in random.Random(0).sample(range(8 * len(content)), 50):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        found = checkpoints.newest()
        assert found is not None
        if found[0] == 2 and plain(found[1]) != plain(state):
            taken.append(f"byte {bit // 8}: {content[bit // 8 - 10 : bit // 8 + 10]!r}")
    assert taken == []


def test_a_truncated_json_yields_to_the_older_checkpoint(checkpoints: CheckpointFolder) -> None:
    """A JSON cut off anywhere is no checkpoint."""
    state = training_state()
    checkpoints.save(1, state)
    path = checkpoints.save(2, state)
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 2, 20).astype(int):
        path.write_bytes(content[:length])
        assert newest_epoch(checkpoints) == 1


def test_what_is_passed_over_is_said(checkpoints: CheckpointFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Going on from the older checkpoint tells which file is damaged: a disk that flips bits must not go unnoticed."""
    for epoch in (1, 2):
        checkpoints.save(epoch, training_state())
    (checkpoints.folder / "epoch-0002.safetensors").write_bytes(b"")
    assert newest_epoch(checkpoints) == 1
    said = capsys.readouterr().out
    assert "epoch-0002.safetensors is missing or damaged" in said
    assert "Going on from epoch-0001.json" in said


def test_tensors_that_a_kill_left_without_their_json_are_removed(checkpoints: CheckpointFolder) -> None:
    """The next save clears away what a kill between the two removals left behind."""
    for epoch in (1, 2, 3):
        checkpoints.save(epoch, training_state())
    (checkpoints.folder / "epoch-0001.safetensors").write_bytes(b"left over")
    checkpoints.save(4, training_state())
    assert names(checkpoints) == [f"epoch-000{i}.{kind}" for i in (3, 4) for kind in ("json", "safetensors")]


def test_when_all_are_damaged_the_error_names_each(checkpoints: CheckpointFolder) -> None:
    """Two damaged checkpoints are a corrupt artefact (exit 4) that names both files and the folder to delete."""
    for epoch in (1, 2):
        path = checkpoints.save(epoch, training_state()).with_suffix(".safetensors")
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(CorruptArtefactError, match=r"(?s)epoch-0002.*epoch-0001.*delete .*digest") as caught:
        checkpoints.newest()
    assert caught.value.exit_code == ExitCode.CORRUPT_ARTEFACT == 4


def test_a_checkpoint_of_another_version_is_refused(checkpoints: CheckpointFolder) -> None:
    """A newer format is named, not guessed at."""
    path = checkpoints.save(1, {"weights": torch.zeros(2)})
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(CorruptArtefactError, match="another version"):
        checkpoints.newest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_never_written(
    checkpoints: CheckpointFolder, tmp_path: Path, value: float
) -> None:
    """NaN or infinity in any tensor is refused by its name, and no file of that checkpoint appears."""
    checkpoints.save(1, {"model": {"conv.weight": torch.zeros(3)}})
    with pytest.raises(ValueError, match=r"conv\.weight holds values that are not finite"):
        checkpoints.save(2, {"model": {"conv.weight": torch.tensor([0.0, value, 1.0])}})
    assert names(checkpoints) == ["epoch-0001.json", "epoch-0001.safetensors"]
    with pytest.raises(ValueError, match="not finite"):
        save_tensors(tmp_path / "weights.safetensors", {"w": torch.tensor(value)})
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_never_read(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    """safetensors lets NaN pass; we refuse it by file and tensor name."""
    save_file({"w": torch.tensor([1.0, value], dtype=dtype)}, tmp_path / "weights.safetensors")
    with pytest.raises(CorruptArtefactError, match=r"weights\.safetensors: w holds values that are not finite"):
        load_tensors(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff" * 8,
        (1 << 62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{x",
        (57).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,160]}} ' + bytes(16),
        (57).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,16]}}  ' + bytes(16),
    ],
    ids=["empty", "short", "ones", "huge header", "no JSON", "offsets beyond the end", "wrong shape"],
)
def test_a_file_that_is_no_safetensors_is_corrupt(tmp_path: Path, content: bytes) -> None:
    """Any other bytes, and headers that lie, are refused by name."""
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(CorruptArtefactError, match=r"weights\.safetensors is not a whole safetensors file"):
        load_tensors(tmp_path / "weights.safetensors")


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    """No file is a corrupt artefact with the command that makes it."""
    with pytest.raises(CorruptArtefactError, match=r"(?s)weights\.safetensors does not exist.*dvc repro"):
        load_tensors(tmp_path / "weights.safetensors")


def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path: Path, python: Python) -> None:
    """After each of 25 SIGKILLs at random moments of a save loop the newest checkpoint is whole and none went back in time."""
    done = python("-c", KILLS, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    states = [line.split() for line in done.stdout.splitlines()]
    assert [(whole, forward) for whole, forward, _ in states] == [("True", "True")] * 25
    assert any(part == "True" for _, _, part in states), "no kill fell into a save"


def test_a_full_disk_keeps_the_old_checkpoint(small_disk: Path) -> None:
    """A state that does not fit is exit 3; the checkpoint before it stays whole and nothing is left beside it."""
    checkpoints = CheckpointFolder(small_disk)
    checkpoints.save(1, {"weights": torch.zeros(10)})
    with pytest.raises(UnfitEnvironmentError, match="No space left"):
        checkpoints.save(2, {"weights": torch.zeros(1 << 20)})
    assert newest_epoch(checkpoints) == 1
    assert names(checkpoints) == ["epoch-0001.json", "epoch-0001.safetensors"]


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call that a careless reader would make."""
        return os.system, (f"touch '{self.canary}'",)


@pytest.mark.parametrize("kind", ["pickle", "torch zip"])
def test_a_malicious_file_is_refused_and_never_run(
    checkpoints: CheckpointFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A pickle in the place of weights or of a checkpoint, its hash made to fit, is refused; its payload does not run."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    path = checkpoints.save(1, {"weights": torch.zeros(2)})
    tensors = path.with_suffix(".safetensors")
    if kind == "pickle":
        tensors.write_bytes(pickle.dumps(Payload(canary)))
    else:
        torch.save({"weights": Payload(canary)}, tensors)
    path.write_text(json.dumps({**json.loads(path.read_text()), "tensors_sha256": sha256_of(tensors)}))
    with pytest.raises(CorruptArtefactError):
        load_tensors(tensors)
    with pytest.raises(CorruptArtefactError):
        checkpoints.newest()
    assert not canary.exists()


def test_no_code_reads_or_writes_pickles(project: Path) -> None:
    """Nothing under packages/ and stages/ imports a module that unpickles or calls a loader that does."""
    modules = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    calls = {"torch.load", "torch.save", "np.load", "numpy.load", "pd.read_pickle", "torch.jit.load", "torch.package"}
    found = []
    files = [path for folder in ("packages", "stages") for path in (project / folder).rglob("*.py")]
    assert len(files) > 40
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            named = {name.split(".")[0] for name in imported} & modules
            used = {ast.unparse(node)} & calls if isinstance(node, ast.Attribute) else set()
            found += [f"{path.relative_to(project)}:{node.lineno}: {name}" for name in named | used]
    assert found == []
