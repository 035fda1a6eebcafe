"""The provenance that an artefact carries, whichever kind of file it is."""

from collections.abc import Callable
from pathlib import Path

from dcnas_lineage.records import read_genotype, read_record, read_search, read_training
from dcnas_schema.json_files import read_json_record
from dcnas_schema.latency import ENTRIES, ProfileMetadata
from dcnas_schema.parquet import read_parquet
from dcnas_schema.photo_records import ChosenGenotype
from dcnas_schema.provenance import Provenance
from dcnas_schema.search_log import ArchitectureRecord

_READERS: dict[str, Callable[[Path], Provenance]] = {
    "record.parquet": lambda path: read_record(path)[1].provenance,
    "log.parquet": lambda path: read_training(path).provenance,
    "genotype.json": lambda path: read_genotype(path).provenance,
    "architecture.json": lambda path: read_json_record(path, ArchitectureRecord).provenance,
    "search.parquet": lambda path: read_search(path)[1].provenance,
    "profile.parquet": lambda path: read_parquet(path, ENTRIES, ProfileMetadata)[1].provenance,
}
"""File name -> how to read the provenance that such a file carries."""


def provenance_of(path: Path) -> Provenance | None:
    """Return the provenance that a file carries; `None` for weights and data, whose own inputs are not walked."""
    if path.name in _READERS:
        return _READERS[path.name](path)
    return _of_chosen(path) if path.suffix == ".json" else None


def _of_chosen(path: Path) -> Provenance | None:
    """
    Return the provenance of FOLDER/MODEL/SEED.json, the genotype that was chosen for a model.

    The file has none, that of all stands in FOLDER; of its inputs those remain that this model's genotype comes from.
    """
    folder = path.parents[1]
    if not (folder / "provenance.json").is_file():
        return None
    chosen = read_json_record(path, ChosenGenotype)
    provenance = read_json_record(folder / "provenance.json", Provenance)
    search = f"/{chosen.search}/{chosen.search_seed}/"
    inputs = {
        source: sha256
        for source, sha256 in provenance.inputs.items()
        if search in f"/{source}" or (chosen.drawn is not None and source.endswith("profile.parquet"))
    }
    return provenance.model_copy(update={"inputs": inputs})
