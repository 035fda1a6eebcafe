"""Records on photos and results of searches that params.yaml names, read and checked before anything is written."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from dcnas_harness.errors import CorruptArtefactError
from dcnas_lineage.records import read_genotype, read_record, read_search
from dcnas_schema.parquet import read_metadata, read_parquet
from dcnas_schema.photo_records import PHOTO_PANEL, PhotoEvaluationMetadata, PhotoPanelMetadata
from dcnas_schema.photos import PHOTO_SPLITS, PhotosMetadata
from dcnas_schema.search_log import DerivedGenotype, SearchMetadata
from dcnas_tabulate.photo_layout import PhotoRun, PhotoTables, labels_of
from dcnas_tabulate.records import require_one_protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRun:
    """What one search ended with, one seed."""

    search: str
    seed: int
    log: Path
    genotype: Path
    metadata: SearchMetadata
    derived: DerivedGenotype


def read_photo_runs(settings: PhotoTables, records: Path) -> list[PhotoRun]:
    """
    Return the runs that params.yaml names; records of others are named and left out, missing ones count as failed.

    Raises:
        CorruptArtefactError: A record is damaged, of another run or of another model; records differ in protocol; there is none.
    """
    runs, expected = [], set()
    labels = labels_of({model: settings.models[model] for model in settings.run_models}, settings.book)
    for model in settings.run_models:
        found: list[tuple[int, Path, PhotoEvaluationMetadata]] = []
        for seed in settings.seeds:
            path = records / model / str(seed) / "record.parquet"
            expected.add(path)
            if path.is_file():
                found.append((seed, path, _checked(path, model, seed, settings)))
        runs.append(
            PhotoRun(
                model=model,
                label=labels[model],
                spec=settings.models[model],
                seeds=tuple(seed for seed, _, _ in found),
                paths=tuple(path for _, path, _ in found),
                metadata=tuple(metadata for _, _, metadata in found),
                wanted=len(settings.seeds),
            )
        )
    if not any(run.paths for run in runs):
        raise CorruptArtefactError(
            f"No record of the models in photo_runs of params.yaml is in {records}.", remedy="run: dvc repro"
        )
    _say_left_out(records.glob("*/*/record.parquet"), expected, "photo_runs")
    require_one_protocol((p, _protocol(p, m)) for run in runs for p, m in zip(run.paths, run.metadata, strict=True))
    return runs


def read_search_runs(settings: PhotoTables, searches: Path, genotypes: Path) -> list[SearchRun]:
    """
    Return the results of the searches that params.yaml names, those that are there, seed by seed.

    Raises:
        CorruptArtefactError: A log or genotype is damaged, of another search, or one of the two is missing.
    """
    runs, expected = [], set()
    for search in settings.run_searches:
        for seed in settings.search_seeds:
            log = searches / search / str(seed) / "search.parquet"
            genotype = genotypes / search / str(seed) / "genotype.json"
            expected.add(log)
            if not log.is_file() and not genotype.is_file():
                continue
            metadata, derived = read_search(log)[1], read_genotype(genotype)
            for path, found in ((log, metadata), (genotype, derived)):
                _require_same_search(path, found, search, seed, settings)
            runs.append(
                SearchRun(search=search, seed=seed, log=log, genotype=genotype, metadata=metadata, derived=derived)
            )
    _say_left_out(searches.glob("*/*/search.parquet"), expected, "search_runs")
    return runs


def read_photo_splits(photos: Path) -> dict[str, PhotosMetadata]:
    """Return what each split of the photo set says of itself; raises CorruptArtefactError where one is missing or damaged."""
    return {split: read_metadata(photos / f"{split}.parquet", PhotosMetadata) for split in PHOTO_SPLITS}


@cache
def read_photo_panel(record: Path) -> tuple[list[dict[str, Any]], PhotoPanelMetadata]:
    """
    Return rows and metadata of the panel that was written beside a record.

    Raises:
        CorruptArtefactError: It is damaged, empty, or of another run than the record.
    """
    path = record.with_name("panel.parquet")
    table, metadata = read_parquet(path, PHOTO_PANEL, PhotoPanelMetadata)
    rows: list[dict[str, Any]] = pa.Table.to_pylist(table)
    made = read_record(record)[1]
    if not rows or (metadata.model, metadata.seed) != (made.model, made.seed):
        raise CorruptArtefactError(
            f"{path} shows {len(rows)} photos of {metadata.model} seed {metadata.seed}, its record is of {made.model} seed {made.seed}.",
            remedy="run: dvc repro",
        )
    return rows, metadata


def _checked(path: Path, model: str, seed: int, settings: PhotoTables) -> PhotoEvaluationMetadata:
    """Return the metadata of a record, which must be of this model, seed and description."""
    metadata = read_record(path)[1]
    again = f"delete {path.parent}, then run: dvc repro"
    if not isinstance(metadata, PhotoEvaluationMetadata):
        raise CorruptArtefactError(f"{path} is the record of a model on digits, not on photos.", remedy=again)
    if (metadata.model, metadata.seed) != (model, seed):
        raise CorruptArtefactError(
            f"{path} is the record of {metadata.model} seed {metadata.seed}, not of {model} seed {seed}.", remedy=again
        )
    if metadata.spec != settings.models[model]:
        raise CorruptArtefactError(
            f"{path} is of another {model} than that of params.yaml: {metadata.spec} against {settings.models[model]}.",
            remedy="run: dvc repro",
        )
    return metadata


def _require_same_search(
    path: Path, found: SearchMetadata | DerivedGenotype, search: str, seed: int, settings: PhotoTables
) -> None:
    if (found.search, found.seed, found.spec) != (search, seed, settings.searches[search]):
        raise CorruptArtefactError(
            f"{path} is of the search {found.search} seed {found.seed} ({found.spec}), "
            f"not of {search} seed {seed} as params.yaml describes it ({settings.searches[search]}).",
            remedy="run: dvc repro",
        )


def _say_left_out(found: Iterable[Path], expected: set[Path], section: str) -> None:
    for path in sorted(set(found) - expected):
        print(
            f"left out: {path.parent} is not in {section} of params.yaml; `dcnas prune` removes such folders",
            flush=True,
        )


def _protocol(path: Path, metadata: PhotoEvaluationMetadata) -> dict[str, object]:
    """Return what records that share a table must have in common; precision may differ, for devices do: latencies have columns by it."""
    measured = metadata.latency.measured
    common: dict[str, object] = {
        **metadata.protocol.model_dump(exclude={"precision"}),
        "test photos": read_record(path)[0]["images"][0].as_py(),
        "image size": metadata.image_size,
        "classes": metadata.classes,
    }
    if measured is not None:  # a record without one stands beside any
        common |= {"size of latency": (measured.height, measured.width), "batch of latency": measured.batch}
    return common
