"""The objects that DVC keeps, by their MD5: the cache on this machine, and the remote where it is asked for; hashed by content."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dcnas_lineage.verdict import Verdict

Fetch = Callable[[str], Iterator[bytes] | None]
"""MD5 -> the content of the remote's object, in pieces; `None` where the remote has none."""
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreProblem:
    """What is wrong with a kept object."""

    verdict: Verdict
    text: str


class Store:
    """
    Kept objects, each hashed once.

    Args:
        cache: DVC's cache folder; one that is not there holds nothing.

        remote: How to read the remote; `None` leaves it out.
    """

    def __init__(self, cache: Path, remote: Fetch | None = None) -> None:
        self._cache, self._remote = cache, remote
        self._found: dict[str, tuple[StoreProblem, ...]] = {}

    def path(self, md5: str) -> Path:
        """Return where the cache keeps an object."""
        return self._cache / "files" / "md5" / md5[:2] / md5[2:]

    def whereabouts(self, md5: str) -> str:
        """Say where a missing file can be had from."""
        return "dvc checkout" if self.path(md5).is_file() else "dvc pull, or dvc repro"

    def problems(self, md5: str, sha256: str) -> tuple[StoreProblem, ...]:
        """Return what is wrong with the copies of a file; the cache need not have one, a remote that is asked must."""
        if md5 not in self._found:
            self._found[md5] = tuple(self._check(md5, sha256))
        return self._found[md5]

    def _check(self, md5: str, sha256: str) -> Iterator[StoreProblem]:
        path = self.path(md5)
        if path.is_file() and _sha256(_pieces(path)) != sha256:
            text = f"DVC's cache holds other bytes under {md5}: a checkout or a push would pass them on"
            yield StoreProblem(verdict=Verdict.BROKEN, text=text)
        if self._remote is None:
            return
        content = self._remote(md5)
        if content is None:
            yield StoreProblem(verdict=Verdict.UNVERIFIABLE, text=f"the remote has no object {md5} (dvc push)")
        elif _sha256(content) != sha256:
            yield StoreProblem(verdict=Verdict.BROKEN, text=f"the remote holds other bytes under {md5}")


def cache_of(root: Path) -> Path:
    """Return DVC's cache folder of a project, as its settings name it."""
    import configparser  # here, because only an audit needs it

    settings = configparser.ConfigParser(interpolation=None)
    settings.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    named = settings.get("cache", "dir", fallback="").strip("\"'")
    return (root / ".dvc" / named).resolve() if named else root / ".dvc/cache"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _sha256(content: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in content:
        digest.update(piece)
    return digest.hexdigest()
