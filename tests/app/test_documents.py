"""The documents say what the files say."""

import re
from pathlib import Path

import pytest

from dcnas_app.publishing import update_readme
from dcnas_harness.files import sha256_of
from dcnas_lineage.cells import derive
from dcnas_schema.cells import CellMap

PROJECT = Path(__file__).resolve().parents[2]


def test_the_readme_tables_are_those_of_the_published_results() -> None:
    """Every generated part of README.md equals the file that its marker names."""
    assert update_readme(PROJECT, check=True)


def test_a_figure_edited_in_the_readme_is_noticed(tmp_path: Path) -> None:
    """One digit changed in a generated table makes the check fail, and writing it again mends it."""
    (tmp_path / "table.md").write_text("## Table 1\n\n| a |\n| - |\n| 26.22 |\n")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- generated: table.md -->\nold\n<!-- end generated -->\nafter\n")
    assert not update_readme(tmp_path, check=True)
    assert update_readme(tmp_path, check=False)
    assert update_readme(tmp_path, check=True)
    assert "| 26.22 |" in readme.read_text()
    readme.write_text(readme.read_text().replace("26.22", "29.22"))
    assert not update_readme(tmp_path, check=True)


def test_the_map_in_the_readme_is_the_tree() -> None:
    """Every folder that README.md's map names exists, and every package and pipeline stage stands in it."""
    text = (PROJECT / "README.md").read_text()
    for package in (PROJECT / "packages").glob("*/pyproject.toml"):
        assert f"{package.parent.name}/" in text
    for package in (PROJECT / "stages").glob("*/pyproject.toml"):
        assert package.parent.name in text
    for name in re.findall(r"^([a-z]+)/ ", text, re.MULTILINE):
        assert (PROJECT / name).is_dir(), name


def test_each_links_target_exists() -> None:
    """No relative link of the documents leads nowhere."""
    for document in PROJECT.glob("*.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (PROJECT / target).exists(), f"{document.name}: {target}"


def test_one_name_in_five_places() -> None:
    """Stage folder, DVC stage, params section, import suffix and test folder carry the same name."""
    dvc, params = (PROJECT / "dvc.yaml").read_text(), (PROJECT / "params.yaml").read_text()
    for project in (PROJECT / "stages").glob("*/pyproject.toml"):
        name = project.parent.name
        assert re.search(rf"^  {name}:$", dvc, re.MULTILINE)
        assert re.search(rf"^{name}:$", params, re.MULTILINE)
        assert re.search(rf"-- *\n? *dcnas_{name} ", dvc)
        assert (project.parent / f"src/dcnas_{name}").is_dir()
        assert (PROJECT / "tests" / name).is_dir()


def test_the_lock_names_no_address() -> None:
    """requirements.lock holds versions and hashes only."""
    lock = (PROJECT / "requirements.lock").read_text()
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > lock.count("==")


@pytest.mark.parametrize(
    "cell_map", sorted(PROJECT.glob("results/published/*/table_*.cells.json")), ids=lambda path: path.name
)
def test_every_published_cell_follows_from_its_bundle(cell_map: Path) -> None:
    """What a published table prints can be derived again, cell by cell, from the records committed beside it."""
    found = CellMap.model_validate_json(cell_map.read_text())
    text = cell_map.with_name(f"{found.table}.md").read_text()
    for path, digest in found.source_sha256.items():
        assert sha256_of(cell_map.parent / "bundle" / path) == digest
    for cell in found.cells:
        assert derive(cell, confidence=found.confidence, root=cell_map.parent / "bundle").text == cell.text
        assert f" {cell.text} " in text or f" **{cell.text}** " in text
