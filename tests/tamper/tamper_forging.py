"""How a forger works: bytes changed, and everything made to agree that is to agree."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dcnas_harness.files import md5_of, sha256_of
from dcnas_lineage.hashing import Hasher
from dcnas_schema.params import read_yaml
from dcnas_schema.run_record import RunRecord, record_path

MODEL = "dcnet_reduced_integrated"
RETRAIN, EVALUATE = f"retrain@{MODEL}-0", f"evaluate@{MODEL}-0"
WEIGHTS = f"data/retrain/{MODEL}/0/weights.safetensors"
OTHER_WEIGHTS = f"data/retrain/{MODEL}/1/weights.safetensors"
RECORD, OTHER_RECORD = f"data/evaluate/{MODEL}/0/record.parquet", f"data/evaluate/{MODEL}/1/record.parquet"
LUT, REFERENCE = "data/profile_latency/lut.json", "data/reference/paper_tables.csv"
TABLE, CELLS = "results/table_1.md", "results/table_1.cells.json"
Json = dict[str, Any]


def flip(path: Path, *, keep_times: bool = False) -> None:
    """Change one byte of a file and keep its length, its mode and, where wished, its times."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(stat.st_mode)
    if keep_times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence of a text that is there."""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def edit_json(path: Path, change: Callable[[Json], object]) -> None:
    """Change what a JSON file holds."""
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_lock(root: Path, change: Callable[[Json], object]) -> None:
    """Change what dvc.lock holds."""
    value = read_yaml(root / "dvc.lock")
    change(value["stages"])
    with (root / "dvc.lock").open("w", encoding="utf-8") as file:
        YAML(typ="safe").dump(value, file)


def relock(root: Path, *stages: str) -> None:
    """Write the hashes of the files as they are into dvc.lock, of all stages or some: what `dvc commit -f` does."""
    hasher = Hasher(root)

    def change(locked: Json) -> None:
        for name in stages or locked:
            for entry in (*locked[name].get("deps", ()), *locked[name]["outs"]):
                hashed = hasher.path(entry["path"])
                if hashed is not None:
                    entry["md5"] = hashed.md5

    edit_lock(root, change)


def forge_record(root: Path, name: str, change: Callable[[Json], object]) -> None:
    """Change a run record and make dvc.lock agree, but not the records of those that read it."""
    edit_json(root / record_path(name), change)
    relock(root)


def forge_all(root: Path) -> None:
    """Make every record and dvc.lock agree with the files as they are: a whole forgery, from the top of the graph down."""
    hasher = Hasher(root)
    records: dict[str, RunRecord] = {}
    for name in ("generate_data", "profile_latency", *_items("retrain"), *_items("evaluate"), "tabulate"):
        path = root / record_path(name)
        value = json.loads(path.read_bytes())
        for kind in ("deps", "outs"):
            value[kind] = [hasher.required(one["path"], remedy="").model_dump(mode="json") for one in value[kind]]
        value["deps_after"] = {dep["path"]: dep["sha256"] for dep in value["deps"]}
        for above in value["upstream"]:
            above["sha256"] = sha256_of(root / record_path(above["stage"]))
            above["claim_sha256"] = records[above["stage"]].claim_sha256
        path.write_text(json.dumps(value), encoding="utf-8")
        records[name] = RunRecord.model_validate_json(path.read_bytes())
    relock(root)


def forge_cells(root: Path, change: Callable[[Json], object]) -> None:
    """Change the cell map of Table 1, let it name the sources as they are, and make all else agree."""

    def both(value: Json) -> None:
        change(value)
        value["source_sha256"] = {path: sha256_of(root / path) for path in value["source_sha256"]}

    edit_json(root / CELLS, both)
    forge_all(root)


def cell_of(value: Json, column: str) -> Json:
    """Return the model's own cell in a column of a cell map."""
    (cell,) = (cell for cell in value["cells"] if cell["column"] == column and cell["row"].startswith("DC-Net"))
    found: Json = cell
    return found


def object_of(root: Path, path: str, store: str = ".dvc/cache") -> Path:
    """Return where the cache, or the remote, keeps a file's bytes."""
    md5 = md5_of(root / path)
    return root / store / "files/md5" / md5[:2] / md5[2:]


def _items(group: str) -> tuple[str, ...]:
    return tuple(f"{group}@{MODEL}-{seed}" for seed in (0, 1))
