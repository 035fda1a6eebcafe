"""Fifty single-bit changes in each kind of binary artefact: every one of them ends with exit code 4, none is read as data."""

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from dcnas_data.photos import read_photos
from dcnas_data.scenes import read_scenes
from dcnas_evaluate.job import Job as EvaluateJob
from dcnas_evaluate.job import evaluate_job
from dcnas_harness.errors import CorruptArtefactError, ExitCode
from dcnas_latency.files import read_profile
from dcnas_retrain.job import Job as TrainJob
from dcnas_retrain.job import train_job
from dcnas_schema.params import Params
from dcnas_training.checkpoints import CheckpointFolder

pytestmark = pytest.mark.long

MODEL = "dcnet_reduced_integrated"
FLIPS = 50


@pytest.fixture(scope="module")
def trained(
    tiny_scenes: Path, tiny_params: Callable[..., Params], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder in which a model was trained for two epochs: `out` and `scratch`."""
    root, before = tmp_path_factory.mktemp("trained"), torch.get_num_threads()
    params = tiny_params({"retrain.epochs": 2})
    torch.set_num_threads(1)
    train_job(TrainJob(model=MODEL, seed=0, params=params, scenes=tiny_scenes, scratch=root / "scratch"), root / "out")
    yield root
    torch.set_num_threads(before)


def assert_every_flip_is_refused(path: Path, read: Callable[[], object], *, seed: int = 0) -> None:
    """Assert that `read` works, and that with any one of fifty random bits of `path` changed it ends with exit code 4."""
    read()
    content = path.read_bytes()
    for bit in random.Random(seed).sample(range(8 * len(content)), FLIPS):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.unlink()  # the old one may be mapped into memory
        path.write_bytes(changed)
        with pytest.raises(CorruptArtefactError) as error:
            read()
        assert error.value.exit_code == ExitCode.CORRUPT_ARTEFACT
        assert path.name in str(error.value), f"bit {bit}"
    path.write_bytes(content)
    read()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_scenes(tiny_scenes: Path, tmp_path: Path, split: str) -> None:
    """A table of scenes."""
    path = Path(shutil.copy(tiny_scenes / f"{split}.parquet", tmp_path))
    assert_every_flip_is_refused(path, lambda: read_scenes(path))


def test_photos(tiny_photos: Path, tmp_path: Path) -> None:
    """A table of photographs, whose JPEGs could not tell by themselves."""
    path = Path(shutil.copy(tiny_photos / "train.parquet", tmp_path))
    assert_every_flip_is_refused(path, lambda: read_photos(path))


def test_the_latency_profile(simulated_profile: Path, tmp_path: Path) -> None:
    """The latency table: a search on wrong milliseconds would end in a wrong net."""
    path = Path(shutil.copy(simulated_profile, tmp_path))
    assert_every_flip_is_refused(path, lambda: read_profile(path))


@pytest.mark.parametrize("name", ["weights.safetensors", "log.parquet"])
def test_what_training_writes(
    trained: Path, tiny_scenes: Path, tiny_params: Callable[..., Params], tmp_path: Path, name: str
) -> None:
    """Weights, which have no checksum of their own, and the log that holds it: evaluation refuses both."""
    folder = Path(shutil.copytree(trained / "out", tmp_path / "trained"))
    params = tiny_params({"retrain.epochs": 2})
    job = EvaluateJob(
        model=MODEL, seed=0, params=params, scenes=tiny_scenes, trained=folder, scratch=tmp_path / "scratch"
    )
    assert_every_flip_is_refused(folder / name, partial(evaluate_job, job, tmp_path / "out"))


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_checkpoint(trained: Path, tmp_path: Path, suffix: str) -> None:
    """The only checkpoint of a run, tensors or JSON; that a damaged one yields to an older one is tested with the checkpoints."""
    newest = max((trained / "scratch").rglob("epoch-*.json"))
    for part in (newest, newest.with_suffix(".safetensors")):
        shutil.copy(part, tmp_path)
    checkpoints = CheckpointFolder(tmp_path)
    assert_every_flip_is_refused(tmp_path / f"{newest.stem}{suffix}", checkpoints.newest)
