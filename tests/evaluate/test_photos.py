"""The pipeline stage evaluate on photos: the record says what is true of the trained model, by the protocol."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcnas_data.noise import evaluation_noise
from dcnas_data.photo_loader import PhotoStore
from dcnas_data.photo_views import CentreView
from dcnas_evaluate.photo_job import PhotoJob, evaluate_photo_job
from dcnas_evaluate.photo_score import Scorer, first_of_each_class
from dcnas_harness.errors import CorruptArtefactError, NumericalError
from dcnas_harness.files import sha256_of
from dcnas_latency.files import read_profile
from dcnas_latency.models import predict_model
from dcnas_latency.predictor import Predictor
from dcnas_nets.macs import count_macs, count_parameters
from dcnas_nets.photo_nets import build_photo_net
from dcnas_nets.space import SpaceOutput
from dcnas_retrain.photo_job import PhotoJob as TrainJob
from dcnas_retrain.photo_job import train_photo_job
from dcnas_schema.params import Params, load_params
from dcnas_schema.parquet import read_parquet, with_metadata, write_parquet
from dcnas_schema.photo_models import task_of
from dcnas_schema.photo_records import PHOTO_PANEL, PHOTO_RECORD, PhotoEvaluationMetadata, PhotoPanelMetadata
from dcnas_schema.photos import PHOTOS, PhotosMetadata
from dcnas_training.checkpoints import load_tensors
from dcnas_training.metrics import psnr_db, ssim_per_image

Evaluate = Callable[..., Path]
TIMED = {"evaluate_photos.latency": {"measure": True, "batch": 2, "warmup": 1, "repeats": 3, "canary_band_pct": 500.0}}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, write_photo_params: Callable[..., Path]
) -> Callable[..., Params]:
    """A function that gives the tiny settings for photos, with changes."""
    path = tmp_path_factory.mktemp("settings") / "params.yaml"
    return lambda changes=None: load_params(write_photo_params(path, {"retrain_photos.epochs": 1, **(changes or {})}))


@pytest.fixture(scope="module")
def trained(
    tiny_photos: Path, settings: Callable[..., Params], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function that gives the folder of a model trained for an epoch; each is trained once."""
    root = tmp_path_factory.mktemp("trained")

    def folder(model: str) -> Path:
        if not (root / model).exists():
            job = TrainJob(
                model=model, seed=0, settings=settings(), photos=tiny_photos, genotype=None,
                scratch=root / "scratch",
            )  # fmt: skip
            train_photo_job(job, root / model)
        return root / model

    return folder


@pytest.fixture
def evaluate(
    tmp_path: Path, tiny_photos: Path, settings: Callable[..., Params], trained: Callable[[str], Path]
) -> Evaluate:
    """A function that evaluates a model and returns the folder of its outputs."""

    def run(
        model: str, changes: dict[str, Any] | None = None, *, out: str = "out", profile: Path | None = None,
        folder: Path | None = None, photos: Path = tiny_photos,
    ) -> Path:  # fmt: skip
        job = PhotoJob(
            model=model, seed=0, settings=settings(changes), photos=photos, trained=folder or trained(model),
            profile=profile, scratch=tmp_path / "scratch",
        )  # fmt: skip
        evaluate_photo_job(job, tmp_path / out)
        return tmp_path / out

    return run


def read_record(folder: Path) -> tuple[dict[str, list[Any]], PhotoEvaluationMetadata]:
    """Return the record of an output folder."""
    table, metadata = read_parquet(folder / "record.parquet", PHOTO_RECORD, PhotoEvaluationMetadata)
    return table.to_pydict(), metadata


def read_panel(folder: Path) -> tuple[list[dict[str, Any]], PhotoPanelMetadata]:
    """Return the panel of an output folder."""
    table, metadata = read_parquet(folder / "panel.parquet", PHOTO_PANEL, PhotoPanelMetadata)
    return table.to_pylist(), metadata


