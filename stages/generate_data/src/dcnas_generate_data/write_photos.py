"""Photographs of any source to the three photo splits."""

import os
import sys
from pathlib import Path

from dcnas_data.photo_sources import open_source
from dcnas_data.photos import write_photos
from dcnas_generate_data.write import making_card
from dcnas_harness.console import progress
from dcnas_harness.files import write_json
from dcnas_lineage.collect import collect_provenance
from dcnas_schema.params import digest_of
from dcnas_schema.photo_params import PhotosParams
from dcnas_schema.photos import PHOTO_SPLITS, PhotosMetadata

_MOST_THREADS = 16
_NAMED = 5
"""Refused files that are named on the console; the table's metadata names them all."""


def write_photo_splits(params: PhotosParams, out: Path) -> None:
    """Write `train.parquet`, `validation.parquet` and `test.parquet` into `out`, and `provenance.json`; say what was refused."""
    source = open_source(params)
    provenance = collect_provenance(
        stage="generate_photos",
        item="photos",
        params_sha256=digest_of(params),
        seed=params.seed,
        inputs=[Path(name).expanduser() for name in params.files] if params.source == "parquet" else (),
        device=making_card(),
    )
    total = sum(len(items) for items in source.splits.values())
    with progress(f"generate_data photos ({params.source})", total) as report:
        report.update(0)
        found = write_photos(source, params, out, threads=_threads(), report=report.update)
        report.update(total, ", ".join(f"{split} {found[split].images}" for split in PHOTO_SPLITS))
    write_json(out / "provenance.json", provenance.model_dump(mode="json"))
    for split in PHOTO_SPLITS:
        _say_refused(found[split])


def _threads() -> int:
    """Return how many threads decode: the result is the same for any number."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def _say_refused(metadata: PhotosMetadata) -> None:
    count = sum(metadata.refused.values())
    if count == 0:
        return
    reasons = ", ".join(f"{number} {reason}" for reason, number in metadata.refused.items())
    print(f"{metadata.split}: {count} pictures refused ({reasons})", file=sys.stderr)
    for file in metadata.refused_files[:_NAMED]:
        print(f"  {file.name}: {file.reason}", file=sys.stderr)
