"""Training runs of a second: sixteen scenes, one thread, a net of 37,000 weights."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dcnas_schema.params import Params


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: so small a net gains nothing from more, and the tests do not wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def train_in(tiny_scenes: Path, tiny_params: Callable[..., Params]) -> Callable[..., Path]:
    """A function that trains a model in this process, in a folder, with changed parameters, and returns that of its outputs."""
    from dcnas_retrain.job import Job, train_job

    def run(
        folder: Path,
        changes: Mapping[str, Any] | None = None,
        *,
        model: str = "dcnet_reduced_integrated",
        seed: int = 0,
        scratch: str = "scratch",
        out: str = "out",
        scenes: Path = tiny_scenes,
    ) -> Path:
        params = tiny_params({"retrain.epochs": 2, **(changes or {})})
        job = Job(model=model, seed=seed, params=params, scenes=scenes, scratch=folder / scratch)
        train_job(job, folder / out)
        return folder / out

    return run


@pytest.fixture
def train(tmp_path: Path, train_in: Callable[..., Path]) -> Callable[..., Path]:
    """The same in the test's own folder."""
    return partial(train_in, tmp_path)


@pytest.fixture(scope="module")
def default_run(train_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with no changes, holding `out` and `scratch`; tests must leave it as it is."""
    return train_in(tmp_path_factory.mktemp("default")).parent


@pytest.fixture
def arguments(tmp_path: Path, tiny_scenes: Path, write_params: Callable[..., Path]) -> Callable[..., list[Any]]:
    """A function that gives the command's arguments, with changed parameters and paths."""

    def make(changes: Mapping[str, Any] | None = None, **paths: Any) -> list[Any]:
        values = {
            "params": write_params(tmp_path / "params.yaml", changes),
            "model": "dcnet_reduced_integrated",
            "seed": 0,
            "scenes": tiny_scenes,
            "out": tmp_path / "out",
            "scratch": tmp_path / "scratch",
            **paths,
        }
        return ["-m", "dcnas_retrain", *(word for name, value in values.items() for word in (f"--{name}", value))]

    return make
