"""The pipeline stage retrain as it is run: what it writes, what decides its weights, how it ends when something is wrong."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dcnas_harness.errors import CorruptArtefactError, ExitCode, NumericalError, UnfitEnvironmentError
from dcnas_harness.files import sha256_of
from dcnas_harness.process import exclusive_run
from dcnas_latency.card import device_card
from dcnas_latency.lock import lock_path
from dcnas_nets.models import build_model
from dcnas_retrain import fingerprint, loop
from dcnas_retrain.__main__ import main
from dcnas_schema.params import Params, read_yaml
from dcnas_schema.parquet import read_parquet
from dcnas_schema.records import TRAINING_LOG, TrainingMetadata
from dcnas_search_supernet import job as search_job
from dcnas_training.checkpoints import CheckpointFolder, load_tensors

Python = Callable[..., subprocess.CompletedProcess[str]]
Train = Callable[..., Path]
JOINT = "dcnet_reduced_integrated"


def read_log(folder: Path) -> tuple[dict[str, list[Any]], TrainingMetadata]:
    """Return the training log of an output folder."""
    table, metadata = read_parquet(folder / "log.parquet", TRAINING_LOG, TrainingMetadata)
    return table.to_pydict(), metadata


def weights(folder: Path) -> str:
    """Return the hash of the weights in an output folder."""
    return sha256_of(folder / "weights.safetensors")


@pytest.mark.parametrize(
    "model", [JOINT, "dcnet_reduced_sequential", "unet_s", "classifier_conv_clean", "classifier_mbconv_noisy"]
)
def test_every_kind_of_model_trains(train: Train, tiny_params: Callable[..., Params], model: str) -> None:
    """Weights fit the model and have moved; the log has a finite row an epoch, null where the model lacks the task."""
    out = train(model=model)
    spec = tiny_params().models[model]
    trained = build_model(spec, seed=0)
    trained.load_state_dict(load_tensors(out / "weights.safetensors"))
    rows, metadata = read_log(out)
    assert rows["epoch"] == [1, 2]
    assert np.isfinite(rows["train_loss"] + rows["validation_loss"]).all()
    assert rows["learning_rate"] == [1e-3, 1e-3]
    assert (rows["validation_psnr_db"][0] is None) == (spec.kind == "classifier")
    assert (rows["validation_top1_pct"][0] is None) == (spec.kind == "denoiser")
    assert (metadata.model, metadata.seed, metadata.spec, metadata.epochs) == (model, 0, spec, 2)
    assert (metadata.batch_size, metadata.train_scenes, metadata.precision) == (4, 16, "fp32")
    assert sorted(path.name for path in out.iterdir()) == ["log.parquet", "weights.safetensors"]


def test_training_lowers_the_loss(train: Train) -> None:
    """Ten epochs on sixteen scenes cost less at the end than at the start, in training and in validation."""
    rows, _ = read_log(train({"retrain.epochs": 10, "retrain.learning_rate": 0.005}, model="unet_s"))
    assert rows["train_loss"][-1] < 0.5 * rows["train_loss"][0]
    assert min(rows["validation_loss"]) < rows["validation_loss"][0]
    assert max(rows["validation_psnr_db"]) > rows["validation_psnr_db"][0]


def test_the_seed_alone_decides_the_weights(train: Train, default_run: Path) -> None:
    """Two runs of one seed are the same bytes whatever the global generators hold; another seed gives others."""
    first = weights(default_run / "out")
    torch.manual_seed(2)
    assert weights(train(out="again", scratch="other")) == first
    assert weights(train(seed=1, out="one")) != first


def test_the_models_own_epochs_go_before_the_common_ones(train: Train) -> None:
    """`epochs` of a model overrides that of the section."""
    rows, metadata = read_log(train({"models.unet_s.epochs": 3}, model="unet_s"))
    assert rows["epoch"] == [1, 2, 3]
    assert metadata.epochs == 3


def test_the_learning_rate_falls_on_a_plateau(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation loss that does not fall lowers the rate by the factor after the epochs of patience, down to the minimum."""
    monkeypatch.setattr(loop, "validate", lambda *_: loop.Scores(loss=1.0, psnr_db=None, top1_pct=None))
    plateau = {"factor": 0.1, "patience": 1, "minimum": 5e-5}
    rows, _ = read_log(train({"retrain.epochs": 7, "retrain.plateau": plateau}, model="classifier_conv_noisy"))
    assert rows["learning_rate"] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 5e-5, 5e-5])


def test_bf16_is_recorded(train: Train) -> None:
    """A run in bf16 says so in its log, and keeps its weights in float32."""
    out = train({"retrain.precision": "bf16"})
    assert read_log(out)[1].precision == "bf16"
    assert all(
        tensor.dtype in (torch.float32, torch.int64) for tensor in load_tensors(out / "weights.safetensors").values()
    )


