"""Bad parameters and damaged files: one clear message with what, where and remedy, and the exit code of its class."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

CASES = {
    "unknown key": ("  learning_rate:", "  lerning_rate:", ["retrain.lerning_rate", "did you mean 'learning_rate'"]),
    "wrong type": ("  batch_size: 8 ", "  batch_size: eight ", ["retrain.batch_size", "eight"]),
    "out of range": ("  threads: 2 ", "  threads: 0 ", ["device.threads = 0"]),
    "unknown model": ("    - unet_s", "    - unet_x", ["unet_x"]),
    "not YAML": ("preset: smoke", "preset: [smoke", ["line"]),
    "repeated key": ("preset: smoke", "preset: smoke\npreset: smoke", ["preset"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_parameters_are_named_by_every_door(fresh: Path, command: Command, case: str) -> None:
    """A wrong params.yaml ends each command with exit 2, the key, the value, and a remedy; nothing is written."""
    old, new, expected = CASES[case]
    parameters = fresh / "params.yaml"
    assert old in parameters.read_text()
    parameters.write_text(parameters.read_text().replace(old, new, 1))
    for door in (["dcnas", "params"], ["python", "-m", "dcnas_generate_data", "--out", "data/generate_data/digits"]):
        done = command(door, fresh)
        assert done.returncode == 2, done.stderr
        assert "params.yaml" in done.stderr
        assert "remedy" in done.stderr
        assert "Traceback" not in done.stderr
        for text in expected:
            assert text in done.stderr
    assert not (fresh / "data/generate_data").exists()


def test_an_unknown_preset_is_refused_with_the_known_ones(fresh: Path, command: Command) -> None:
    """A misspelt preset exits 2, names the nearest, and leaves params.yaml as it was."""
    before = (fresh / "params.yaml").read_bytes()
    done = command(["dcnas", "preset", "papr"], fresh)
    assert done.returncode == 2
    assert "did you mean 'paper'" in done.stderr
    assert (fresh / "params.yaml").read_bytes() == before


def test_a_preset_does_not_overwrite_own_changes(fresh: Path, command: Command) -> None:
    """A params.yaml that no preset holds is not replaced without --force."""
    parameters = fresh / "params.yaml"
    parameters.write_text(parameters.read_text() + "# mine\n")
    assert command(["dcnas", "preset", "demo"], fresh).returncode == 2
    assert parameters.read_text().endswith("# mine\n")
    assert command(["dcnas", "preset", "demo", "--force"], fresh).returncode == 0
    assert parameters.read_bytes() == (fresh / "presets/demo.yaml").read_bytes()


def test_a_missing_mnist_file_is_named(fresh: Path, command: Command) -> None:
    """Source mnist without its files exits 2 and says which file, where, and what to do."""
    parameters = fresh / "params.yaml"
    text = parameters.read_text().replace("source: optdigits", "source: mnist").replace("root: null", "root: nowhere")
    parameters.write_text(text)
    done = command(["python", "-m", "dcnas_generate_data", "--out", "data/generate_data/digits"], fresh)
    assert done.returncode == 2, done.stderr
    for text in ("train-images-idx3-ubyte.gz", "nowhere", "remedy"):
        assert text in done.stderr


def test_a_damaged_mnist_file_is_named(fresh: Path, command: Command) -> None:
    """An MNIST file with another MD5 exits 4 and is named."""
    parameters = fresh / "params.yaml"
    text = parameters.read_text().replace("source: optdigits", "source: mnist").replace("root: null", "root: here")
    parameters.write_text(text)
    (fresh / "here").mkdir()
    (fresh / "here/train-images-idx3-ubyte.gz").write_bytes(b"not MNIST")
    done = command(["python", "-m", "dcnas_generate_data", "--out", "data/generate_data/digits"], fresh)
    assert done.returncode == 4, done.stderr
    assert "here/train-images-idx3-ubyte.gz is damaged" in done.stderr


def test_a_truncated_table_of_scenes_is_named(finished: Path, command: Command) -> None:
    """A Parquet file cut short exits 4, naming the file and the way to get it back; the old weights stay."""
    path = finished / "data/generate_data/digits/train.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    out = ["--scenes", "data/generate_data/digits", "--out", "data/retrain/unet_s/0"]
    before = (finished / "data/retrain/unet_s/0/weights.safetensors").read_bytes()
    done = command(["python", "-m", "dcnas_retrain", "--model", "unet_s", "--seed", "0", *out], finished)
    assert done.returncode == 4, done.stderr
    assert "train.parquet is damaged" in done.stderr
    assert "remedy" in done.stderr
    assert (finished / "data/retrain/unet_s/0/weights.safetensors").read_bytes() == before


def test_a_missing_device_is_named_before_data_are_read(finished: Path, command: Command) -> None:
    """device.kind cuda on a machine without one exits 3 with the remedy."""
    parameters = finished / "params.yaml"
    parameters.write_text(parameters.read_text().replace("kind: cpu ", "kind: cuda "))
    out = ["--scenes", "nowhere", "--out", "data/retrain/unet_s/0"]
    stage = ["python", "-m", "dcnas_retrain", "--model", "unet_s", "--seed", "0", *out]
    done = command(stage, finished, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 3, done.stderr
    assert "device.kind is cuda" in done.stderr


def test_dvc_repro_shows_the_stage_message(fresh: Path, command: Command) -> None:
    """Under dvc the same message appears, and dvc fails."""
    parameters = fresh / "params.yaml"
    parameters.write_text(parameters.read_text().replace("seed: 0\n", "seed: -1\n", 1))
    done = command(["dvc", "repro"], fresh)
    assert done.returncode != 0
    assert "generate_data.digits.seed = -1" in done.stderr
