"""The typed form of params.yaml: one section per pipeline stage, and those that several read."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dcnas_harness.errors import BadInputError
from dcnas_schema.digit_params import (
    ClassifierSpec,
    DenoiserSpec,
    DeviceParams,
    DigitsParams,
    EvaluateParams,
    JointSpec,
    LatencyParams,
    LossParams,
    ModelSpec,
    NoiseParams,
    RetrainParams,
    RunsParams,
    SplitCounts,
    UNetSpec,
)
from dcnas_schema.photo_models import PhotoModelSpec, SpaceSpec
from dcnas_schema.photo_params import PhotosParams, PhotoViewParams
from dcnas_schema.photo_runs import (
    PhotoRunsParams,
    SearchRunsParams,
    require_models,
    require_photos,
    require_searches,
)
from dcnas_schema.photo_training import EvaluatePhotosParams, PhotoNoiseParams, RetrainPhotosParams
from dcnas_schema.profile_params import GateLimits, ProfileLatencyParams
from dcnas_schema.search_params import DeriveGenotypeParams, SearchSpec, SearchSupernetParams
from dcnas_schema.section import Name, Section, did_you_mean
from dcnas_schema.space import SMALLEST_INPUT

__all__ = [  # the sections too, so that their readers need not know which file describes them
    "ClassifierSpec",
    "DenoiserSpec",
    "DeviceParams",
    "DigitsParams",
    "EvaluateParams",
    "GateLimits",
    "GenerateDataParams",
    "JointSpec",
    "LatencyParams",
    "LossParams",
    "ModelSpec",
    "Name",
    "NoiseParams",
    "Params",
    "ProfileLatencyParams",
    "RetrainParams",
    "RunsParams",
    "Section",
    "SplitCounts",
    "TabulateParams",
    "UNetSpec",
    "digest_of",
    "load_params",
    "read_yaml",
    "require_model",
]


class GenerateDataParams(Section):
    """Section of the pipeline stage generate_data."""

    digits: DigitsParams
    photos: PhotosParams


class TabulateParams(Section):
    """Section of the pipeline stage tabulate."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    """Level of the intervals over seeds."""
    sizes: dict[Literal["S", "M", "L"], Name] = Field(default_factory=dict)
    """The paper's name of a target -> a search that aims at it, as `{L: noisy_l}`; empty: by their order, of two S and M, of one M."""


class Params(Section):
    """The whole of params.yaml."""

    preset: Name
    """Label of this setting in tables; `dcnas preset NAME` replaces params.yaml by a stored one."""
    device: DeviceParams
    noise: NoiseParams
    runs: RunsParams
    models: dict[Name, ModelSpec]
    generate_data: GenerateDataParams
    profile_latency: ProfileLatencyParams
    retrain: RetrainParams
    evaluate: EvaluateParams
    photo_view: PhotoViewParams
    photo_noise: PhotoNoiseParams
    search_runs: SearchRunsParams
    searches: dict[Name, SearchSpec]
    search_supernet: SearchSupernetParams
    derive_genotype: DeriveGenotypeParams
    photo_runs: PhotoRunsParams
    photo_models: dict[Name, PhotoModelSpec]
    retrain_photos: RetrainPhotosParams
    evaluate_photos: EvaluatePhotosParams
    tabulate: TabulateParams

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        for name in self.runs.models:
            if name not in self.models:
                raise ValueError(
                    f"runs.models names {name!r}, which models does not define{did_you_mean(name, self.models)}"
                )
        unknown = [sigma for sigma in self.evaluate.panel.sigmas if sigma not in self.noise.sigmas]
        if unknown:
            raise ValueError(f"evaluate.panel.sigmas has {unknown}, not in noise.sigmas {list(self.noise.sigmas)}")
        scenes = self.generate_data.digits.scenes
        for key, value, split, most in (
            ("retrain.batch_size", self.retrain.batch_size, "train", scenes.train),
            ("evaluate.panel.scenes", self.evaluate.panel.scenes, "test", scenes.test),
        ):
            if value > most:
                raise ValueError(f"{key} is {value}, more than generate_data.digits.scenes.{split}, which is {most}")
        return self

    @model_validator(mode="after")
    def _photos_fit(self) -> Self:
        unknown = [sigma for sigma in self.evaluate_photos.panel.sigmas if sigma not in self.photo_noise.sigmas]
        if unknown:
            raise ValueError(
                f"evaluate_photos.panel.sigmas has {unknown}, not in photo_noise.sigmas {list(self.photo_noise.sigmas)}"
            )
        if self.photo_view.size < SMALLEST_INPUT and any(
            isinstance(self.photo_models.get(name), SpaceSpec) for name in self.photo_runs.models
        ):
            raise ValueError(
                f"photo_view.size is {self.photo_view.size}: nets of the search space take {SMALLEST_INPUT} pixels or more"
            )
        require_searches(self.search_runs, self.searches, self.profile_latency)
        require_models(self.photo_runs, self.photo_models, self.search_runs, self.searches, self.profile_latency)
        both = ("train", "validation")
        batches = {
            "retrain_photos.batch_size": (self.retrain_photos.batch_size, both[:1]),
            "search_supernet.batch_size": (self.search_supernet.batch_size, both),
        }
        require_photos(self.generate_data.photos, batches)
        return self


