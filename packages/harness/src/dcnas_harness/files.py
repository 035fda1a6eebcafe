"""Atomic writing and hashing: the only way an artefact reaches the disk."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dcnas_harness.errors import BadInputError, CorruptArtefactError, DcnasError, UnfitEnvironmentError

_HASH_CHUNK = 1 << 20
_OS_ERROR_IN_TEXT = re.compile(r"os error (\d+)|errno:? (\d+)", re.IGNORECASE)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """
    Yield a temporary path beside `path`; when the block ends well, flush it to disk and rename it onto `path`.

    A reader sees the old file or the new one, never a part. When the block fails, the temporary file is removed and the old
    file stays as it was. Left-overs of killed writers of the same file are removed first.

    Raises:
        UnfitEnvironmentError: No space is left on the device.

        BadInputError: The folder cannot be written.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        with disk_errors_explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path)
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_writable(folder: Path) -> None:
    """
    Check, before any work starts, that files can be made in `folder`.

    Raises:
        BadInputError: `folder` or its first existing parent is not a writable folder.
    """
    probe = folder / f".writable.{os.getpid()}.tmp"
    try:
        with disk_errors_explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
    finally:
        with suppress(OSError):
            probe.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically; NaN and infinity are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode())


def read_json(path: Path) -> Any:
    """
    Read a JSON file.

    Raises:
        CorruptArtefactError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc repro") from error
    except ValueError as error:
        raise CorruptArtefactError(
            f"{path} is not valid JSON: {error}", remedy="delete it, then run: dvc repro"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex; reads the file itself and trusts no cache of hashes."""
    return _digest(path, "sha256")


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes, in hex: the hash that dvc.lock holds."""
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{_glob_escape(path.name)}.*.tmp"):
        owner = leftover.name.split(".")[-2]
        if owner.isdigit() and not process_lives(int(owner)):
            leftover.unlink(missing_ok=True)


def process_lives(pid: int) -> bool:
    """Return whether a process of this number lives, of whatever user."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _glob_escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


@contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """
    Turn the errors of a full or read-only disk, by whichever library raised them, into ones that name `path` and the remedy.

    Raises:
        UnfitEnvironmentError: No space is left on the device.

        BadInputError: `path` cannot be written.
    """
    try:
        yield
    except DcnasError:
        raise
    except Exception as error:
        explained = _explain_disk_error(error, path)
        if explained is None:
            raise
        raise explained from error


def _explain_disk_error(error: Exception, path: Path) -> DcnasError | None:
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _OS_ERROR_IN_TEXT.search(str(error))):
        number = int(match.group(1) or match.group(2))  # safetensors and pyarrow put the number into the text
    if number in (errno.ENOSPC, errno.EDQUOT):
        return UnfitEnvironmentError(
            f"No space left on the disk while writing {path}.",
            remedy="free some space, then run the same command again",
        )
    if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        reason = os.strerror(number).lower()
        return BadInputError(
            f"{path} cannot be written: {reason}.", remedy="make its folder writable, then run the same command again"
        )
    return None
