"""Parameters of photographs: what does not fit together is refused, and the message says what to give."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from dcnas_schema.photo_params import PhotosParams, PhotoViewParams

PHOTOS: dict[str, Any] = {
    "source": "demo",
    "root": None,
    "files": [],
    "columns": None,
    "train_list": None,
    "validation_list": None,
    "size": 64,
    "encoding": "png",
    "validation_share": 0.2,
    "test_share": 0.2,
    "most": {"train": 8, "validation": 2, "test": 2},
    "most_classes": None,
    "seed": 0,
}
VIEW: dict[str, Any] = {
    "size": 64,
    "scale": [0.08, 1.0],
    "ratio": [0.75, 1.3333],
    "flip": 0.5,
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    "centre_share": 0.875,
    "memory_mb": 2000,
}


def test_plain_values_are_read() -> None:
    """Lists become tuples; everything else is as written."""
    params = PhotosParams.model_validate_json(json.dumps(PHOTOS))
    assert params.most is not None
    assert (params.source, params.files, params.most.train) == ("demo", (), 8)
    assert PhotoViewParams.model_validate_json(json.dumps(VIEW)).scale == (0.08, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "image_folder"}, "root is empty: source image_folder needs it"),
        ({"source": "imagenet100"}, "root is empty: source imagenet100 needs it"),
        ({"source": "parquet", "columns": {"image": "i", "label": "l", "split": None, "name": None}}, "files is empty"),
        ({"source": "parquet", "files": ["a"]}, "columns is empty"),
        ({"most": None}, "most is empty: source demo needs it"),
        ({"train_list": "a"}, "give both or neither"),
        ({"train_list": "a", "validation_list": "b"}, "train_list belongs to source imagenet100"),
        ({"most_classes": 17}, "most_classes is 17: the demo set has 16 photographs"),
        ({"most_classes": 1}, "greater than or equal to 2"),
        ({"size": 4}, "greater than or equal to 8"),
        ({"validation_share": 1.0}, "less than 1"),
        ({"test_share": 0.0}, "greater than 0"),
        ({"source": "web"}, "Input should be 'demo'"),
        ({"download": True}, "Extra inputs are not permitted"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    """Each source needs its own keys; counts and shares have bounds; nothing downloads."""
    with pytest.raises(ValidationError, match=message):
        PhotosParams.model_validate_json(json.dumps({**PHOTOS, **change}))


@pytest.mark.parametrize(
    "change", [{"scale": [0.5, 0.4]}, {"scale": [0.0, 1.0]}, {"ratio": [2.0, 1.0]}, {"centre_share": 0}]
)
def test_empty_ranges_are_refused(change: dict[str, Any]) -> None:
    """A range that begins beyond its end, or at nothing."""
    with pytest.raises(ValidationError):
        PhotoViewParams.model_validate_json(json.dumps({**VIEW, **change}))
