"""The records and panels that params.yaml names, read and checked before anything is written."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from dcnas_harness.errors import CorruptArtefactError
from dcnas_lineage.records import read_record
from dcnas_schema.params import ModelSpec, Params
from dcnas_schema.parquet import read_parquet
from dcnas_schema.records import PANEL, EvaluationMetadata, PanelMetadata
from dcnas_tabulate.layout import Run, row_labels


def read_runs(params: Params, records: Path) -> list[Run]:
    """
    Return the runs that params.yaml names; records of others are named and left out, missing ones count as failed.

    Raises:
        CorruptArtefactError: A record or panel is damaged, of another run or of another model; records differ in protocol; there is none.
    """
    runs, expected = [], set()
    labels = row_labels({model: params.models[model] for model in params.runs.models})
    for model in params.runs.models:
        found: list[tuple[int, Path, EvaluationMetadata]] = []
        for seed in params.runs.seeds:
            path = records / model / str(seed) / "record.parquet"
            expected.add(path)
            if path.is_file():
                found.append((seed, path, _checked(path, model, seed, params.models[model])))
        runs.append(
            Run(
                model=model,
                label=labels[model],
                spec=params.models[model],
                seeds=tuple(seed for seed, _, _ in found),
                paths=tuple(path for _, path, _ in found),
                metadata=tuple(metadata for _, _, metadata in found),
                wanted=len(params.runs.seeds),
            )
        )
    if not any(run.paths for run in runs):
        raise CorruptArtefactError(f"No record of the models in params.yaml is in {records}.", remedy="run: dvc repro")
    for path in sorted(set(records.glob("*/*/record.parquet")) - expected):
        print(f"left out: {path.parent} is not in runs of params.yaml; `dcnas prune` removes such folders", flush=True)
    require_one_protocol((p, _protocol(p, m)) for run in runs for p, m in zip(run.paths, run.metadata, strict=True))
    return runs


def read_panel(record: Path) -> list[dict[str, Any]]:
    """Return the rows of the panel that was written beside a record."""
    return _read_panel(record.with_name("panel.parquet"))[0]


def scene_size(record: Path) -> tuple[int, int]:
    """Return height and width in pixels of the scenes that a record scores, as the panel beside it shows them."""
    first = read_panel(record)[0]
    return first["height"], first["width"]


@cache
def _read_panel(path: Path) -> tuple[list[dict[str, Any]], PanelMetadata]:
    table, metadata = read_parquet(path, PANEL, PanelMetadata)
    rows: list[dict[str, Any]] = pa.Table.to_pylist(table)
    if not rows:
        raise CorruptArtefactError(f"{path} shows no scene.", remedy="run: dvc repro")
    return rows, metadata


def _checked(path: Path, model: str, seed: int, spec: ModelSpec) -> EvaluationMetadata:
    """Return the metadata of a record, which with the panel beside it must be of this model, seed and architecture."""
    panel_path = path.with_name("panel.parquet")
    metadata, panel = read_record(path)[1], _read_panel(panel_path)[1]
    again = f"run: dvc repro --force --single-item evaluate@{model}-{seed}"
    if not isinstance(metadata, EvaluationMetadata):
        raise CorruptArtefactError(f"{path} is the record of a model on photos, not on digits.", remedy=again)
    both: tuple[tuple[Path, str, EvaluationMetadata | PanelMetadata], ...]
    both = ((path, "record", metadata), (panel_path, "panel", panel))
    for where, kind, found in both:
        if (found.model, found.seed) != (model, seed):
            raise CorruptArtefactError(
                f"{where} is the {kind} of {found.model} seed {found.seed}, not of {model} seed {seed}.", remedy=again
            )
    if metadata.spec != spec:
        raise CorruptArtefactError(
            f"{path} is of another {model} than that of params.yaml: {metadata.spec} against {spec}.",
            remedy="run: dvc repro",
        )
    return metadata


def require_one_protocol(protocols: Iterable[tuple[Path, Mapping[str, object]]]) -> None:
    """
    Check that records which share tables were measured alike.

    Args:
        protocols: Path of each record, and what it must have in common with those that have it too.

    Raises:
        CorruptArtefactError: Two differ; both files and the differences are named.
    """
    first: Path | None = None
    known: dict[str, object] = {}
    for path, protocol in protocols:
        first = first or path
        unlike = [
            f"{name} {value} against {known[name]}"
            for name, value in protocol.items()
            if value != known.get(name, value)
        ]
        if unlike:
            raise CorruptArtefactError(
                f"{path} was measured by another protocol than {first}: {'; '.join(unlike)}.", remedy="run: dvc repro"
            )
        known |= protocol


def _protocol(path: Path, metadata: EvaluationMetadata) -> dict[str, object]:
    """Return what records that share a table must have in common; precision may differ, for devices do: latencies have columns by it."""
    cost, latency = metadata.cost, metadata.latency
    common: dict[str, object] = {
        **metadata.protocol.model_dump(exclude={"precision"}),
        "test scenes": read_record(path)[0]["images"][0].as_py(),
        "scene size": scene_size(path),
        "size of cost": (cost.height, cost.width),
        "levels of the panel": tuple(row["sigma"] for row in read_panel(path) if row["scene"] == 0),
    }
    if latency is not None:  # a record without one stands beside any
        common |= {"size of latency": (latency.height, latency.width), "batch of latency": latency.batch}
    return common
