"""
The pipeline stages of dvc.yaml as they are at one state of params.yaml: read without DVC, which takes a second to load.

As much of DVC's templating as this project uses: `matrix`, and `${...}` over params.yaml and `item`. What it does not know it refuses.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dcnas_harness.errors import BadInputError, DcnasError
from dcnas_harness.files import write_text
from dcnas_schema.params import parse_yaml
from dcnas_schema.run_record import record_path
from dcnas_schema.section import did_you_mean

PIPELINE, PARAMS = "dvc.yaml", "params.yaml"
_KEPT = ".scratch/lineage"
_VERSION = 1
_REFERENCE = re.compile(r"\$\{\s*([A-Za-z_][\w.-]*)\s*\}")
_UNKNOWN_KEYS = ("foreach", "do", "vars", "wdir")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineStage:
    """One pipeline stage with everything filled in."""

    name: str
    """With the item of a matrix: `retrain@unet_s-0`."""
    group: str
    """Its heading in dvc.yaml: `retrain`."""
    item: dict[str, Any]
    """What `item` stands for; empty where there is no matrix."""
    desc: str
    command: str
    deps: tuple[str, ...]
    params: dict[str, Any]
    """Dotted key -> value in params.yaml; `None` where there is none."""
    outs: tuple[str, ...]
    """Metrics and plots included, the run record too."""
    loose: tuple[str, ...]
    """Why DVC's word on the stage may be wrong: `frozen`, or an output that is kept (`persist`) or not cached."""
    meta: dict[str, Any]

    @property
    def record(self) -> str | None:
        """Where its run record lies; `None` where dvc.yaml has none among the outputs."""
        path = record_path(self.name)
        return path if path in self.outs else None


@dataclass(frozen=True)
class Pipeline:
    """All pipeline stages by name, in the order of dvc.yaml."""

    stages: Mapping[str, PipelineStage]

    def stage(self, name: str) -> PipelineStage:
        """
        Return a pipeline stage.

        Raises:
            BadInputError: There is none of this name.
        """
        if name not in self.stages:
            raise BadInputError(f"{PIPELINE} has no pipeline stage {name!r}{did_you_mean(name, self.stages)}.")
        return self.stages[name]

    @cached_property
    def makers(self) -> dict[str, str]:
        """Output path -> name of its pipeline stage."""
        return {out: stage.name for stage in self.stages.values() for out in stage.outs}

    def maker_of(self, path: str) -> str | None:
        """Return the stage that makes `path` or a folder above it; `None` for a file that is given."""
        return next((self.makers[p] for p in upwards(path) if p in self.makers), None)

    def upstream(self, name: str) -> tuple[str, ...]:
        """Return the stages that make what `name` reads, sorted."""
        return self._upstream[name]

    @cached_property
    def _upstream(self) -> dict[str, tuple[str, ...]]:
        inside: dict[str, set[str]] = {}
        for out, maker in self.makers.items():
            for folder in upwards(out):
                inside.setdefault(folder, set()).add(maker)
        found = {}
        for stage in self.stages.values():
            makers = {maker for dep in stage.deps for maker in inside.get(dep, ())}
            makers |= {above for dep in stage.deps if (above := self.maker_of(dep)) is not None}
            found[stage.name] = tuple(sorted(makers - {stage.name}))
        return found


def upwards(path: str) -> list[str]:
    """Return a path and all folders above it, the nearest first."""
    return [path, *(parent.as_posix() for parent in Path(path).parents if parent.as_posix() != ".")]


def load_pipeline(root: Path, *, keep: bool = False) -> Pipeline:
    """
    Return the pipeline of the project at `root`.

    Args:
        keep: Take what was found for the same bytes of both files from .scratch, or leave it there: parsing YAML takes 0.1 s.

    Raises:
        BadInputError: dvc.yaml or params.yaml is missing, no YAML, or uses what this reader does not know.
    """
    texts = []
    for name in (PIPELINE, PARAMS):
        try:
            texts.append((root / name).read_bytes())
        except OSError as error:
            raise BadInputError(
                f"{root / name} cannot be read: {error.strerror}.", remedy="cd into the clone"
            ) from error
    digest = hashlib.sha256(b"\0".join([str(_VERSION).encode(), *texts])).hexdigest()
    kept = root / _KEPT / f"pipeline-{digest[:32]}.json"
    if keep:
        with suppress(OSError, ValueError, TypeError, KeyError):  # missing or damaged: made anew
            return _thawed(json.loads(kept.read_bytes()))
    pipeline = resolve(*(text.decode("utf-8-sig", errors="replace") for text in texts), where=root)
    if keep:
        with suppress(DcnasError, OSError):  # a disk that cannot be written is for the stage to report
            write_text(kept, json.dumps([asdict(stage) for stage in pipeline.stages.values()]))
    return pipeline


