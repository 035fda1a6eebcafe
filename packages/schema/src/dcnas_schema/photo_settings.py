"""The sections of params.yaml that training and evaluating on photos reads, checked before anything runs."""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from dcnas_harness.errors import BadInputError
from dcnas_schema.params import DeviceParams, Name, Section, read_yaml
from dcnas_schema.photo_models import PhotoModelSpec
from dcnas_schema.photo_params import PhotoViewParams
from dcnas_schema.photo_training import EvaluatePhotosParams, PhotoNoiseParams, RetrainPhotosParams


class PhotoSettings(Section):
    """Sections of params.yaml, by their names there."""

    device: DeviceParams
    photo_view: PhotoViewParams
    photo_noise: PhotoNoiseParams
    photo_models: dict[Name, PhotoModelSpec]
    retrain_photos: RetrainPhotosParams
    evaluate_photos: EvaluatePhotosParams

    @model_validator(mode="after")
    def _panel_levels_exist(self) -> Self:
        unknown = [sigma for sigma in self.evaluate_photos.panel.sigmas if sigma not in self.photo_noise.sigmas]
        if unknown:
            raise ValueError(
                f"evaluate_photos.panel.sigmas has {unknown}, not in photo_noise.sigmas {list(self.photo_noise.sigmas)}"
            )
        return self

    def model_named(self, name: str, *, where: Path) -> PhotoModelSpec:
        """
        Return the description of a model.

        Raises:
            BadInputError: There is none of that name.
        """
        if name not in self.photo_models:
            raise BadInputError(
                f"No photo model is named {name!r}.",
                where=f"{where}: photo_models",
                remedy=f"known are {', '.join(self.photo_models)}",
            )
        return self.photo_models[name]


def load_photo_settings(path: Path) -> PhotoSettings:
    """
    Read the sections from params.yaml; others that stand there are left alone.

    Raises:
        BadInputError: The file is missing or not YAML, or a section is missing or has unknown keys, wrong types or values out of range.
    """
    values = read_yaml(path)
    sections = {name: values[name] for name in PhotoSettings.model_fields if name in (values or {})}
    try:
        return PhotoSettings.model_validate_json(json.dumps(sections))
    except ValidationError as error:
        problems = "\n".join(f"  {path.name}: {_problem(detail)}" for detail in error.errors(include_url=False))
        raise BadInputError(
            f"{path} does not describe models on photos:\n{problems}",
            remedy=f"correct {path.name}; presets/ holds valid ones",
        ) from error


def _problem(detail: Any) -> str:
    place = ".".join(str(key) for key in detail["loc"]) or "the file"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    if detail["type"] == "missing":
        return f"{place}: missing"
    if isinstance(detail["input"], dict):
        return f"{place}: {message}"
    return f"{place} = {detail['input']!r}: {message}"
