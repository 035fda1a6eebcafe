"""The state of the code as git knows it, and files as they were at a commit."""

import hashlib
import subprocess
from pathlib import Path
from typing import IO, Self

from dcnas_schema.run_record import GitState

_WRITTEN_BY_THE_RUN = ("dvc.lock",)
_NOTHING = GitState(commit=None, tree=None, dirty=None, diff_sha256=None)


def git_state(root: Path) -> GitState:
    """Return commit, tree, changed files and the digest of the changes; all `None` outside a checkout."""
    asked = (
        _started(root, "rev-parse", "HEAD", "HEAD^{tree}"),
        _started(root, "status", "--porcelain", "--untracked-files=no", "--no-renames", "-z"),
    )
    heads, status = (_ended(process) for process in asked)
    if heads is None or status is None:
        return _NOTHING
    commit, tree = heads.decode().split()
    dirty = sorted(entry[3:] for entry in status.decode(errors="surrogateescape").split("\0") if entry)
    dirty = [path for path in dirty if path not in _WRITTEN_BY_THE_RUN]
    diff = _ended(_started(root, "diff", "HEAD", "--binary", "--", *dirty)) if dirty else None
    return GitState(
        commit=commit,
        tree=tree,
        dirty=tuple(dirty),
        diff_sha256=None if diff is None else hashlib.sha256(diff).hexdigest(),
    )


class History:
    """Files as they were at commits of a repository; each question is asked of git once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[tuple[str, str], str | None] = {}
        self._known: dict[str, bool] = {}
        self._ignored: dict[str, bool] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.prefix = (_output(root, "rev-parse", "--show-prefix") or b"").decode().strip()
        self.head = (_output(root, "rev-parse", "HEAD") or b"").decode().strip() or None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def has(self, commit: str) -> bool:
        """Return whether a commit is HEAD or one that it grew from."""
        if commit not in self._known:
            done = subprocess.run(
                ["git", "merge-base", "--is-ancestor", commit, "HEAD"], cwd=self._root, capture_output=True, check=False
            )
            self._known[commit] = done.returncode == 0
        return self._known[commit]

    def ignores(self, path: str) -> bool:
        """Return whether git is told to leave a file out."""
        if path not in self._ignored:
            done = subprocess.run(["git", "check-ignore", "-q", path], cwd=self._root, capture_output=True, check=False)
            self._ignored[path] = done.returncode == 0
        return self._ignored[path]

    def sha256_at(self, commit: str, path: str) -> str | None:
        """Return the SHA-256 of a file's content at a commit; `None` where it had no such file."""
        key = (commit, path)
        if key not in self._files:
            content = self._content(f"{commit}:{self.prefix}{path}")
            self._files[key] = None if content is None else hashlib.sha256(content).hexdigest()
        return self._files[key]

    def _content(self, name: str) -> bytes | None:
        if self._process is None:
            self._process = subprocess.Popen(
                ["git", "cat-file", "--batch"], cwd=self._root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        asked, told = _pipes(self._process)
        asked.write(name.encode() + b"\n")
        asked.flush()
        words = told.readline().split()
        if len(words) != 3 or words[1] != b"blob":
            if len(words) == 3 and words[2].isdigit():
                told.read(int(words[2]) + 1)
            return None
        content = told.read(int(words[2]))
        told.read(1)
        return content


def content_at(root: Path, revision: str, path: str) -> bytes | None:
    """Return a file's content at a revision; `None` where there is none."""
    return _output(root, "show", f"{revision}:./{path}")


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None, "it was started with pipes"
    assert process.stdout is not None, "it was started with pipes"
    return process.stdin, process.stdout


def _started(root: Path, *arguments: str) -> "subprocess.Popen[bytes] | None":
    try:
        return subprocess.Popen(
            ["git", *arguments], cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None


def _ended(process: "subprocess.Popen[bytes] | None") -> bytes | None:
    if process is None:
        return None
    output, _ = process.communicate()
    return output if process.returncode == 0 else None


def _output(root: Path, *arguments: str) -> bytes | None:
    return _ended(_started(root, *arguments))
