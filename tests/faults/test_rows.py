"""The fifty faults of the reliability list: each is tested somewhere, or says why not."""

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("rows", Path(__file__).with_name("rows.py"))
assert SPEC is not None
assert SPEC.loader is not None
rows = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rows)


@cache
def known_tests(path: Path) -> frozenset[str]:
    """Return the names of the functions in a file of tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_all_fifty_are_there() -> None:
    """Numbers 1 to 50, in order, each with a test or a reason."""
    assert [row.number for row in rows.ROWS] == list(range(1, 51))
    assert [row.number for row in rows.ROWS if not (row.tests or row.note)] == []


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: f"{row.number} {row.what}")
def test_what_a_row_names_exists(project: Path, row: "rows.Row") -> None:  # type: ignore[name-defined] # loaded by its path
    """Every test and benchmark that the row names is there."""
    for name in row.tests:
        if "::" not in name:
            assert (project / name).is_file(), name
            continue
        file, test = name.split("::")
        assert test.startswith("test_")
        assert test in known_tests(project / "tests" / file), name
