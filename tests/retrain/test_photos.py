"""The pipeline stage retrain on photos: what it writes, how it resumes, where genotypes come from, how it ends when something is wrong."""

import copy
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dcnas_data.photo_loader import PhotoStore
from dcnas_data.photos import read_photos
from dcnas_harness.errors import BadInputError, CorruptArtefactError, ExitCode, NumericalError
from dcnas_harness.files import sha256_of
from dcnas_nets.photo_nets import build_photo_net
from dcnas_retrain import photo_loop
from dcnas_retrain.__main__ import main
from dcnas_retrain.fingerprint import checkpoint_folder
from dcnas_retrain.photo_job import PhotoJob, _open_photos, photo_checkpoints_of, train_photo_job
from dcnas_retrain.photo_loop import PhotoRun, PhotoState, start_photo_state, train_on_photos
from dcnas_schema.genotype import uniform_genotype
from dcnas_schema.params import Params, load_params
from dcnas_schema.parquet import read_parquet
from dcnas_schema.photo_models import images_of, task_of
from dcnas_schema.photo_records import PHOTO_TRAINING_LOG, ChosenGenotype, DrawnSubnet, PhotoTrainingMetadata
from dcnas_training.checkpoints import CheckpointFolder, load_tensors
from dcnas_training.execution import Execution
from dcnas_training.norm import recalibrate_norm

Python = Callable[..., subprocess.CompletedProcess[str]]
Train = Callable[..., Path]
ONE_EPOCH = {"retrain_photos.epochs": 1}
EPOCHS = 3


@pytest.fixture
def settings(tmp_path: Path, write_photo_params: Callable[..., Path]) -> Callable[..., Params]:
    """A function that gives the tiny settings for photos, with changes."""
    return lambda changes=None: load_params(write_photo_params(tmp_path / "settings.yaml", changes))


@pytest.fixture
def train(tmp_path: Path, tiny_photos: Path, settings: Callable[..., Params]) -> Train:
    """A function that trains a model on photos in this process and returns the folder of its outputs."""

    def run(
        model: str, changes: Mapping[str, Any] | None = None, *, seed: int = 0, out: str = "out",
        scratch: str = "scratch", photos: Path = tiny_photos, genotype: Path | None = None,
    ) -> Path:  # fmt: skip
        job = PhotoJob(
            model=model, seed=seed, settings=settings(changes), photos=photos, genotype=genotype,
            scratch=tmp_path / scratch,
        )  # fmt: skip
        train_photo_job(job, tmp_path / out)
        return tmp_path / out

    return run


def read_log(folder: Path) -> tuple[dict[str, list[Any]], PhotoTrainingMetadata]:
    """Return the training log of an output folder."""
    table, metadata = read_parquet(folder / "log.parquet", PHOTO_TRAINING_LOG, PhotoTrainingMetadata)
    return table.to_pydict(), metadata


@pytest.mark.parametrize("model", ["c_nas", "unet_s", "mobilenet", "dcnet_s"])
def test_every_kind_of_model_trains(train: Train, settings: Callable[..., Params], model: str) -> None:
    """Weights fit the model; the log has a finite row an epoch, null where the model lacks the task, and says what was trained."""
    out = train(model)
    spec = settings().photo_models[model]
    rows, metadata = read_log(out)
    build_photo_net(spec, genotype=metadata.genotype, classes=3, seed=0).load_state_dict(
        load_tensors(out / "weights.safetensors")
    )
    assert rows["epoch"] == [1, 2]
    assert np.isfinite(rows["train_loss"] + rows["validation_loss"]).all()
    assert rows["learning_rate"] == pytest.approx([0.025, 0.0125])
    assert (rows["validation_psnr_db"][0] is None) == (task_of(spec) == "classify")
    for name in ("validation_top1_pct", "validation_top5_pct"):
        assert (rows[name][0] is None) == (task_of(spec) == "denoise")
    if task_of(spec) != "denoise":
        assert rows["validation_top5_pct"] == [100, 100], "there are three classes"
    assert (metadata.model, metadata.spec, metadata.classes, metadata.train_photos) == (
        model,
        spec,
        ("cat", "dog", "owl"),
        12,
    )
    assert (metadata.image_size, metadata.peak_learning_rate, metadata.epochs) == (32, 0.025, 2)
    assert metadata.weights_sha256 == sha256_of(out / "weights.safetensors")


