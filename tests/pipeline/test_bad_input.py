"""Bad parameters and damaged files: one clear message with what, where and remedy, and the exit code of its class."""

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from dcnas_app.main import app
from dcnas_generate_data.__main__ import main as generate_data
from dcnas_retrain.__main__ import main as retrain

Command = Callable[..., subprocess.CompletedProcess[str]]
Changed = Callable[[Path], AbstractContextManager[Path]]

CASES = {
    "unknown key": ("  learning_rate:", "  lerning_rate:", ["retrain.lerning_rate", "did you mean 'learning_rate'"]),
    "wrong type": ("  batch_size: 8 ", "  batch_size: eight ", ["retrain.batch_size", "eight"]),
    "out of range": ("  threads: 1 ", "  threads: 0 ", ["device.threads = 0"]),
    "unknown model": ("    - unet_s", "    - unet_x", ["unet_x"]),
    "not YAML": ("preset: smoke", "preset: [smoke", ["line"]),
    "repeated key": ("preset: smoke", "preset: smoke\npreset: smoke", ["preset"]),
}
STAGE = ["python", "-m", "dcnas_generate_data", "--out", "data/generate_data/digits"]


def replace(parameters: Path, old: str, new: str) -> None:
    """Replace the first `old`, which must be there, in a file."""
    text = parameters.read_text()
    assert old in text
    parameters.write_text(text.replace(old, new, 1))


def check(done: subprocess.CompletedProcess[str], expected: list[str]) -> None:
    """Assert that a command refused params.yaml in one message with the expected words and a remedy."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for text in ("params.yaml", "remedy", *expected):
        assert text in done.stderr


@pytest.mark.parametrize("case", CASES)
def test_bad_parameters_are_named(fresh_once: Path, changed: Changed, in_process: Command, case: str) -> None:
    """A wrong params.yaml ends a command with exit 2, the key, the value, and a remedy; nothing is written."""
    old, new, expected = CASES[case]
    with changed(fresh_once / "params.yaml") as parameters:
        replace(parameters, old, new)
        check(in_process(app, "params", cwd=fresh_once), expected)
        check(in_process(generate_data, *STAGE[3:], cwd=fresh_once), expected)
    assert not (fresh_once / "data/generate_data").exists()


@pytest.mark.parametrize("door", [["dcnas", "params"], ["dcnas", "flow", "run"], STAGE], ids=" ".join)
def test_every_door_refuses_bad_parameters(
    fresh_once: Path, changed: Changed, command: Command, door: list[str]
) -> None:
    """What `make repro` runs first, the flow, and a stage as a process of its own end alike, before anything is written."""
    old, new, expected = CASES["unknown key"]
    with changed(fresh_once / "params.yaml") as parameters:
        replace(parameters, old, new)
        check(command(door, fresh_once), expected)
    assert not (fresh_once / "data/generate_data").exists()


def test_dvc_repro_shows_the_stage_message(fresh_once: Path, changed: Changed, command: Command) -> None:
    """Under dvc the same message appears, and dvc fails."""
    with changed(fresh_once / "params.yaml") as parameters:
        replace(parameters, "seed: 0\n", "seed: -1\n")
        done = command(["dvc", "repro"], fresh_once)
    assert done.returncode != 0
    assert "generate_data.digits.seed = -1" in done.stderr


def test_an_unknown_preset_is_refused_with_the_known_ones(fresh_once: Path, in_process: Command) -> None:
    """A misspelt preset exits 2, names the nearest, and leaves params.yaml as it was."""
    before = (fresh_once / "params.yaml").read_bytes()
    done = in_process(app, "preset", "papr", cwd=fresh_once)
    assert done.returncode == 2
    assert "did you mean 'paper'" in done.stderr
    assert (fresh_once / "params.yaml").read_bytes() == before


def test_a_preset_does_not_overwrite_own_changes(fresh_once: Path, changed: Changed, in_process: Command) -> None:
    """A params.yaml that no preset holds is not replaced without --force."""
    with changed(fresh_once / "params.yaml") as parameters:
        parameters.write_text(parameters.read_text() + "# mine\n")
        assert in_process(app, "preset", "demo", cwd=fresh_once).returncode == 2
        assert parameters.read_text().endswith("# mine\n")
        assert in_process(app, "preset", "demo", "--force", cwd=fresh_once).returncode == 0
        assert parameters.read_bytes() == (fresh_once / "presets/demo.yaml").read_bytes()


@pytest.fixture
def mnist(fresh_once: Path, changed: Changed, in_process: Command, tmp_path: Path) -> Command:
    """A function that makes scenes of the MNIST files in a folder."""

    def run(root: str) -> subprocess.CompletedProcess[str]:
        with changed(fresh_once / "params.yaml") as parameters:
            replace(parameters, "source: optdigits", "source: mnist")
            replace(parameters, "root: null", f"root: {root}")
            return in_process(generate_data, "--out", tmp_path / "digits", cwd=fresh_once)

    return run


def test_a_missing_mnist_file_is_named(mnist: Command) -> None:
    """Source mnist without its files exits 2 and says which file, where, and what to do."""
    done = mnist("nowhere")
    assert done.returncode == 2, done.stderr
    for text in ("train-images-idx3-ubyte.gz", "nowhere", "remedy"):
        assert text in done.stderr


def test_a_damaged_mnist_file_is_named(fresh_once: Path, mnist: Command) -> None:
    """An MNIST file with another MD5 exits 4 and is named."""
    (fresh_once / "here").mkdir()
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (fresh_once / f"here/{name}-ubyte.gz").write_bytes(b"not MNIST")
    done = mnist("here")
    assert done.returncode == 4, done.stderr
    assert "here/train-images-idx3-ubyte.gz is damaged" in done.stderr


def test_a_truncated_table_of_scenes_is_named(finished_once: Path, changed: Changed, in_process: Command) -> None:
    """A Parquet file cut short exits 4, naming the file and the way to get it back; the old weights stay."""
    out = ["--scenes", "data/generate_data/digits", "--out", "data/retrain/unet_s/0"]
    before = (finished_once / "data/retrain/unet_s/0/weights.safetensors").read_bytes()
    with changed(finished_once / "data/generate_data/digits/train.parquet") as path:
        path.write_bytes(path.read_bytes()[:-50])
        done = in_process(retrain, "--model", "unet_s", "--seed", 0, *out, cwd=finished_once)
    assert done.returncode == 4, done.stderr
    assert "train.parquet is damaged" in done.stderr
    assert "remedy" in done.stderr
    assert (finished_once / "data/retrain/unet_s/0/weights.safetensors").read_bytes() == before


def test_a_missing_device_is_named_before_data_are_read(
    finished_once: Path, changed: Changed, in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """device.kind cuda on a machine without one exits 3 with the remedy."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = ["--scenes", "nowhere", "--out", "data/retrain/unet_s/0"]
    with changed(finished_once / "params.yaml") as parameters:
        replace(parameters, "kind: cpu ", "kind: cuda ")
        done = in_process(retrain, "--model", "unet_s", "--seed", 0, *out, cwd=finished_once)
    assert done.returncode == 3, done.stderr
    assert "device.kind is cuda" in done.stderr
    assert "remedy" in done.stderr
