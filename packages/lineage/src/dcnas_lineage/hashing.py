"""Hashes of files and folders by content, each file read once: SHA-256, and the MD5 that DVC knows it by."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dcnas_harness.errors import CorruptArtefactError
from dcnas_schema.run_record import HashedFile, HashedPath

_CHUNK = 1 << 20
_FRESH_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within one tick of the clock that stamps it."""
_State = tuple[int, ...]


class Hasher:
    """
    Hashes files below a folder; what it has hashed it does not read again, unless `again` finds that it may have changed.

    Args:
        root: The project's folder, which all paths start from.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, tuple[_State, int, HashedFile]] = {}

    def path(self, path: str) -> HashedPath | None:
        """Return the hashes of a file, or of a folder with all its files; `None` where there is neither."""
        whole = self.root / path
        if whole.is_dir():
            return folder_of(path, [self._file(name) for name in _files_below(self.root, path)])
        if not whole.is_file():
            return None
        file = self._file(path)
        return HashedPath(path=path, md5=file.md5, sha256=file.sha256, files=(file,))

    def file(self, path: str) -> HashedFile | None:
        """Return the hashes of one file; `None` where there is none."""
        return self._file(path) if (self.root / path).is_file() else None

    def required(self, path: str, *, remedy: str) -> HashedPath:
        """
        Return the hashes of what must be there.

        Raises:
            CorruptArtefactError: It is not.
        """
        hashed = self.path(path)
        if hashed is None:
            raise CorruptArtefactError(f"{path} does not exist.", remedy=remedy)
        return hashed

    def again(self) -> None:
        """Forget every file that was, or may have been, written since it was hashed: by its inode, size, and time of change."""
        for path, (state, when, _) in list(self._files.items()):
            now = _state(self.root / path)
            if now != state or when - now[-1] < _FRESH_NS:  # the last is the time of change, which no program can set
                del self._files[path]

    def _file(self, path: str) -> HashedFile:
        if path not in self._files:
            whole = self.root / path
            state, when = _state(whole), time.time_ns()
            self._files[path] = (state, when, _hashed(whole, path))
        return self._files[path][2]


def folder_of(path: str, files: list[HashedFile]) -> HashedPath:
    """Return a folder's hashes from those of its files."""
    inside = {PurePosixPath(file.path).relative_to(path).as_posix(): file for file in files}
    manifest = [{"md5": inside[name].md5, "relpath": name} for name in sorted(inside)]
    lines = "".join(f"{inside[name].sha256}  {name}\n" for name in sorted(inside))
    return HashedPath(
        path=path,
        md5=hashlib.md5(json.dumps(manifest, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir",
        sha256=hashlib.sha256(lines.encode()).hexdigest(),
        files=tuple(inside[name] for name in sorted(inside)),
    )


def _hashed(whole: Path, path: str) -> HashedFile:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with whole.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return HashedFile(path=path, size=size, sha256=sha256.hexdigest(), md5=md5.hexdigest())


def _files_below(root: Path, folder: str) -> Iterator[str]:
    """Yield the files that DVC counts to a folder: all but those that .dvcignore leaves out."""
    for where, folders, names in os.walk(root / folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if not name.endswith(".tmp"):
                yield (Path(where) / name).relative_to(root).as_posix()


def _state(path: Path) -> _State:
    try:
        stat = path.stat()
    except OSError:
        return (0,)
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
