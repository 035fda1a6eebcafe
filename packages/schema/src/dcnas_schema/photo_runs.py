"""Which searches and which models on photos run, with which seeds; and what must hold between their sections of params.yaml."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from dcnas_schema.photo_models import PhotoModelSpec, RandomChoice, SpaceSpec
from dcnas_schema.photo_params import DEMO_CLASSES, PhotosParams
from dcnas_schema.profile_params import ProfileLatencyParams
from dcnas_schema.search_params import SearchSpec
from dcnas_schema.section import Name, Section, Seed, did_you_mean


class SearchRunsParams(Section):
    """Which searches run, and with which seeds."""

    searches: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _require_distinct(searches=self.searches, seeds=self.seeds)
        return self

    def seed_for(self, model_seed: int) -> int:
        """Return the seed of the search whose genotype a model of `model_seed` takes: its own where that search runs, else in turn."""
        return model_seed if model_seed in self.seeds else self.seeds[model_seed % len(self.seeds)]


class PhotoRunsParams(Section):
    """Which models of `photo_models` run, and with which seeds; what does not run is shown as left out."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        _require_distinct(models=self.models, seeds=self.seeds)
        return self


def require_searches(runs: SearchRunsParams, searches: Mapping[str, SearchSpec], profile: ProfileLatencyParams) -> None:
    """
    Check that every search that runs is described, and that the latency profile serves it.

    Raises:
        ValueError: One does not; keys and values are named.
    """
    for name in runs.searches:
        if name not in searches:
            raise ValueError(
                f"search_runs.searches names {name!r}, which searches does not define{did_you_mean(name, searches)}"
            )
        spec = searches[name]
        if spec.ops > profile.ops:
            raise ValueError(
                f"searches.{name}.ops is {spec.ops}, more than the {profile.ops} that profile_latency.ops covers"
            )
        if spec.target.to is not None and spec.target.to not in profile.references:
            raise ValueError(
                f"searches.{name}.target is relative to {spec.target.to}, which profile_latency.references "
                f"{list(profile.references)} does not name: add it there, or give the target in ms, or as reach"
            )


def require_models(
    runs: PhotoRunsParams,
    models: Mapping[str, PhotoModelSpec],
    search_runs: SearchRunsParams,
    searches: Mapping[str, SearchSpec],
    profile: ProfileLatencyParams,
) -> None:
    """
    Check that every model that runs is described, that the search it takes its genotype from runs, and that those of others exist.

    Raises:
        ValueError: One does not; keys and values are named.
    """
    for name in runs.models:
        if name not in models:
            raise ValueError(
                f"photo_runs.models names {name!r}, which photo_models does not define{did_you_mean(name, models)}"
            )
    for name, spec in models.items():
        if not isinstance(spec, SpaceSpec):
            continue
        search = spec.named_search
        if search is not None and search not in searches:
            raise ValueError(
                f"photo_models.{name} names the search {search!r}, which searches does not define{did_you_mean(search, searches)}"
            )
        if name not in runs.models:
            continue
        if search is not None and search not in search_runs.searches:
            raise ValueError(
                f"photo_models.{name} runs on the search {search!r}, which search_runs.searches leaves out: "
                f"{', '.join(search_runs.searches)}"
            )
        _require_ops(name, spec.random, profile)


def require_photos(photos: PhotosParams, batch_sizes: Mapping[str, tuple[int, tuple[str, ...]]]) -> None:
    """
    Check that no batch takes more photos than a split holds, where the parameters tell how many it holds.

    Args:
        batch_sizes: Key -> batch size and the splits that are read in such batches.

    Raises:
        ValueError: One does; keys and values are named.
    """
    if photos.source != "demo" or photos.most is None:
        return
    classes = photos.most_classes or DEMO_CLASSES
    for key, (size, splits) in batch_sizes.items():
        for split in splits:
            held = classes * getattr(photos.most, split)
            if size > held:
                raise ValueError(
                    f"{key} is {size}, more than the {held} photos that generate_data.photos gives {split}"
                )


def _require_ops(name: str, choice: RandomChoice | None, profile: ProfileLatencyParams) -> None:
    if choice is not None and choice.ops > profile.ops:
        raise ValueError(
            f"photo_models.{name}.random.ops is {choice.ops}, more than the {profile.ops} that profile_latency.ops covers"
        )


def _require_distinct(**lists: tuple[object, ...]) -> None:
    for key, values in lists.items():
        if len(set(values)) != len(values):
            raise ValueError(f"{key} repeat: {list(values)}")
