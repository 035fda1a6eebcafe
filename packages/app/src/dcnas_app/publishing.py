"""Published results: a committed copy with what its audit needs, and the README's tables made from it."""

import re
import shutil
import tempfile
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_harness.files import write_text
from dcnas_lineage.cells import read_record
from dcnas_schema.params import load_params

_MARKER = re.compile(r"(<!-- generated: (?P<source>\S+) -->\n).*?(<!-- end generated -->)", re.DOTALL)
_BUNDLE = ("dvc.lock", "dvc.yaml", "params.yaml")


def publish_results(root: Path) -> Path:
    """
    Copy the tables, figures and page of results/ to results/published/<preset>-<device>/, with dvc.lock, dvc.yaml, params.yaml and the
    evaluation records under bundle/; return the new folder.

    Raises:
        BadInputError: There are no results.
    """
    results = root / "results"
    if not (results / "index.html").is_file():
        raise BadInputError(f"{results} holds no results.", remedy="run: make repro")
    params = load_params(root / "params.yaml")
    records = [
        root / "data/evaluate" / m / str(s) / "record.parquet" for m in params.runs.models for s in params.runs.seeds
    ]
    _, metadata = read_record(records[0])
    target = results / "published" / f"{params.preset}-{_slug(metadata.card.name)}"
    with tempfile.TemporaryDirectory(dir=results) as temporary:
        new = Path(temporary) / "new"
        shutil.copytree(results, new, ignore=shutil.ignore_patterns("published", ".gitignore", "tmp*", "*.tmp"))
        bundle = new / "bundle"
        for path in (*(root / name for name in _BUNDLE), root / "data/reference/paper_tables.csv", *records):
            copy = bundle / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(exist_ok=True)
        new.rename(target)
    print(f"published {target.relative_to(root)}; commit it, then run: dcnas readme")
    return target


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


def _content(source: Path) -> str:
    if not source.is_file():
        raise BadInputError(
            f"README.md takes a table from {source}, which does not exist.", remedy="run: dcnas publish"
        )
    lines = [line for line in source.read_text(encoding="utf-8").splitlines() if not line.startswith("## ")]
    return "\n".join(lines).strip() + "\n"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")