def test_the_record_is_what_the_protocol_says(
    evaluate: Evaluate, trained: Callable[[str], Path], settings: Callable[..., Params], tiny_photos: Path
) -> None:
    """Level by level PSNR, SSIM, top-1 and top-5 are those computed here, image by image, with noise of (seed, image, level) alone."""
    rows, metadata = read_record(evaluate("dcnet_s"))
    found = settings()
    model = build_photo_net(found.photo_models["dcnet_s"], genotype=None, classes=3, seed=0)
    model.load_state_dict(load_tensors(trained("dcnet_s") / "weights.safetensors"))
    model.eval()
    store = PhotoStore.open([tiny_photos / "test.parquet"], device=CPU, memory_mb=10, threads=1)
    (batch,) = store.in_order(5, CentreView(found.photo_view))
    for level, sigma in enumerate(found.photo_noise.sigmas):
        noise = evaluation_noise((3, 32, 32), seed=0, images=range(5), level=level)
        with torch.inference_mode():
            restored, logits = model(batch.clean + sigma * noise)
        error = (restored.clamp(0, 1) - batch.clean).double().square().mean((1, 2, 3))
        assert rows["psnr_db"][level] == pytest.approx(float(psnr_db(error).mean()), abs=1e-4)
        assert rows["psnr_pooled_db"][level] == pytest.approx(float(psnr_db(error.mean())), abs=1e-4)
        ssim = ssim_per_image(restored.clamp(0, 1), batch.clean).mean()
        assert rows["ssim"][level] == pytest.approx(float(ssim), abs=1e-5)
        right = (logits.argmax(1) == batch.labels).double().mean()
        assert rows["top1_pct"][level] == pytest.approx(100 * float(right))
    assert rows["top5_pct"] == [100.0] * 3, "there are three classes"
    assert rows["sigma"] == [0.0, 0.25, 0.5]
    assert rows["images"] == [5, 5, 5]
    assert rows["noisy_psnr_db"][0] is None
    assert rows["noisy_psnr_db"][2] == pytest.approx(6.0, abs=0.3), "noise of sigma 0.5 has a PSNR of 6.02 dB"
    assert metadata.classes == ("cat", "dog", "owl")


@pytest.mark.parametrize("model", ["dc_nas", "unet_s", "c_nas"])
def test_every_task_has_its_columns_and_the_cost_is_counted(
    evaluate: Evaluate, settings: Callable[..., Params], model: str
) -> None:
    """Columns of a task that the model lacks are null; MACs and parameters are those of the net at the photos' size and classes."""
    rows, metadata = read_record(evaluate(model))
    spec = settings().photo_models[model]
    for name in ("psnr_db", "psnr_pooled_db", "ssim"):
        assert (rows[name][0] is None) == (task_of(spec) == "classify"), name
    for name in ("top1_pct", "top5_pct"):
        assert (rows[name][0] is None) == (task_of(spec) == "denoise"), name
    net = build_photo_net(spec, genotype=metadata.genotype, classes=3, seed=0)
    assert metadata.cost.macs == count_macs(net, torch.zeros(1, 3, 32, 32))
    assert metadata.cost.parameters == count_parameters(net)
    assert metadata.latency.measured is None


def test_the_record_depends_on_nothing_but_its_inputs(evaluate: Evaluate) -> None:
    """Other batch sizes give the same scores to rounding, the same call the same bytes."""
    first, again = evaluate("dcnet_s"), evaluate("dcnet_s", out="again")
    for file in ("record.parquet", "panel.parquet"):
        assert sha256_of(first / file) == sha256_of(again / file)
    one = read_record(evaluate("dcnet_s", {"evaluate_photos.batch_size": 1}, out="one"))[0]
    whole = read_record(first)[0]
    for name in ("psnr_db", "ssim", "top1_pct"):
        assert one[name] == pytest.approx(whole[name], rel=1e-5)


def test_the_panel_shows_one_photo_of_each_class(evaluate: Evaluate) -> None:
    """The first photos of as many classes as there are, clean, noisy and restored, at the levels asked for."""
    rows, metadata = read_panel(evaluate("dcnet_s"))
    assert [(row["image"], row["label"], row["sigma"]) for row in rows] == [(0, 0, 0.5), (1, 1, 0.5), (2, 2, 0.5)]
    assert {len(row[name]) for row in rows for name in ("clean", "noisy", "restored")} == {3 * 32 * 32}
    assert metadata.classes == ("cat", "dog", "owl")
    clean, noisy = (np.frombuffer(rows[0][name], np.uint8).astype(float) for name in ("clean", "noisy"))
    assert 10 < np.abs(clean - noisy).mean() < 100
    assert read_panel(evaluate("unet_s", out="denoiser"))[0][0]["predicted"] is None


def test_first_photos_take_turns_between_classes() -> None:
    """One of each class before the second of any."""
    assert first_of_each_class([0, 0, 1, 1, 2], 3) == {0, 2, 4}
    assert first_of_each_class([0, 0, 1, 1, 2], 4) == {0, 1, 2, 4}
    assert first_of_each_class([1, 1], 5) == {0, 1}


def test_without_a_profile_the_net_is_timed_as_the_parameters_say(evaluate: Evaluate) -> None:
    """Batch of the parameters, size of the photos, nothing predicted."""
    latency = read_record(evaluate("c_nas", TIMED))[1].latency
    assert latency.measured is not None
    assert (latency.measured.batch, latency.measured.height, latency.measured.width) == (2, 32, 32)
    assert latency.measured.median_ms > 0
    assert (latency.setting, latency.profile_card, latency.predicted, latency.error_pct) == (None, None, None, None)