def test_training_lowers_the_loss(train: Train) -> None:
    """Eight epochs of a small joint net on twelve photos: its loss is well below that of the start, in training and in validation."""
    changes = {"retrain_photos.epochs": 8, "retrain_photos.learning_rate": 0.8, "photo_noise.highest": 0.3}
    rows, _ = read_log(train("dcnet_s", changes))
    assert rows["train_loss"][-1] < 0.8 * rows["train_loss"][0]
    assert min(rows["validation_loss"]) < rows["validation_loss"][0]
    assert max(rows["validation_psnr_db"]) > rows["validation_psnr_db"][0]


def test_on_both_splits_there_is_nothing_to_validate_on(train: Train) -> None:
    """With train_and_validation the model sees both, and the log's validation columns are null."""
    rows, metadata = read_log(train("dcnet_s", {"retrain_photos.train_on": "train_and_validation"}))
    assert metadata.train_photos == 18
    assert all(rows[name] == [None, None] for name in rows if name.startswith("validation"))


def test_the_seed_alone_decides_the_weights(train: Train) -> None:
    """The same seed gives the same bytes of weights and log, dropout and drop-connect included; another seed others."""
    first, again, other = (
        train("c_nas", ONE_EPOCH, out=f"o{i}", scratch=f"s{i}", seed=seed) for i, seed in enumerate((3, 3, 4))
    )
    for file in ("weights.safetensors", "log.parquet"):
        assert sha256_of(first / file) == sha256_of(again / file)
    assert sha256_of(first / "weights.safetensors") != sha256_of(other / "weights.safetensors")


@pytest.fixture(scope="module")
def plain_weights(
    tiny_photos: Path, write_photo_params: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """A function that gives the hash of a model's weights after one epoch of the unchanged recipe."""
    root = tmp_path_factory.mktemp("plain")
    found = load_params(write_photo_params(root / "settings.yaml", ONE_EPOCH))

    def weights(model: str) -> str:
        if not (root / model).exists():
            job = PhotoJob(
                model=model, seed=0, settings=found, photos=tiny_photos, genotype=None,
                scratch=root / "scratch",
            )  # fmt: skip
            train_photo_job(job, root / model)
        return sha256_of(root / model / "weights.safetensors")

    return weights


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("dc_nas", {"retrain_photos.drop_connect": 0.5}),
        ("dc_nas", {"retrain_photos.dropout": 0.5}),
        ("dcnet_s", {"retrain_photos.loss.label_smoothing": 0.0}),
        ("dcnet_s", {"retrain_photos.loss.ssim": 0.0}),
        ("dcnet_s", {"retrain_photos.grad_clip": 0.01}),
        ("dcnet_s", {"retrain_photos.learning_rate_batch": None}),
        ("dcnet_s", {"retrain_photos.momentum": 0.0}),
        ("dcnet_s", {"retrain_photos.weight_decay": 0.1}),
        ("dcnet_s", {"retrain_photos.warmup": {"epochs": 2, "above_batch": 0}}),
        ("dcnet_s", {"photo_noise.highest": 0.5}),
        ("dcnet_s", {"photo_view.flip": 0.0}),
    ],
    ids=str,
)
def test_every_part_of_the_recipe_reaches_the_weights(
    train: Train, plain_weights: Callable[[str], str], model: str, changes: dict[str, Any]
) -> None:
    """Changing any one setting of the recipe changes the weights after one epoch."""
    assert sha256_of(train(model, {**ONE_EPOCH, **changes}) / "weights.safetensors") != plain_weights(model)


@pytest.mark.parametrize("photos", [5, 30])
def test_recalibration_changes_the_statistics_alone(train: Train, photos: int) -> None:
    """With fewer photos than there are, or more, batch norm's statistics differ from those without; what was trained is the same."""
    changes = {**ONE_EPOCH, "retrain_photos.recalibrate": photos}
    with_it, without = (
        load_tensors(train("dc_nas", c, out=name, scratch=f"{name} scratch") / "weights.safetensors")
        for name, c in (("with", changes), ("without", ONE_EPOCH))
    )
    assert with_it.keys() == without.keys()
    for name, tensor in with_it.items():
        if "running" in name:
            assert not torch.equal(tensor, without[name]), name
        elif "num_batches" not in name:
            assert torch.equal(tensor, without[name]), name


