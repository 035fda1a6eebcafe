"""Reading what cells are derived from: evaluation records of digits and of photos, derived genotypes, search logs; each file once."""

from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dcnas_schema.json_files import read_json_record
from dcnas_schema.parquet import read_parquet
from dcnas_schema.photo_records import (
    PHOTO_RECORD,
    PHOTO_TRAINING_LOG,
    PhotoEvaluationMetadata,
    PhotoTrainingMetadata,
)
from dcnas_schema.records import RECORD, TRAINING_LOG, EvaluationMetadata, MeasuredLatency, TrainingMetadata
from dcnas_schema.search_log import SEARCH_LOG, DerivedGenotype, SearchMetadata

AnyEvaluation = EvaluationMetadata | PhotoEvaluationMetadata


@cache
def read_record(path: Path) -> tuple[pa.Table, AnyEvaluation]:
    """Return an evaluation record, of digits or of photos as its columns tell; each file is read once a process."""
    if _has_column(path, "top5_pct"):
        return read_parquet(path, PHOTO_RECORD, PhotoEvaluationMetadata)
    return read_parquet(path, RECORD, EvaluationMetadata)


@cache
def read_training(path: Path) -> TrainingMetadata | PhotoTrainingMetadata:
    """Return what a training log, of digits or of photos, says of itself."""
    if _has_column(path, "validation_top5_pct"):
        return read_parquet(path, PHOTO_TRAINING_LOG, PhotoTrainingMetadata)[1]
    return read_parquet(path, TRAINING_LOG, TrainingMetadata)[1]


@cache
def read_search(path: Path) -> tuple[pa.Table, SearchMetadata]:
    """Return a search log; each file is read once a process."""
    return read_parquet(path, SEARCH_LOG, SearchMetadata)


@cache
def read_genotype(path: Path) -> DerivedGenotype:
    """Return what derive_genotype wrote; each file is read once a process."""
    return read_json_record(path, DerivedGenotype)


def forget() -> None:
    """Have every file read anew."""
    for read in (read_record, read_training, read_search, read_genotype):
        read.cache_clear()


def measured_of(metadata: AnyEvaluation) -> MeasuredLatency | None:
    """Return the latency that a record measured; `None` where it did not."""
    return metadata.latency.measured if isinstance(metadata, PhotoEvaluationMetadata) else metadata.latency


def net_of(metadata: AnyEvaluation) -> str:
    """Return what tells one net from another as far as its work is concerned: the model, and its genotype where it has one."""
    genotype = metadata.genotype if isinstance(metadata, PhotoEvaluationMetadata) else None
    return metadata.model if genotype is None else f"{metadata.model} {genotype.model_dump_json()}"


def _has_column(path: Path, name: str) -> bool:
    """Return whether a table has a column; false too where it cannot be read, which its reader will say better."""
    try:
        return name in pq.read_schema(path).names
    except (pa.ArrowException, OSError, ValueError):
        return False
