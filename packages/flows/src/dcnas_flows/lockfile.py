"""
dvc.lock written one entry at a time, and atomically.

After each pipeline stage DVC (3.67) parses the whole file in pure Python, prints it anew and writes it in place: 3 s with this project's
74 stages, and a kill or a full disk at that moment leaves it empty. Here DVC's own printer makes the text of the stage's entry alone,
which takes the old one's place in a new file that is then renamed. The bytes are those that DVC itself would write.
"""

import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.dvcfile import Lockfile
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml

from dcnas_harness.files import atomic_write

_HEAD = ("schema: '2.0'\n", "stages:\n")
"""The first lines of every lock file that DVC wrote with at least one stage."""
_NEXT = re.compile(r"(  )?[^\s#]")
"""The start of a line that ends an entry: the heading of another one, or of another section."""
_LOGGER = logging.getLogger("dvc.dvcfile")


@contextmanager
def writing_entries_alone() -> Iterator[None]:
    """Have DVC, in this process, write dvc.lock as said above; a file of another layout than DVC's is left to DVC's own way."""
    dump_whole = Lockfile.dump_stages

    def dump_stages(self: Lockfile, stages: Sequence[Any], **options: Any) -> None:
        if not _dump_alone(self, stages, options):
            dump_whole(self, stages, **options)

    with replaced(Lockfile, "dump_stages", dump_stages):
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a class or module of DVC while the block runs."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def with_entry(text: str, name: str, entry: dict[str, Any]) -> str | None:
    """
    Return the text of a lock file with one stage's entry put in: in the old one's place, or after the last.

    Args:
        text: The whole file.

        name: Of the stage.

        entry: What the lock file is to hold for it.

    Returns:
        The new text; `None` where `text` is not laid out as DVC lays it out.
    """
    lines = _lines(text)
    if tuple(lines[:2]) != _HEAD or not lines[-1].endswith("\n"):
        return None
    new = _lines(dumps_yaml({"stages": {name: entry}}))[1:]
    if not new or any(_NEXT.match(line) for line in new[1:]):
        return None
    ends = [number for number, line in enumerate(lines) if number > 1 and _NEXT.match(line)] + [len(lines)]
    for start, end in itertools.pairwise(ends):
        if lines[start] == new[0]:
            return "".join([*lines[:start], *new, *lines[end:]])
    last = next((number for number in ends if number == len(lines) or not lines[number].startswith("  ")), len(lines))
    return "".join([*lines[:last], *new, *lines[last:]])


def _lines(text: str) -> list[str]:
    """Return the lines with their ends: line feeds alone, where `splitlines` knows others too."""
    return [line for line in re.split(r"(?<=\n)", text) if line]


def _dump_alone(file: Lockfile, stages: Sequence[Any], options: dict[str, Any]) -> bool:
    """Write the entries of `stages`; return whether the file's layout allowed it."""
    path = Path(file.path)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    after: str | None = before
    for stage in stages:
        (entry,) = to_lockfile(stage, **options).values()
        after = None if after is None else with_entry(after, stage.name, entry)
    if after is None:
        return False
    if after != before:
        _LOGGER.info("Updating lock file '%s'", file.relpath)
        with atomic_write(path) as temporary:
            temporary.write_text(after, encoding="utf-8")
        file.repo.scm_context.track_file(file.relpath)
    return True
