"""Atomic writing: a reader, a full disk, a kill or a failing writer never meet half a file."""

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dcnas_harness.errors import BadInputError, CorruptArtefactError, UnfitEnvironmentError
from dcnas_harness.files import atomic_write, md5_of, read_json, require_writable, sha256_of, write_json, write_text

Python = Callable[..., subprocess.CompletedProcess[str]]

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from dcnas_harness.files import atomic_write

path, size = Path(sys.argv[1]), 1 << 19
chance = random.Random(0)
path.write_bytes(bytes(size))
for attempt in range(25):
    child = os.fork()
    if child == 0:
        number = path.read_bytes()[0]
        while True:
            number = (number + 1) % 256
            with atomic_write(path) as temporary:
                temporary.write_bytes(bytes([number]) * size)
    time.sleep(chance.uniform(0.002, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    content = path.read_bytes()
    print(len(content) == size, len(set(content)), len(list(path.parent.glob(".*.tmp"))))
with atomic_write(path) as temporary:
    temporary.write_bytes(b"last")
"""

REPLACES = """
import sys
from pathlib import Path
from dcnas_harness.files import atomic_write

path = Path(sys.argv[1])
for number in range(200):
    with atomic_write(path) as temporary:
        temporary.write_bytes(bytes([number]) * 100_000)
"""


def names(folder: Path) -> list[str]:
    """Return the names of all files in a folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())


def fail_while_writing(path: Path) -> None:
    """Begin to write `path` and fail half-way."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half of the new")
        raise ZeroDivisionError


def write_too_much(path: Path) -> None:
    """Write more than a small disk holds."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(bytes(2 << 20))


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    """When the block ends well the new content stands there, in a folder made for it, with nothing beside it."""
    path = tmp_path / "new folder" / "artefact"
    for content in (b"old", b"new"):
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        assert path.read_bytes() == content
        assert names(path.parent) == ["artefact"]


def test_a_failing_block_keeps_the_old_file(tmp_path: Path) -> None:
    """An error inside the block passes through, and leaves the old file and nothing else."""
    path = tmp_path / "artefact"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        fail_while_writing(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["artefact"]


def test_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    """On a full disk the error names the file and the remedy (exit 3), the old file stays, the part is removed."""
    path = small_disk / "artefact"
    path.write_bytes(b"old")
    with pytest.raises(UnfitEnvironmentError, match=r"(?s)No space left.*artefact.*free some space"):
        write_too_much(path)
    assert path.read_bytes() == b"old"
    assert names(small_disk) == ["artefact"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_space_at_the_last_moment_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A disk or quota that fills up only at flush or rename ends like any full disk."""
    path = tmp_path / "artefact"
    path.write_bytes(b"old")

    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
        with pytest.raises(UnfitEnvironmentError, match="No space left"):
            write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["artefact"]


def test_a_library_that_hides_the_error_number_in_its_text_is_understood(tmp_path: Path) -> None:
    """An error that is no OSError but says "os error 28", as safetensors' does, is a full disk."""
    with (
        pytest.raises(UnfitEnvironmentError, match="No space left"),
        atomic_write(tmp_path / "artefact"),
    ):
        raise ValueError("I/O error: No space left on device (os error 28)")


def test_a_read_only_folder_is_refused(read_only_disk: Path) -> None:
    """Writing to a read-only file system is bad input (exit 2) that names the file; the old one stays."""
    with pytest.raises(BadInputError, match=r"(?s)old cannot be written.*writable"):
        write_text(read_only_disk / "old", "new")
    assert (read_only_disk / "old").read_bytes() == b"old"


@pytest.mark.parametrize("folder", [".", "new/below"])
def test_a_read_only_folder_is_found_before_the_work(read_only_disk: Path, folder: str) -> None:
    """`require_writable` refuses a read-only folder, and one that would have to be made in it, by name."""
    with pytest.raises(BadInputError, match="read-only disk"):
        require_writable(read_only_disk / folder)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A folder in which no file may be made is bad input, whatever the reason."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(BadInputError, match=os.strerror(number).lower()):
        require_writable(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    """An output folder that is a file is bad input, not a bug."""
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(BadInputError, match="out"):
        require_writable(tmp_path / "out")
    with pytest.raises(BadInputError, match="out"):
        require_writable(tmp_path / "out" / "below")


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """A file whose name is taken by a folder is bad input, not a bug."""
    (tmp_path / "artefact").mkdir()
    with pytest.raises(BadInputError, match="artefact"):
        write_text(tmp_path / "artefact", "new")
    assert names(tmp_path) == ["artefact"]


def test_a_writable_folder_is_left_as_it_was(tmp_path: Path) -> None:
    """The check makes the folder and leaves no file in it."""
    require_writable(tmp_path / "out")
    assert names(tmp_path / "out") == []


def test_left_overs_of_dead_writers_are_removed(tmp_path: Path, python: Python) -> None:
    """Temporary files of the same artefact go when their writer is dead; those of living writers and other artefacts stay."""
    dead = python("-c", "import os; print(os.getpid())").stdout.strip()
    alive = os.getppid()
    for name in (
        f".table[1].md.{dead}.tmp",
        f".table[1].md.{alive}.tmp",
        f".table1.md.{dead}.tmp",
        ".table[1].md.x.tmp",
    ):
        (tmp_path / name).write_bytes(b"part")
    write_text(tmp_path / "table[1].md", "whole")
    assert names(tmp_path) == sorted(
        [f".table[1].md.{alive}.tmp", f".table1.md.{dead}.tmp", ".table[1].md.x.tmp", "table[1].md"]
    )


def test_readers_see_the_old_file_or_the_new(tmp_path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    """While another process replaces a file 200 times, every read gives one whole content, in order, and no error."""
    path = tmp_path / "artefact"
    path.write_bytes(bytes(100_000))
    writer = start("-c", REPLACES, path)
    seen = []
    while writer.poll() is None:
        content = path.read_bytes()
        assert content == content[:1] * 100_000
        seen.append(content[0])
    assert writer.communicate()[1] == ""
    assert writer.returncode == 0
    assert path.read_bytes()[0] == 199
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "the reads did not fall into the time of the replaces"


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path: Path, python: Python) -> None:
    """After each of 25 SIGKILLs at random moments of a write loop the file is whole, and the next write clears up."""
    done = python("-c", KILLS, tmp_path / "artefact")
    assert done.returncode == 0, done.stderr
    states = [line.split() for line in done.stdout.splitlines()]
    assert [(whole, kinds) for whole, kinds, _ in states] == [("True", "1")] * 25
    assert any(int(parts) for _, _, parts in states), "no kill fell into a write"
    assert names(tmp_path) == ["artefact"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"deep": [-float("inf")]}])
def test_json_without_a_finite_value_is_never_written(tmp_path: Path, value: object) -> None:
    """NaN and infinity are no JSON: they are refused and no file appears."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "value.json", value)
    assert names(tmp_path) == []


def test_json_is_the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    """Keys are sorted, text is UTF-8 with Unix line ends."""
    write_json(tmp_path / "a.json", {"b": 1, "a": "σ"})
    write_json(tmp_path / "b.json", {"a": "σ", "b": 1})
    assert (
        (tmp_path / "a.json").read_bytes()
        == (tmp_path / "b.json").read_bytes()
        == b'{\n  "a": "\xcf\x83",\n  "b": 1\n}\n'
    )


def test_missing_or_damaged_json_is_a_corrupt_artefact(tmp_path: Path) -> None:
    """Both errors name the file and exit 4."""
    with pytest.raises(CorruptArtefactError, match=r"value\.json does not exist"):
        read_json(tmp_path / "value.json")
    for content in (b"", b'{"a": ', b'{"a": "\xff"}'):
        (tmp_path / "value.json").write_bytes(content)
        with pytest.raises(CorruptArtefactError, match=r"value\.json is not valid JSON"):
            read_json(tmp_path / "value.json")


def test_hashes_are_those_of_the_standards(tmp_path: Path) -> None:
    """SHA-256 and MD5 of "abc" are the examples of FIPS 180-4 and RFC 1321, and a file of more than one chunk is read whole."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert md5_of(path) == "900150983cd24fb0d6963f7d28e17f72"
    path.write_bytes(b"a" * 1_000_000 * 2)
    first = sha256_of(path)
    path.write_bytes(b"a" * 1_000_000 * 2 + b"b")
    assert sha256_of(path) != first


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    """The permissions are those of any new file under the umask, not those of a private temporary file."""
    write_text(tmp_path / "artefact", "new")
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "artefact").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
