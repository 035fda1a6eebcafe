"""Source digits to tables of scenes."""

import os
import platform
from pathlib import Path

from dcnas_data.scenes import compose_scenes
from dcnas_data.sources import load_digits
from dcnas_harness.console import progress
from dcnas_harness.files import write_json
from dcnas_lineage.collect import collect_provenance
from dcnas_schema.params import DigitsParams, digest_of
from dcnas_schema.parquet import with_metadata, write_parquet
from dcnas_schema.provenance import DeviceCard
from dcnas_schema.scenes import SPLITS, ScenesMetadata, scenes_schema


def write_splits(digits: DigitsParams, out: Path) -> None:
    """Write `train.parquet`, `validation.parquet` and `test.parquet` into `out`, each from its own source digits, and `provenance.json`."""
    sources = load_digits(digits)
    with progress(f"generate_data {digits.source}", len(SPLITS)) as report:
        for done, split in enumerate(SPLITS, start=1):
            count = getattr(digits.scenes, split)
            metadata = ScenesMetadata(
                split=split,
                source=digits.source,
                source_digits=len(sources[split].labels),
                scenes=count,
                size=digits.size,
                seed=digits.seed,
                background=digits.background,
            )
            batches = compose_scenes(
                sources[split],
                split=split,
                count=count,
                size=digits.size,
                background=digits.background,
                seed=digits.seed,
            )
            write_parquet(out / f"{split}.parquet", with_metadata(scenes_schema(digits.size), metadata), batches)
            report.update(done, f"{split}: {count} scenes")
    provenance = collect_provenance(
        stage="generate_data",
        item="digits",
        params_sha256=digest_of(digits),
        seed=digits.seed,
        inputs=(),
        device=making_card(),
    )
    write_json(out / "provenance.json", provenance.model_dump(mode="json"))


def making_card() -> DeviceCard:
    """Return the card of the machine that makes data: the result depends on no device."""
    return DeviceCard(
        kind="cpu",
        name=platform.machine(),
        cores=os.cpu_count() or 1,
        threads=1,
        python=platform.python_version(),
        torch="not used",
        system=f"{platform.system()} {platform.machine()}",
    )
