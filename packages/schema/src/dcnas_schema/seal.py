"""
The seal of a Parquet file: SHA-256 of all its bytes, written into its own footer.

Parquet's page checksums cover the pages alone; a bit that flips in the footer, in a page's header or in the magic number passes them. The
seal covers every byte but its own 64, which count as zeros. A sealed file stays a Parquet file for every other program.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

SEAL_KEY = b"dcnas_file_sha256"
EMPTY_SEAL = b"0" * 64
"""What stands in the seal's place until the file is whole."""
_MAGIC = b"PAR1"
_ENTRY = SEAL_KEY + b"\x18\x40"
"""Key, then Thrift's compact head of a string of 64 bytes."""
_CHUNK = 1 << 20


def seal(path: Path) -> None:
    """
    Put the SHA-256 in its place in a finished file that has `EMPTY_SEAL` under `SEAL_KEY` in its footer; the file must not be in use yet.

    Raises:
        ValueError: The file has no such place: a bug of the caller.
    """
    with path.open("r+b") as file:
        place = _place(file)
        if place is None:
            raise ValueError(f"{path} has no place for a seal")
        digest = _digest(file, place)
        file.seek(place)
        file.write(digest)


def broken_seal(path: Path) -> str | None:
    """
    Return what is wrong with a sealed file, and `None` where the seal holds; every byte is read.

    Raises:
        LookupError: The file has no seal: it is another program's, of before there were seals, or too damaged to find it.
    """
    with path.open("rb") as file:
        place = _place(file)
        if place is None:
            raise LookupError(f"{path} has no seal")
        file.seek(place)
        expected, found = file.read(len(EMPTY_SEAL)), _digest(file, place)
    if found == expected:
        return None
    return f"its content has the SHA-256 {found.decode()}, not {expected.decode('ascii', 'replace')}, which it names"


def _place(file: BinaryIO) -> int | None:
    """Return where the seal's 64 bytes begin; the footer's length stands before the last four bytes."""
    size = file.seek(0, 2)
    if size < 12:
        return None
    file.seek(size - 8)
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or length > size - 12:
        return None
    file.seek(size - 8 - length)
    found = file.read(length).rfind(_ENTRY)
    return None if found < 0 else size - 8 - length + found + len(_ENTRY)


def _digest(file: BinaryIO, place: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    left = place
    while left and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(EMPTY_SEAL)
    file.seek(place + len(EMPTY_SEAL))
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest().encode()
