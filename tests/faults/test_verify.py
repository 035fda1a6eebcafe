"""`dcnas verify` hashes every output again: it finds what DVC, which trusts times and its own cache, does not."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from dcnas_app.main import app
from dcnas_harness.files import md5_of

Command = Callable[..., subprocess.CompletedProcess[str]]
Verify = Callable[[Path], tuple[int, str]]
WHOLE = "5 outputs: 6 files and 7 cache objects hashed again, 1 Parquet tables read"


@pytest.fixture
def verify(in_process: Command) -> Verify:
    """A function that runs `dcnas verify` in a project and returns its exit code and all that it said."""

    def run(root: Path) -> tuple[int, str]:
        done = in_process(app, "verify", cwd=root)
        return done.returncode, done.stdout + done.stderr

    return run


def changed_in_place(path: Path) -> tuple[str, str]:
    """Change one bit in the middle of a file, keep size, times and mode, and return both MD5 sums."""
    before, stat = md5_of(path), path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:  # the same inode
        file.write(content)
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_mode) == (stat.st_size, stat.st_mtime_ns, stat.st_mode)
    return before, md5_of(path)


def cached(root: Path, name: str) -> Path:
    """Return the cache object of a file."""
    md5 = md5_of(root / name)
    return root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def test_a_whole_project_passes(made_once: Path, verify: Verify) -> None:
    """All is read, nothing is said but how much, exit 0."""
    assert verify(made_once) == (0, f"{WHOLE}\n")


@pytest.mark.parametrize("name", ["data/second.json", "data/third.bin", "data/table.parquet", "data/folder/sub/b.txt"])
def test_an_output_edited_with_size_and_time_kept_is_found(made: Path, verify: Verify, name: str) -> None:
    """One bit changed in place: DVC calls all up to date, verify exits 4 with the file, both sums and the remedy."""
    with Repo(str(made)) as repo:
        assert repo.status() == {}  # it has now hashed this copy
        expected, found = changed_in_place(made / name)
        assert repo.status() == {}
    code, said = verify(made)
    assert code == 4
    assert f"{made / name}: expected MD5 {expected}" in said
    assert f"found {found}" in said
    assert "dvc checkout" in said
    assert "1 of them are damaged or missing" in said


@pytest.mark.parametrize("name", ["data/third.bin", "data/folder/a.txt"])
def test_a_corrupted_cache_object_with_its_mode_kept_is_found(made: Path, verify: Verify, name: str) -> None:
    """DVC would check it out in silence; verify exits 4 with the object, the output that it is of, and both sums."""
    found_object = cached(made, name)
    assert found_object.stat().st_mode & 0o222 == 0
    expected, found = changed_in_place(found_object)
    code, said = verify(made)
    assert code == 4
    output = "data/folder" if "folder" in name else name
    assert f"{found_object}: the cache object of {output}: expected MD5 {expected}, found {found}" in said
    assert "1 of them" in said


def test_the_remedy_for_a_corrupted_object_works(
    made: Path, verify: Verify, start_dvc: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """Deleted, and the stage committed from its whole output: the object is back, and all holds."""
    damaged = cached(made, "data/third.bin")
    changed_in_place(damaged)
    assert "dvc commit --force third" in verify(made)[1]
    damaged.unlink()
    process = start_dvc(made, "commit", "--force", "third")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert verify(made) == (0, f"{WHOLE}\n")


def test_a_corrupted_listing_of_a_folder_is_found(made: Path, verify: Verify) -> None:
    """The .dir object: it is named, and the folder is held against the hash in dvc.lock as a whole."""
    (listing,) = (made / ".dvc/cache/files/md5").rglob("*.dir")
    changed_in_place(listing)
    code, said = verify(made)
    assert code == 4
    assert f"{listing}: the cache object of data/folder" in said
    assert "1 of them" in said
    (made / "data/folder/a.txt").write_text("x")
    assert f"{made / 'data/folder'}: expected MD5" in verify(made)[1]


def test_missing_and_foreign_files_are_found(made: Path, verify: Verify) -> None:
    """An output that is gone, one gone from a folder and one too many there are named; an empty cache alone is no damage."""
    (made / "data/second.json").unlink()
    (made / "data/folder/a.txt").unlink()
    (made / "data/folder/more.txt").write_text("more")
    code, said = verify(made)
    assert code == 4
    for name in ("data/second.json: does not exist", "data/folder/a.txt: does not exist"):
        assert name in said
    assert "data/folder/more.txt: is no part of this output of first" in said
    assert "3 of them" in said


def test_without_a_cache_the_workspace_is_verified(made: Path, verify: Verify) -> None:
    """A pulled or copied project may have no cache: files are held against dvc.lock, and what is missing is counted."""
    shutil.rmtree(made / ".dvc/cache")
    assert verify(made)[0] == 0
    assert "6 files and 0 cache objects" in verify(made)[1]
    changed_in_place(made / "data/folder/a.txt")
    assert verify(made)[0] == 4


def test_another_cache_folder_is_found(made: Path, verify: Verify, tmp_path: Path) -> None:
    """`cache.dir` of DVC's configuration, as several worktrees share one, is the cache that is read."""
    (made / ".dvc/cache").rename(tmp_path / "shared")
    (made / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    assert verify(made) == (0, f"{WHOLE}\n")


def test_a_table_damaged_before_it_was_hashed_is_found(made: Path, verify: Verify) -> None:
    """Where dvc.lock itself holds the hash of the damaged file, the table's own checksums still tell."""
    table = made / "data/table.parquet"
    before, after = changed_in_place(table)
    lock = made / "dvc.lock"
    lock.write_text(lock.read_text().replace(before, after))
    code, said = verify(made)
    assert code == 4
    assert f"{table}: is damaged: its content has the SHA-256" in said
