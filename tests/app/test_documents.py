"""The documents say what the files say."""

import re
import subprocess
from pathlib import Path

from dcnas_app.publishing import update_readme

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
        assert f"python -m dcnas_{name} " in dvc
        assert (project.parent / f"src/dcnas_{name}").is_dir()
        assert (PROJECT / "tests" / name).is_dir()


def test_the_lock_names_no_address() -> None:
    """requirements.lock holds versions and hashes only."""
    lock = (PROJECT / "requirements.lock").read_text()
    assert "://" not in lock
    assert lock.count("--hash=sha256:") > lock.count("==")


def test_no_pickle_is_read_or_written() -> None:
    """No source file loads or dumps a pickle, by any of its names."""
    found = subprocess.run(
        [
            "git",
            "grep",
            "-n",
            "-E",
            r"\b(pickle|torch\.(load|save)|joblib|np\.load|numpy\.load)\b",
            "--",
            "packages",
            "stages",
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