def test_with_a_profile_measured_and_predicted_are_of_one_setting(
    evaluate: Evaluate, tiny_profile: Path, settings: Callable[..., Params]
) -> None:
    """Batch, size and format are the profile's; the prediction is the predictor's; a simulated profile is not compared."""
    metadata = read_record(evaluate("c_nas", TIMED, profile=tiny_profile))[1]
    entries, profile = read_profile(tiny_profile)
    setting, latency = profile.setting, metadata.latency
    assert latency.measured is not None
    measured = latency.measured
    assert (measured.batch, measured.height, measured.width) == (setting.batch, setting.height, setting.width)
    assert (measured.precision, measured.memory_format) == (setting.precision, setting.memory_format)
    expected = predict_model(
        settings().photo_models["c_nas"], metadata.genotype, Predictor.of(entries, profile), setting
    )
    assert expected is not None
    assert latency.predicted is not None
    assert latency.predicted.ms == expected.ms
    assert (latency.setting, latency.profile_card) == (setting, profile.device)
    assert latency.not_comparable is not None
    assert "simulated" in latency.not_comparable
    assert latency.error_pct is None
    comparable = latency.model_copy(update={"not_comparable": None, "clock": "wall"})
    assert comparable.error_pct == pytest.approx(100 * (expected.ms / measured.median_ms - 1))


def test_a_net_outside_the_space_is_measured_and_not_predicted(evaluate: Evaluate, tiny_profile: Path) -> None:
    """A UNet has no parts in the profile: it is timed at its setting, and nothing is predicted."""
    latency = read_record(evaluate("unet_s", TIMED, profile=tiny_profile))[1].latency
    assert latency.predicted is None
    assert latency.measured is not None
    assert latency.measured.batch == read_profile(tiny_profile)[1].setting.batch


def test_weights_of_another_run_are_refused(evaluate: Evaluate, trained: Callable[[str], Path], tmp_path: Path) -> None:
    """Another model's folder, other weights than the log's, and missing ones end as corrupt artefacts, each named."""
    with pytest.raises(CorruptArtefactError, match="is of unet_s seed 0"):
        evaluate("dcnet_s", folder=trained("unet_s"))
    for name, content in (("none", None), ("other", b"x")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "log.parquet").write_bytes((trained("unet_s") / "log.parquet").read_bytes())
        if content is not None:
            (folder / "weights.safetensors").write_bytes(content)
        with pytest.raises(CorruptArtefactError, match=r"weights\.safetensors"):
            evaluate("unet_s", folder=folder)


def test_photos_of_other_classes_are_refused_though_they_are_as_many(
    evaluate: Evaluate, tiny_photos: Path, tmp_path: Path
) -> None:
    """Weights trained on cats, dogs and owls say nothing of three other kinds: the classes are compared by name."""
    table, metadata = read_parquet(tiny_photos / "test.parquet", PHOTOS, PhotosMetadata)
    other = with_metadata(PHOTOS, metadata.model_copy(update={"classes": ("cat", "dog", "yak")}))
    write_parquet(tmp_path / "photos/test.parquet", other, table.to_batches())
    with pytest.raises(
        CorruptArtefactError, match=r"trained on other classes than those of the test photos: owl .* yak"
    ):
        evaluate("unet_s", photos=tmp_path / "photos")


def test_another_size_than_that_of_training_is_refused(evaluate: Evaluate) -> None:
    """A score at another size would stand in the tables as that of the training's."""
    with pytest.raises(CorruptArtefactError, match=r"trained at 32x32 pixels; photo_view\.size is 48"):
        evaluate("unet_s", {"photo_view.size": 48})


def test_every_photo_is_decoded_once_for_all_levels_and_the_panel(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four photos to show are no reason to read the whole split again."""
    decoded: list[int] = []
    planes = PhotoStore._planes
    monkeypatch.setattr(PhotoStore, "_planes", lambda self, number: decoded.append(number) or planes(self, number))
    whole = PhotoStore.open
    monkeypatch.setattr(PhotoStore, "open", lambda paths, **how: whole(paths, **{**how, "memory_mb": 0}))
    folder = evaluate("dcnet_s", {"evaluate_photos.batch_size": 2})
    assert sorted(decoded) == list(range(5))
    assert [(row["image"], row["sigma"]) for row in read_panel(folder)[0]] == [(0, 0.5), (1, 0.5), (2, 0.5)]


def test_logits_of_a_photo_that_are_no_numbers_are_no_accuracy(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation ends instead, as on digits."""
    whole = Scorer._run

    def broken(self: Scorer, noisy: torch.Tensor) -> SpaceOutput:
        output = whole(self, noisy)
        assert output.logits is not None
        return SpaceOutput(output.restored, output.logits * float("nan"))

    monkeypatch.setattr(Scorer, "_run", broken)
    with pytest.raises(NumericalError, match=r"'correct' of 5 of 5 test images is no number"):
        evaluate("c_nas")