def resolve(pipeline: str, params: str, *, where: Path = Path()) -> Pipeline:
    """
    Return the pipeline that the texts of dvc.yaml and params.yaml describe.

    Args:
        where: The folder that errors name.

    Raises:
        BadInputError: A text is no YAML, or uses what this reader does not know.
    """
    values = parse_yaml(params, where / PARAMS)
    described = parse_yaml(pipeline, where / PIPELINE)
    try:
        found = [stage for name, text in described["stages"].items() for stage in _stages(name, text, values)]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{where / PIPELINE} is not what this version can read: {error!r}.", remedy=f"git checkout {PIPELINE}"
        ) from error
    return Pipeline({stage.name: stage for stage in found})


def _thawed(stages: Any) -> Pipeline:
    tuples = ("deps", "outs", "loose")
    made = [PipelineStage(**{**stage, **{key: tuple(stage[key]) for key in tuples}}) for stage in stages]
    return Pipeline({stage.name: stage for stage in made})


def _stages(name: str, text: dict[str, Any], params: Any) -> Iterator[PipelineStage]:
    if unknown := [key for key in _UNKNOWN_KEYS if key in text]:
        raise BadInputError(f"{PIPELINE}, {name}: {unknown[0]} is not known here.", remedy="write it with matrix")
    if "matrix" not in text:
        yield _filled(name, name, {}, text, params)
        return
    lists = {key: _value(values, params, {}) for key, values in text["matrix"].items()}
    for combination in itertools.product(*lists.values()):
        item = dict(zip(lists, combination, strict=True))
        yield _filled(f"{name}@{'-'.join(_as_text(value) for value in combination)}", name, item, text, params)


def _filled(name: str, group: str, item: dict[str, Any], text: dict[str, Any], params: Any) -> PipelineStage:
    paths = {kind: [_path_and_flags(entry, params, item) for entry in text.get(kind, ())] for kind in _OUTPUTS}
    outs = [path for kind in _OUTPUTS for path in paths[kind]]
    loose = ["frozen"] if text.get("frozen") else []
    loose += [f"{path}: {flag}" for path, flags in outs for flag in flags]
    keys = [str(_value(key, params, item)) for key in text.get("params", ())]
    return PipelineStage(
        name=name,
        group=group,
        item=item,
        desc=str(text.get("desc", "")),
        command=str(_value(text.get("cmd", ""), params, item)),
        deps=tuple(path for path, _ in (_path_and_flags(entry, params, item) for entry in text.get("deps", ()))),
        params={key: _at(params, key) for key in keys},
        outs=tuple(path for path, _ in outs),
        loose=tuple(loose),
        meta=_value(text.get("meta", {}), params, item),
    )


_OUTPUTS = ("outs", "metrics", "plots")


def _path_and_flags(entry: Any, params: Any, item: dict[str, Any]) -> tuple[str, list[str]]:
    if not isinstance(entry, dict):
        return str(_value(entry, params, item)), []
    ((path, settings),) = entry.items()
    flags = [name for name, wrong in (("persist", True), ("cache", False)) if (settings or {}).get(name) is wrong]
    return str(_value(path, params, item)), ["persist" if flag == "persist" else "not cached" for flag in flags]


def _value(text: Any, params: Any, item: dict[str, Any]) -> Any:
    """Fill in every `${...}`; a text that is nothing else keeps the value's type, as in DVC."""
    if isinstance(text, dict):
        return {key: _value(value, params, item) for key, value in text.items()}
    if isinstance(text, list):
        return [_value(value, params, item) for value in text]
    if not isinstance(text, str):
        return text
    if whole := _REFERENCE.fullmatch(text.strip()):
        return _looked_up(whole.group(1), params, item)
    filled = _REFERENCE.sub(lambda match: _as_text(_looked_up(match.group(1), params, item)), text)
    if "${" in filled:
        raise BadInputError(f"{PIPELINE}: {text!r} holds a reference that is not known here.", remedy="write ${a.b}")
    return filled


def _looked_up(key: str, params: Any, item: dict[str, Any]) -> Any:
    values = {"item": item} if key.startswith("item.") else params
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            raise BadInputError(f"{PIPELINE} names ${{{key}}}, which {PARAMS} does not have.")
        values = values[part]
    return values


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, (dict, list)):
        raise BadInputError(f"{PIPELINE}: {value!r} cannot stand inside a text.", remedy="name a single value")
    return str(value)


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
