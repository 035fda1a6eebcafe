"""Training by two processes: the loss curve of one, one set of files, the same bits when resumed, and no survivor of a death."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_harness.errors import ExitCode
from dcnas_schema.parquet import read_parquet
from dcnas_schema.records import TRAINING_LOG, TrainingMetadata

TRAIN = """
from dcnas_retrain import loop, photo_loop
from dcnas_retrain.job import Job, train_job
from dcnas_retrain.photo_job import PhotoJob, train_photo_job
from dcnas_schema.params import load_params

folder, settings, scenes, photos = (Path(word) for word in sys.argv[1:])
params = load_params(settings)

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

def of_photos(model, out):
    def act(seat):
        recorded(photo_loop, "photo_step", folder / f"{out}-{seat.size}-{seat.rank}.losses")
        where = {"photos": photos, "genotype": None, "scratch": folder / f"{out}-{seat.size} scratch"}
        train_photo_job(PhotoJob(model=model, seed=0, settings=params, seat=seat, **where), folder / f"{out}-{seat.size}")
    return act

ends = [together(processes, act) for act in ACTS for processes in (1, 2)]
print(json.dumps(ends))
"""
DIGITS = {"retrain.epochs": 5, "retrain.recalibrate": 20}
PHOTOS = {"retrain_photos.epochs": 7, "retrain_photos.recalibrate": 8}


@pytest.fixture(scope="module")
def trained(
    forks: Callable[..., Any], write_photo_params: Callable[..., Path], tiny_scenes: Path, tiny_photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """The folder with what one process and two made of each kind of training; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("together")
    settings = write_photo_params(folder / "settings.yaml", {**DIGITS, **PHOTOS})
    acts = 'ACTS = [digits("dcnet_reduced_integrated", "digits"), of_photos("dc_nas", "dc_nas"), of_photos("dcnet_s", "dcnet_s")]'
    ends = forks(TRAIN.replace("ends =", f"{acts}\nends ="), folder, settings, tiny_scenes, tiny_photos)
    assert ends == [[0], [0, 0]] * 3
    return folder


def losses(folder: Path, name: str) -> list[float]:
    """Return the losses of a process."""
    found: list[float] = json.loads((folder / f"{name}.losses").read_text())
    return found


@pytest.mark.parametrize("kind", ["digits", "dc_nas", "dcnet_s"])
def test_two_processes_have_the_loss_curve_of_one(trained: Path, kind: str) -> None:
    """Over twenty steps and their epochs' ends every loss is that of one process within 1e-5, and the same in both."""
    one, first, second = (losses(trained, f"{kind}-{process}") for process in ("1-0", "2-0", "2-1"))
    print(max(abs(a - b) for a, b in zip(one, first)), one, first)
    assert len(one) >= 20
    assert first == second
    assert first == pytest.approx(one, abs=1e-5, rel=0)