def test_recalibration_sees_what_training_sees(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last epoch alone: whole batches of noisy views, and of a model for clean images, clean ones."""
    seen: list[torch.Tensor] = []

    def recalibrate(model: torch.nn.Module, passes: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(photo_loop._PhotoLearner, "_forward", lambda _, image: seen.append(image))
            recalibrate_norm(model, passes)

    monkeypatch.setattr(photo_loop, "recalibrate_norm", recalibrate)
    changes = {"retrain_photos.recalibrate": 13}
    train("dc_nas", changes, out="noisy", scratch="noisy scratch")
    assert [len(image) for image in seen] == [12, 12], "two batches of all photos, once, though there are two epochs"
    assert all(image.min() < 0 and image.max() > 1 for image in seen)
    assert not torch.equal(*seen)
    seen.clear()
    train("c_nas", changes, out="clean", scratch="clean scratch")
    assert [len(image) for image in seen] == [12, 12]
    assert all(image.min() >= 0 and image.max() <= 1 for image in seen)


def test_a_random_subnet_is_trained_and_the_log_says_which(train: Train, tmp_path: Path) -> None:
    """The log holds the drawn genotype and how near its latency is; the file that it comes from is among the hashed inputs."""
    drawn = DrawnSubnet(target_ms=1.0, predicted_ms=1.01, draws=7)
    chosen = ChosenGenotype(
        model="random", seed=0, genotype=uniform_genotype("k3_e3", 2), search="small", search_seed=5, drawn=drawn
    )
    (tmp_path / "0.json").write_text(chosen.model_dump_json(), encoding="utf-8")
    _, metadata = read_log(train("random", ONE_EPOCH, genotype=tmp_path / "0.json"))
    assert (metadata.drawn, metadata.genotype, metadata.search_seed) == (drawn, chosen.genotype, 5)
    assert {Path(path).name for path in metadata.provenance.inputs} == {"train.parquet", "validation.parquet", "0.json"}


def new_run(photos: Path, settings_file: Path, checkpoints: Path) -> PhotoRun:
    """Return a training run on photos at its start."""
    device = torch.device("cpu")
    train, validation = (
        PhotoStore.open([photos / f"{split}.parquet"], device=device, memory_mb=10, threads=1)
        for split in ("train", "validation")
    )
    found = load_params(settings_file)
    spec = found.photo_models["dcnet_s"]
    return PhotoRun(
        model=build_photo_net(spec, genotype=None, classes=3, seed=1), images=images_of(spec), train=train,
        validation=validation, execution=Execution(device=device, precision="fp32", memory_format="channels_last"),
        epochs=EPOCHS, view=found.photo_view, noise=found.photo_noise, params=found.retrain_photos, seed=0,
        checkpoints=CheckpointFolder(checkpoints), label="test",
    )  # fmt: skip


def stop_in_the_last_epoch(run: PhotoRun) -> None:
    """Train as far as the last epoch's second step, and stop there as a kill would."""
    original = photo_loop.photo_step

    def step(*arguments: Any, epoch: int, step: int) -> torch.Tensor:
        if (epoch, step) == (EPOCHS, 2):
            raise KeyboardInterrupt
        return original(*arguments, epoch=epoch, step=step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_loop, "photo_step", step)
        with pytest.raises(KeyboardInterrupt):
            train_on_photos(run)


Result = tuple[list[dict[str, Any]], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def disturbed(
    tiny_photos: Path, write_photo_params: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Path, Path]:
    """Log and weights of an undisturbed run, the checkpoints of one that was stopped in its last epoch, and the settings of both."""
    folder = tmp_path_factory.mktemp("disturbed")
    settings_file = write_photo_params(folder / "settings.yaml", {"retrain_photos.recalibrate": 8})
    whole = new_run(tiny_photos, settings_file, folder / "whole")
    rows = train_on_photos(whole)
    stop_in_the_last_epoch(new_run(tiny_photos, settings_file, folder / "stopped"))
    return (rows, whole.model.state_dict()), folder / "stopped", settings_file


@pytest.fixture
def resumed(disturbed: tuple[Result, Path, Path], tiny_photos: Path, tmp_path: Path) -> Callable[[], bool]:
    """A function that resumes the stopped run and tells whether it ends as the undisturbed one, to the last bit."""
    (rows, weights), stopped, settings_file = disturbed

    def run() -> bool:
        second = new_run(tiny_photos, settings_file, shutil.copytree(stopped, tmp_path / "stopped"))
        found = train_on_photos(second)
        state = second.model.state_dict()
        return found == rows and all(torch.equal(value, weights[name]) for name, value in state.items())

    return run


def test_a_killed_run_goes_on_bit_for_bit(resumed: Callable[[], bool]) -> None:
    """Stopped in the middle of its last epoch and run again, it ends with the undisturbed run's weights and log."""
    assert resumed()


def test_a_run_killed_while_recalibrating_goes_on_bit_for_bit(
    disturbed: tuple[Result, Path, Path], tiny_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped with a part of the statistics taken, it ends as the undisturbed run; so does a finished one, without a step."""
    (rows, weights), _, settings_file = disturbed
    checkpoints = tmp_path / "checkpoints"

    def stop(_: torch.nn.Module, passes: Any) -> None:
        next(iter(passes))()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(photo_loop, "recalibrate_norm", stop)
        with pytest.raises(KeyboardInterrupt):
            train_on_photos(new_run(tiny_photos, settings_file, checkpoints))
    for _ in range(2):
        run = new_run(tiny_photos, settings_file, checkpoints)
        assert train_on_photos(run) == rows
        assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())
        monkeypatch.setattr(photo_loop, "photo_step", lambda *_, **__: pytest.fail("a step was taken"))
        monkeypatch.setattr(photo_loop, "recalibrate_norm", lambda *_: pytest.fail("recalibrated again"))


PIECES = ["model", "optimizer", "shuffle", "crops", "jitter_order", "noise", "rows"]


@pytest.mark.parametrize("piece", PIECES)
def test_without_any_piece_of_the_state_the_result_differs(
    disturbed: tuple[Result, Path, Path],
    resumed: Callable[[], bool],
    monkeypatch: pytest.MonkeyPatch,
    tiny_photos: Path,
    tmp_path: Path,
    piece: str,
) -> None:
    """Leaving one saved piece out when resuming changes the result: none is there in vain; and a missing one is refused by name."""
    fresh = start_photo_state(new_run(tiny_photos, disturbed[2], tmp_path / "fresh"))
    saved = copy.deepcopy(fresh.to_save())
    assert set(saved) == set(PIECES)
    with pytest.raises(KeyError, match=piece):
        fresh.restore({name: value for name, value in saved.items() if name != piece})
    original = PhotoState.restore
    monkeypatch.setattr(
        PhotoState, "restore", lambda self, found: original(self, {**found, piece: copy.deepcopy(saved[piece])})
    )
    assert not resumed()


def test_a_loss_that_is_not_finite_stops_the_run(train: Train) -> None:
    """A rate far too high ends in a NumericalError that names epoch and rate, and no weights are written."""
    with pytest.raises(NumericalError, match=r"epoch 1(.|\n)*learning rate(.|\n)*retrain_photos.learning_rate"):
        train("unet_s", {"retrain_photos.learning_rate": 1e30, "retrain_photos.grad_clip": None})


def test_fewer_photos_than_a_batch_are_refused(train: Train) -> None:
    """A batch larger than the split is refused before any step, naming both numbers."""
    with pytest.raises(BadInputError, match="batch_size is 13, more than the 12 photos"):
        train("unet_s", {"retrain_photos.batch_size": 13})


def test_the_command_trains_and_refuses(
    python: Python, in_process: Python, tmp_path: Path, tiny_photos: Path, write_photo_params: Callable[..., Path]
) -> None:
    """The command writes weights and log; an unknown model ends as bad input that names the known ones."""
    params = write_photo_params(tmp_path / "params.yaml", {"retrain_photos.epochs": 1})
    command = ["--params", params, "--seed", 0, "--scratch", tmp_path / "scratch"]
    done = python(
        "-m", "dcnas_retrain", *command, "--model", "dcnet_s", "--photos", tiny_photos, "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["log.parquet", "weights.safetensors"]
    unknown = in_process(main, *command, "--model", "dcnet", "--photos", tiny_photos, "--out", tmp_path / "out2")
    assert unknown.returncode == ExitCode.BAD_INPUT
    assert "dcnet_s" in unknown.stderr


def test_a_damaged_or_missing_photo_set_is_refused_by_name(train: Train, tmp_path: Path, tiny_photos: Path) -> None:
    """A truncated split and a missing one end as corrupt artefacts."""
    with pytest.raises(CorruptArtefactError, match=r"train\.parquet"):
        train("unet_s", photos=tmp_path)
    for split in ("train", "validation"):
        content = (tiny_photos / f"{split}.parquet").read_bytes()
        (tmp_path / f"{split}.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptArtefactError, match=r"train\.parquet"):
        train("unet_s", photos=tmp_path)


def test_the_newest_checkpoints_of_another_run_are_kept(
    train: Train, tmp_path: Path, settings: Callable[..., Params]
) -> None:
    """A change that is taken back costs no training: beside its own a run leaves those of the run before, and none that is older."""
    job = PhotoJob(
        model="dcnet_s", seed=0, settings=settings(), photos=tmp_path, genotype=None,
        scratch=tmp_path / "scratch",
    )  # fmt: skip
    folders: list[set[str]] = []
    for number, epochs in enumerate((1, 2, 3)):
        train("dcnet_s", {"retrain_photos.epochs": epochs})
        folders.append({path.name for path in photo_checkpoints_of(job).iterdir()})
        (own,) = folders[-1] - (folders[-2] if number else set())
        os.utime(photo_checkpoints_of(job) / own, (number, number))
    assert [len(found) for found in folders] == [1, 2, 2]
    assert folders[0] < folders[1]
    assert not folders[0] & folders[2]


@pytest.mark.parametrize("name", ["torchvision", "timm", "pytorch-msssim"])
def test_checkpoints_are_of_the_libraries_that_nets_and_losses_come_from(name: str, tmp_path: Path) -> None:
    """Another version of one of them is another run."""
    card = SimpleNamespace(kind="cpu", name="", threads=1, torch="")
    execution: Any = SimpleNamespace(precision="fp32", memory_format="contiguous")
    versions = {"torchvision": "1", "timm": "1", "pytorch-msssim": "1", "pyarrow": "1"}

    def folder(**changed: str) -> Path:
        made: Any = SimpleNamespace(
            inputs={}, params_sha256="", seed=0, device=card, processes=1, versions={**versions, **changed}
        )  # fmt: skip
        return checkpoint_folder(tmp_path, execution=execution, provenance=made)

    assert folder() == folder(pyarrow="2") != folder(**{name: "2"})


def test_validation_photos_get_the_memory_that_training_photos_leave(
    tiny_photos: Path, settings: Callable[..., Params]
) -> None:
    """Splits of unlike size share the memory as they need it, and what does not fit takes none of it."""
    sizes = [read_photos(tiny_photos / f"{split}.parquet").sizes for split in ("train", "validation")]
    needed = [float(3 * pairs.prod(axis=1).sum()) / 1e6 for pairs in sizes]
    assert needed[0] > needed[1]
    resident = {}
    for memory_mb in (sum(needed) + 1e-3, needed[0] + 1e-3, needed[1] + 1e-3, 0.0):
        changed = settings()
        view = changed.photo_view.model_copy(update={"memory_mb": memory_mb})
        changed = changed.model_copy(
            update={
                "photo_view": view,
                "retrain_photos": changed.retrain_photos.model_copy(update={"train_on": "train"}),
            }
        )
        job = PhotoJob(
            model="dcnet_s", seed=0, settings=changed, photos=tiny_photos, genotype=None,
            scratch=tiny_photos,
        )  # fmt: skip
        train, validation = _open_photos(job, torch.device("cpu"))
        assert validation is not None
        resident[memory_mb] = (train.resident, validation.resident)
    assert list(resident.values()) == [(True, True), (True, False), (False, True), (False, False)]
