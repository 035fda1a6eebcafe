"""Models on photos as params.yaml describes them: what is accepted, and how a slip is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from dcnas_harness.errors import BadInputError
from dcnas_schema.params import load_params, require_model
from dcnas_schema.photo_models import PhotoModelSpec, images_of, task_of
from dcnas_schema.photo_records import PHOTO_RECORD, PHOTO_TRAINING_LOG
from dcnas_schema.records import RECORD, TRAINING_LOG

UNET = {"depth": 4, "base": 8, "multiplier": 1.5, "convs": 2}
TASKS = [
    ({"kind": "c_nas", "search": "s"}, "classify"),
    ({"kind": "c_nas", "search": "s", "images": "clean"}, "classify"),
    ({"kind": "d_nas", "search": "s", "decoder": "three_layers"}, "denoise"),
    ({"kind": "dc_nas", "random": {"like": "s", "ops": 8}, "decoder": "one_operator", "epochs": 3}, "both"),
    ({"kind": "dc_nas_seq", "uniform": {"op": "k5_e6_se", "expand_ratio": 6.0}}, "both"),
    ({"kind": "efficientnetv2_b1"}, "classify"),
    ({"kind": "lpienet", "width": "0.5x"}, "denoise"),
    ({"kind": "unet", "unet": UNET}, "denoise"),
    ({"kind": "dc_net", "unet": UNET}, "both"),
]


def parse(values: dict[str, Any]) -> PhotoModelSpec:
    """Return the spec of plain values."""
    spec: PhotoModelSpec = TypeAdapter(PhotoModelSpec).validate_python(values)
    return spec


@pytest.mark.parametrize(("values", "task"), TASKS)
def test_every_kind_of_model_is_read_and_has_its_task(values: dict[str, Any], task: str) -> None:
    """The kind decides what a model does; only classifiers may be trained on clean images; written out it reads back the same."""
    spec = parse(values)
    assert task_of(spec) == task
    assert images_of(spec) == values.get("images", "noisy")
    assert parse(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "c_nas"}, "one of search, uniform and random, has none"),
        ({"kind": "c_nas", "search": "s", "random": {"like": "s", "ops": 4}}, "has search and random"),
        ({"kind": "dc_nas", "random": {"ops": 4}}, "either like or target_ms"),
        ({"kind": "dc_nas", "random": {"ops": 4, "like": "s", "target_ms": 1.0}}, "either like or target_ms"),
        ({"kind": "c_nas", "uniform": {"op": "k3_e3", "expand_ratio": 6.0}}, "outside the space"),
        ({"kind": "d_nas", "search": "s", "images": "clean"}, "Extra inputs"),
        ({"kind": "dc_nas", "search": "s", "decoder": "two_layers"}, "'three_layers'"),
        ({"kind": "lpienet", "width": 0.5}, "'0.5x'"),
        ({"kind": "resnet50"}, "'resnet18'"),
        ({"kind": "unet"}, "Field required"),
    ],
)
def test_slips_in_a_model_are_named(values: dict[str, Any], message: str) -> None:
    """Each slip is refused with a message that says what is expected."""
    with pytest.raises(ValidationError, match=message):
        parse(values)


def test_an_unknown_model_is_answered_with_the_known(tmp_path: Path, write_photo_params: Callable[..., Path]) -> None:
    """A model on photos is found by its name; an unknown one, or one on scenes, is refused with the known ones."""
    path = write_photo_params(tmp_path / "params.yaml")
    settings = load_params(path)
    require_model("unet_s", settings, on_photos=True, where=path)
    for name in ("unet_x", "classifier_conv_clean"):
        with pytest.raises(BadInputError, match=rf"'{name}'(.|\n)*photo_models(.|\n)*unet_s"):
            require_model(name, settings, on_photos=True, where=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrain_photos.batch_size": 1}, r"retrain_photos\.batch_size = 1"),
        ({"retrain_photos.momentum": 1.0}, r"retrain_photos\.momentum = 1\.0"),
        ({"retrain_photos.rate": 1.0}, r"retrain_photos\.rate: unknown key"),
        ({"retrain_photos.loss.charbonnier": 0.0, "retrain_photos.loss.ssim": 0.0}, "charbonnier and ssim are both 0"),
        ({"photo_noise.sigmas": [0.5, 0.5]}, "noise levels repeat"),
        ({"evaluate_photos.panel.sigmas": [0.3]}, r"evaluate_photos\.panel\.sigmas has \[0\.3\]"),
        ({"photo_models.unet_s": {"kind": "unet"}}, r"photo_models\.unet_s\.unet: missing"),
    ],
    ids=str,
)
def test_slips_in_a_section_are_named(
    tmp_path: Path, write_photo_params: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    """Each slip ends as bad input that names key and value."""
    with pytest.raises(BadInputError, match=message):
        load_params(write_photo_params(tmp_path / "params.yaml", changes))


@pytest.mark.parametrize(("ours", "base"), [(PHOTO_RECORD, RECORD), (PHOTO_TRAINING_LOG, TRAINING_LOG)])
def test_tables_of_photos_have_the_columns_of_scenes_first(ours: pa.Schema, base: pa.Schema) -> None:
    """What reads a column of a scene's table reads the photo's by the same name and type; one column comes after them."""
    assert ours.names[: len(base.names)] == base.names
    assert [field.type for field in ours][: len(base.names)] == [field.type for field in base]
    assert len(ours.names) == len(base.names) + 1
