"""The audit as it is asked for and printed."""

import html
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.files import write_text
from dcnas_lineage.project_audit import Audited, audit_tables, known_figures, require_tables
from dcnas_lineage.revision import checked_out, rerun_tables
from dcnas_lineage.store import Fetch, cache_of
from dcnas_lineage.verdict import Link, Verdict, worst


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is to be audited, and how far."""

    table: str | None = None
    """Without suffix; `None` for all tables, all figures and the documents."""
    cell: str | None = None
    """'ROW,COLUMN'; `None` for all cells."""
    revision: str | None = None
    """A commit, tag or branch; `None` for the project as it lies there."""
    remote: bool = False
    rerun: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """All numbers that were asked about, and what else was looked at."""

    cells: tuple[Audited, ...]
    others: tuple[Link, ...]
    """Documents, and tables made again."""

    @property
    def verdict(self) -> Verdict:
        """The worst of all."""
        return worst([*(cell.verdict for cell in self.cells), *(link.verdict for link in self.others)])


def audit(root: Path, question: Question) -> Answer:
    """
    Return the answer to a question.

    Raises:
        BadInputError: There is no such table, cell or revision.

        UnfitEnvironmentError: The remote cannot be reached.
    """
    cache = cache_of(root)
    with ExitStack() as stack:
        place = root
        if question.revision is not None:
            place = stack.enter_context(checked_out(root, question.revision, cache))
        tables = require_tables(place) if question.table is None else [_relative(question.table, root)]
        fetch = stack.enter_context(_Remote(root)).fetch if question.remote else None
        figures = known_figures(place) if question.table is None else []
        cells = tuple(audit_tables(place, tables, figures, cell=question.cell, remote=fetch, cache=cache))
        others = [*_documents(place)] if question.table is None else []
    if question.rerun:
        overlay = question.revision is None
        others += rerun_tables(root, question.revision or "HEAD", cache, overlay=overlay)
    return Answer(cells=cells, others=tuple(others))


def print_answer(answer: Answer, *, tree: bool) -> None:
    """Print the tree of each cell, or a line a table and one for each cell that does not hold; then the verdict."""
    for cell in answer.cells:
        if tree:
            for link in cell.links:
                print(_line(link))
        if (failing := cell.failing) is not None:
            print(f"{cell.verdict} {cell.subject}: {cell.row}, {cell.column}: {failing.what}: {failing.problem}")
    for other in answer.others:
        print(f"{other.verdict} {other.what}" + (f": {other.problem}" if other.problem else f" ({other.detail})"))
    for subject in dict.fromkeys(cell.subject for cell in answer.cells):
        counts = Counter(cell.verdict for cell in answer.cells if cell.subject == subject)
        told = ", ".join(f"{counts[verdict]} {_WORDS[verdict]}" for verdict in Verdict)
        print(f"{subject}: {told}")
    print(answer.verdict)


_WORDS = {
    Verdict.HOLDS: "hold",
    Verdict.STALE: "are stale",
    Verdict.UNVERIFIABLE: "cannot be verified",
    Verdict.BROKEN: "are broken",
}


def as_json(answer: Answer) -> str:
    """Return the answer as JSON: the verdict, and each cell with verdict, failing edge and links."""
    cells = [
        {
            "table": cell.subject,
            "row": cell.row,
            "column": cell.column,
            "text": cell.text,
            "verdict": cell.verdict,
            "failing": None if cell.failing is None else _as_dict(cell.failing),
            "links": [_as_dict(link) for link in cell.links],
        }
        for cell in answer.cells
    ]
    others = [_as_dict(link) for link in answer.others]
    return json.dumps({"version": 1, "verdict": answer.verdict, "cells": cells, "others": others}, indent=1)


def write_html(answer: Answer, path: Path) -> None:
    """Write the answer as a page that stands alone: a line a cell, its tree behind it."""
    parts = [f"<h1>Audit: {answer.verdict}</h1>"]
    for cell in answer.cells:
        title = html.escape(f"{cell.verdict} {cell.subject}: {cell.row}, {cell.column} = {cell.text}")
        tree = html.escape("\n".join(_line(link) for link in cell.links))
        opened = "" if cell.verdict is Verdict.HOLDS else " open"
        parts.append(
            f'<details class="{cell.verdict.lower()}"{opened}><summary>{title}</summary><pre>{tree}</pre></details>'
        )
    parts += [f'<p class="{one.verdict.lower()}">{html.escape(_line(one))}</p>' for one in answer.others]
    write_text(path, _PAGE.replace("BODY", "\n".join(parts)))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Audit</title><style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; font-size: 13px; }
summary { border-left: 4px solid #2e8b57; padding-left: .6rem; cursor: pointer; }
.stale summary { border-color: #d9a400; } .unverifiable summary { border-color: #888; } .broken summary { border-color: #c0392b; }
</style></head><body>
BODY
</body></html>
"""


def _as_dict(link: Link) -> dict[str, Any]:
    return {
        "depth": link.depth,
        "what": link.what,
        "detail": link.detail,
        "problem": link.problem,
        "verdict": link.verdict,
    }


def _line(link: Link) -> str:
    mark = "✗" if link.problem else "✓"
    text = f"{'   ' * link.depth}{mark} {link.what}"
    if link.detail:
        text += f"  ({link.detail})"
    return f"{text}\n{'   ' * link.depth}  {link.verdict}: {link.problem}" if link.problem else text


def _relative(table: str, root: Path) -> Path:
    path = Path(table)
    return Path(os.path.relpath(path.resolve(), root)) if path.is_absolute() else path


def _documents(root: Path) -> Iterator[Link]:
    """Yield a link for each block of README.md that is made from results: what stands there is what they say."""
    from dcnas_app.publishing import generated_blocks

    if not (root / "README.md").is_file():
        return
    for source, holds in generated_blocks(root):
        problem = None if holds else f"the block says otherwise than {source} (dcnas readme)"
        verdict = Verdict.HOLDS if holds else Verdict.BROKEN
        yield Link(depth=0, what=f"README.md: {source}", detail="as generated", problem=problem, verdict=verdict)


class _Remote:
    """DVC's default remote, read object by object."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> "_Remote":
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            self._repo = Repo(str(self._root))
            self._objects = self._repo.cloud.get_remote_odb(hash_name="md5")
        except DvcException as error:
            raise UnfitEnvironmentError(
                f"DVC's remote cannot be read: {error}", remedy="dvc remote add --default NAME URL"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._repo.close()

    @property
    def fetch(self) -> Fetch:
        """The function that reads an object."""
        return self._read

    def _read(self, md5: str) -> Iterator[bytes] | None:
        path = self._objects.oid_to_path(md5)
        return self._pieces(path) if self._objects.fs.exists(path) else None

    def _pieces(self, path: str) -> Iterator[bytes]:
        with self._objects.fs.open(path, "rb") as file:
            while piece := file.read(1 << 20):
                yield piece
