"""Published results: a committed copy with what its audit needs, and the README's tables made from it."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from dcnas_app.presets import require_known_preset
from dcnas_harness.errors import BadInputError
from dcnas_harness.files import disk_errors_explained, write_text
from dcnas_lineage.audit import load_cell_map
from dcnas_lineage.records import read_record
from dcnas_schema.params import load_params, read_yaml

_MARKER = re.compile(r"(<!-- generated: (?P<source>\S+) -->\n).*?(<!-- end generated -->)", re.DOTALL)
_WORK = ".publishing-"
_BUNDLE = ("dvc.lock", "dvc.yaml", "params.yaml")


def publish_results(root: Path) -> Path:
    """
    Copy the tables, figures and page of results/ to results/published/<preset>-<device>/, with dvc.lock, dvc.yaml, params.yaml and all
    that the cells are derived from under bundle/; return the new folder.

    Raises:
        BadInputError: There are no results, they are older than params.yaml, or params.yaml is not the preset that it calls itself after.
    """
    results = root / "results"
    if not (results / "index.html").is_file():
        raise BadInputError(f"{results} holds no results.", remedy="run: make repro")
    params = load_params(root / "params.yaml")
    if require_known_preset(root, params.preset):
        raise BadInputError(
            f"params.yaml differs from presets/{params.preset}.yaml, whose name the results would bear.",
            remedy=f"give it a name of its own (preset: NAME, cp params.yaml presets/NAME.yaml), or run: dcnas preset {params.preset}",
        )
    _require_made_of_these_params(root)
    sources = sorted(
        {root / s for t in results.glob("*.cells.json") for s in load_cell_map(_name(t, root), root).source_sha256}
    )
    records = [path for path in sources if path.name == "record.parquet"]
    _, metadata = read_record(records[0])
    device = "-".join(filter(None, (metadata.card.name, metadata.card.isa)))
    target = results / "published" / f"{params.preset}-{_slug(device)}"
    with disk_errors_explained(target), tempfile.TemporaryDirectory(dir=results, prefix=_WORK) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        shutil.copytree(results, new, ignore=shutil.ignore_patterns("published", ".gitignore", f"{_WORK}*", "*.tmp"))
        bundle = new / "bundle"
        for path in (*(root / name for name in _BUNDLE), *sources):
            copy = bundle / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rename(old)
        new.rename(target)
    print(f"published {target.relative_to(root)}; commit it, then run: dcnas readme")
    return target


def _name(cell_map: Path, root: Path) -> Path:
    return cell_map.with_name(cell_map.name.removesuffix(".cells.json")).relative_to(root)


def _require_made_of_these_params(root: Path) -> None:
    """Refuse tables that dvc.lock says were made with other parameters than those of today."""
    made = read_yaml(root / "dvc.lock")["stages"].get("tabulate", {}).get("params", {}).get("params.yaml", {})
    today = read_yaml(root / "params.yaml")
    other = sorted(key for key, value in made.items() if _at(today, key) != value)
    if other or not made:
        raise BadInputError(
            f"The results were made with other parameters than params.yaml holds: {', '.join(other) or 'dvc.lock has none'}.",
            remedy="run: make repro",
        )


def _at(values: Any, key: str) -> Any:
    """Return the value at a dotted key, as dvc.yaml names it; `None` where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def update_readme(root: Path, *, check: bool) -> bool:
    """
    Put the named files between the `generated` markers of README.md; with `check` only return whether they stand there already.

    Raises:
        BadInputError: A marker names a file that is not there.
    """
    readme = root / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = _MARKER.sub(lambda match: match.group(1) + _content(root / match.group("source")) + match.group(3), old)
    if check:
        print(
            "README.md is up to date"
            if new == old
            else "README.md differs from the published results; run: dcnas readme"
        )
        return new == old
    write_text(readme, new)
    return True


def generated_blocks(root: Path) -> list[tuple[str, bool]]:
    """Return, for each generated block of README.md, the file that it names, and whether it says what that file says."""
    text = (root / "README.md").read_text(encoding="utf-8")
    found = []
    for match in _MARKER.finditer(text):
        source = root / match.group("source")
        holds = source.is_file() and match.group(0) == match.group(1) + _content(source) + match.group(3)
        found.append((match.group("source"), holds))
    return found


def _content(source: Path) -> str:
    if not source.is_file():
        raise BadInputError(
            f"README.md takes a table from {source}, which does not exist.", remedy="run: dcnas publish"
        )
    lines = [line for line in source.read_text(encoding="utf-8").splitlines() if not line.startswith("## ")]
    return "\n".join(lines).strip() + "\n"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")