def load_params(path: Path) -> Params:
    """
    Read and check params.yaml (YAML 1.2, as DVC reads it).

    Raises:
        BadInputError: The file is missing, not YAML, has unknown or repeated keys, wrong types or values out of range.
    """
    values = read_yaml(path)
    try:
        text = json.dumps(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path} holds what no parameter can be (a date, a binary, a set, a loop or deep nesting): {error}",
            remedy=f"write plain numbers, strings, lists and maps in {path.name}; presets/ holds valid ones",
        ) from error
    try:
        return Params.model_validate_json(text)
    except ValidationError as error:
        problems = "\n".join(f"  {path.name}: {_problem(detail)}" for detail in error.errors(include_url=False))
        raise BadInputError(
            f"{path} is not a valid parameter file:\n{problems}",
            remedy=f"correct {path.name}; presets/ holds valid ones",
        ) from error


def require_model(name: str, params: Params, *, on_photos: bool, where: Path) -> None:
    """
    Check that `params` describe a model, one on scenes or one on photos.

    Args:
        where: The file that the parameters stand in.

    Raises:
        BadInputError: There is none of that name.
    """
    section = "photo_models" if on_photos else "models"
    known = tuple(params.photo_models if on_photos else params.models)
    if name not in known:
        raise BadInputError(
            f"No model is named {name!r}.", where=f"{where}: {section}", remedy=f"known are {', '.join(known)}"
        )


def read_yaml(path: Path) -> Any:
    """
    Read a YAML 1.2 file.

    Raises:
        BadInputError: The file is missing, repeats a key or is not YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), path)
    except FileNotFoundError as error:
        raise BadInputError(f"{path} does not exist.", remedy="run: dcnas preset demo") from error
    except ValueError as error:  # bytes that are no text
        raise _no_yaml(path, error) from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.", remedy="put a params.yaml there") from error


def parse_yaml(text: str, path: Path) -> Any:
    """
    Return what a text in YAML 1.2 says.

    Args:
        path: The file that it is from, for errors.

    Raises:
        BadInputError: It repeats a key or is not YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise _no_yaml(path, error) from error


def _no_yaml(path: Path, error: Exception) -> BadInputError:
    return BadInputError(f"{path} cannot be read as YAML 1.2:\n{error}", remedy="correct the line named above")


def digest_of(value: BaseModel) -> str:
    """Return the SHA-256, in hex, of a section's canonical JSON."""
    canonical = json.dumps(value.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _problem(detail: Any) -> str:
    keys = _without_kind(detail["loc"])
    place = ".".join(keys) or "the file"
    value, message = detail["input"], detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{place}: unknown key{did_you_mean(keys[-1], _known_keys(keys[:-1]))}"
    if detail["type"] == "missing":
        return f"{place}: missing"
    if isinstance(value, dict):
        return f"{place}: {message}"
    return f"{place} = {value!r}: {message}"


def _without_kind(place: tuple[str | int, ...]) -> list[str]:
    """Return the keys of a place, without the model's kind, which pydantic puts behind the model's name."""
    return [str(key) for i, key in enumerate(place) if not (i == 2 and place[0] in ("models", "photo_models"))]


def _known_keys(path: list[str]) -> list[str]:
    found: list[Any] = [Params]
    for key in path:
        found = [inner for annotation in found for inner in _inside(annotation, key)]
    sections = [one for one in found if isinstance(one, type) and issubclass(one, Section)]
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _inside(annotation: Any, key: str) -> Iterator[Any]:
    """Yield the types that a value of type `annotation` may have at `key`."""
    if get_origin(annotation) is dict:
        yield from _alternatives(get_args(annotation)[1])
    elif isinstance(annotation, type) and issubclass(annotation, Section) and key in annotation.model_fields:
        yield from _alternatives(annotation.model_fields[key].annotation)


def _alternatives(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for one in get_args(annotation):
            yield from _alternatives(one)
    else:
        yield annotation