def test_provenance_names_the_scenes_that_were_read(train: Train, tiny_scenes: Path) -> None:
    """The log carries the hashes of both inputs and the seed."""
    provenance = read_log(train({"retrain.epochs": 1}, seed=4))[1].provenance
    assert provenance.inputs == {
        (tiny_scenes / name).as_posix(): sha256_of(tiny_scenes / name)
        for name in ("train.parquet", "validation.parquet")
    }
    assert (provenance.stage, provenance.item, provenance.seed) == ("retrain", f"{JOINT}-4", 4)


def test_the_test_scenes_are_not_read(train: Train, default_run: Path, tiny_scenes: Path, tmp_path: Path) -> None:
    """Where the test split is not even there, the weights are the same."""
    scenes = tmp_path / "without test"
    scenes.mkdir()
    for name in ("train.parquet", "validation.parquet"):
        shutil.copyfile(tiny_scenes / name, scenes / name)
    assert weights(train(scenes=scenes)) == weights(default_run / "out")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rate_that_explodes_stops_at_its_epoch_and_batch(train: Train, tmp_path: Path, precision: str) -> None:
    """A learning rate of 1e30 ends in the first epoch with exit 5: epoch, batch, rate and remedy are named, nothing is written."""
    with pytest.raises(NumericalError) as caught:
        train({"retrain.learning_rate": 1e30, "retrain.precision": precision})
    assert caught.value.exit_code == ExitCode.NUMERICAL_FAILURE == 5
    for words in (
        "epoch 1",
        "batch 2",
        "learning rate 1e+30",
        "there is no checkpoint yet",
        "lower retrain.learning_rate",
    ):
        assert words in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_nan_names_the_last_good_checkpoint(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in the third batch of epoch 3 names both and the checkpoint of epoch 2, from which the next run ends as if nothing had been."""
    expected = weights(train({"retrain.epochs": 3}, scratch="undisturbed", out="undisturbed"))
    original, steps = loop.train_step, []

    def poisoned(*arguments: Any) -> torch.Tensor:
        steps.append(None)
        loss = original(*arguments)
        return loss * float("nan") if len(steps) == 2 * 4 + 3 else loss

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", poisoned)
        with pytest.raises(
            NumericalError, match=r"epoch 3, batch 3, learning rate 0\.001; the last good checkpoint is epoch 2 in "
        ):
            train({"retrain.epochs": 3})
    (folder,) = (tmp_path / f"scratch/retrain/{JOINT}-0").iterdir()
    newest = CheckpointFolder(folder).newest()
    assert newest is not None
    assert newest[0] == 2
    assert not (tmp_path / "out").exists()
    assert weights(train({"retrain.epochs": 3})) == expected


def test_a_validation_loss_that_is_not_finite_stops(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN that shows only in validation is a numerical failure too."""
    monkeypatch.setattr(loop, "validate", lambda *_: loop.Scores(loss=float("nan"), psnr_db=None, top1_pct=None))
    with pytest.raises(NumericalError, match="validation loss is not finite at epoch 1"):
        train()


def test_an_overflow_in_the_optimizer_is_a_numerical_failure(train: Train, tmp_path: Path) -> None:
    """Where the losses stay finite but Adam's averages overflow, the run stops with exit 5, and no such state is written."""
    loss = {"cross_entropy": 0.1, "charbonnier": 1e25, "charbonnier_epsilon": 1e-3}
    with pytest.raises(NumericalError, match="epoch 1"):
        train({"retrain.loss": loss})
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_unknown_model_is_named_with_the_known_ones(in_process: Python, arguments: Callable[..., list[Any]]) -> None:
    """A model that models does not define exits 2."""
    done = in_process(main, *arguments(model="unet_x")[2:])
    assert done.returncode == 2
    assert "No model is named 'unet_x'" in done.stderr
    assert JOINT in done.stderr


def test_damaged_scenes_are_named(
    tmp_path: Path, tiny_scenes: Path, in_process: Python, arguments: Callable[..., list[Any]]
) -> None:
    """A train.parquet with one changed bit exits 4, names the file and the remedy, and trains nothing."""
    scenes = tmp_path / "scenes"
    shutil.copytree(tiny_scenes, scenes)
    content = bytearray((scenes / "train.parquet").read_bytes())
    images = pq.read_metadata(scenes / "train.parquet").row_group(0).column(0)
    content[images.data_page_offset + images.total_compressed_size - 1] ^= 1
    (scenes / "train.parquet").write_bytes(content)
    done = in_process(main, *arguments(scenes=scenes)[2:])
    assert done.returncode == 4
    assert "train.parquet is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["train.parquet", "validation.parquet"])
def test_missing_scenes_are_named(
    tmp_path: Path,
    tiny_scenes: Path,
    arguments: Callable[..., list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """A split that is not there is a corrupt artefact (exit 4) that says which stage makes it."""
    scenes = tmp_path / "scenes"
    shutil.copytree(tiny_scenes, scenes)
    (scenes / name).unlink()
    monkeypatch.setattr("sys.argv", [str(word) for word in arguments(scenes=scenes)[1:]])
    with pytest.raises(CorruptArtefactError, match=rf"(?s){name} does not exist.*generate_data"):
        main()


def test_a_read_only_folder_is_found_before_the_training(
    read_only_disk: Path, in_process: Python, arguments: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output folder that cannot be written exits 2 and is named, before anything is trained."""
    monkeypatch.setattr("dcnas_retrain.job.train", lambda _run: pytest.fail("it trains"))
    done = in_process(main, *arguments(out=read_only_disk / "out")[2:])
    assert done.returncode == 2
    assert "read-only disk/out cannot be written" in done.stderr


def test_a_second_run_beside_it_is_refused(
    tmp_path: Path, in_process: Python, arguments: Callable[..., list[Any]]
) -> None:
    """While one process trains into a folder, a second exits 3, names it, and writes nothing."""
    with exclusive_run(tmp_path / "out", tmp_path / "scratch"):
        done = in_process(main, *arguments()[2:])
    assert done.returncode == 3
    assert f"another process (pid {os.getpid()})" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_run_beside_it_takes_no_checkpoint_away(
    tmp_path: Path, arguments: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same model and seed with another rate, trained into another folder with the same scratch: refused, or both keep theirs."""
    first = [str(word) for word in arguments({"retrain.epochs": 3})[1:]]
    (tmp_path / "other").mkdir()
    second = [*first, "--out", str(tmp_path / "beside"), "--params", str(tmp_path / "other/params.yaml")]
    text = (tmp_path / "params.yaml").read_text()
    assert "learning_rate: 0.001" in text
    (tmp_path / "other/params.yaml").write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    original, beside = loop.validate, []

    def validate(run: loop.Run, batches: list[Any]) -> loop.Scores:
        if not beside and run.checkpoints.newest() is not None:
            beside.append(run)
            monkeypatch.setattr("sys.argv", second)
            with suppress(UnfitEnvironmentError):
                main()
            assert run.checkpoints.newest() is not None, "the checkpoints of the run in progress are gone"
        return original(run, batches)

    monkeypatch.setattr(loop, "validate", validate)
    monkeypatch.setattr("sys.argv", first)
    main()
    assert beside
    assert (tmp_path / "out/weights.safetensors").is_file()


def test_training_keeps_others_from_timing_but_not_from_training(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an epoch runs, another process may share the device but not have it alone; after the training it may."""
    original, free = loop.validate, []

    def free_for(kind: int) -> bool:
        with lock_path(
            device_card("cpu")
        ).open() as file:  # a descriptor of its own: the kernel takes it for another process
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def validate(run: loop.Run, batches: list[Any]) -> loop.Scores:
        free.append((free_for(fcntl.LOCK_SH), free_for(fcntl.LOCK_EX)))
        return original(run, batches)

    monkeypatch.setattr(loop, "validate", validate)
    train()
    assert free == [(True, False)] * 2
    assert free_for(fcntl.LOCK_EX)


def test_cuda_that_is_not_there_is_refused_before_the_data(
    arguments: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`device.kind: cuda` without a device ends with exit 3 before any scene is read."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = arguments({"device.kind": "cuda"}, scenes=tmp_path / "nowhere")
    monkeypatch.setattr("sys.argv", [str(word) for word in words[1:]])
    with pytest.raises(UnfitEnvironmentError, match=r"device\.kind is cuda"):
        main()


@pytest.mark.parametrize(("room", "stage"), [(fingerprint, "retrain"), (search_job, "search_supernet")])
def test_checkpoints_are_of_all_code_that_dvc_counts_as_the_runs(
    room: ModuleType, stage: str, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    """What makes a training stale for DVC makes its checkpoints stale too: after a change there no run takes old ones up."""
    packages: list[str] = []

    def folder(*_: object, code: Iterable[str], **_further: object) -> Path:
        packages.extend(code)
        raise InterruptedError

    monkeypatch.setattr(room, "training_folder", folder)
    execution: Any = SimpleNamespace(precision="fp32", memory_format="contiguous", device="cpu")
    job: Any = SimpleNamespace(scratch=Path(), search="", seed=0)
    card = SimpleNamespace(kind="cpu", name="", threads=1, torch="")
    provenance: Any = SimpleNamespace(inputs={}, params_sha256="", seed=0, device=card, versions={})
    folder_of: dict[str, Callable[[], object]] = {
        "retrain": lambda: fingerprint.checkpoint_folder(Path(), execution=execution, provenance=provenance),
        "search_supernet": lambda: search_job._checkpoint_folder(job, execution, "plain", provenance),
    }
    with pytest.raises(InterruptedError):
        folder_of[stage]()
    code = [dep.split("/") for dep in read_yaml(project / "dvc.yaml")["stages"][stage]["deps"] if dep.endswith("/src")]
    assert {f"dcnas_{name}" for _, name, _ in code} - {"dcnas_harness"} <= set(packages)
