"""Every output of dvc.lock hashed again, in the workspace and in the cache, without DVC and its memory of what it has hashed before."""

import configparser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcnas_harness.errors import CorruptArtefactError, DcnasError
from dcnas_harness.files import md5_of, read_json
from dcnas_lineage.lock import Lock, LockedFile, md5_as_locked
from dcnas_schema.parquet import check_parquet

_DIR = ".dir"
_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A file that is not what dvc.lock says it is."""

    path: Path
    problem: str
    """What was expected and what was found."""
    remedy: str


@dataclass(kw_only=True, slots=True)
class Findings:
    """What was verified."""

    outputs: int
    files: int = 0
    objects: int = 0
    tables: int = 0
    not_cached: int = 0
    """Files and manifests that the cache does not hold; they may be in a remote."""
    damages: list[Damage]


def verify(root: Path) -> None:
    """
    Verify the outputs of all pipeline stages and say how many files were read.

    Raises:
        CorruptArtefactError: A file is missing or is not the one that dvc.lock names; each is told with what was expected and found.

        BadInputError: There is no dvc.lock.
    """
    found = verify_outputs(root)
    print(
        f"{found.outputs} outputs: {found.files} files and {found.objects} cache objects hashed again, "
        f"{found.tables} Parquet tables read"
        + (f"; {found.not_cached} are not in the cache" if found.not_cached else "")
    )
    if found.damages:
        shown = [f"  {damage.path}: {damage.problem}\n    remedy: {damage.remedy}" for damage in found.damages[:_SHOWN]]
        rest = len(found.damages) - len(shown)
        more = [f"  and {rest} more"] if rest else []
        raise CorruptArtefactError(
            f"{len(found.damages)} of them are damaged or missing:\n" + "\n".join([*shown, *more])
        )


def verify_outputs(root: Path) -> Findings:
    """
    Read every file of every output in dvc.lock, and every object of the cache that belongs to one.

    Times and sizes count for nothing: DVC takes a file whose time, size and inode are as it knows them for unchanged, and an object of
    the cache for whole; here each is hashed.
    """
    lock, cache = Lock(root), _cache_folder(root) / "files" / "md5"
    found = Findings(outputs=len(lock.outputs), damages=[])
    for output in lock.outputs.values():
        _verify_output(root, cache, output, found)
    return found


def _verify_output(root: Path, cache: Path, output: LockedFile, found: Findings) -> None:
    if not output.md5.endswith(_DIR):
        _verify_file(root / output.path, output.md5, cache, output, found)
        return
    folder, cached = root / output.path, _object(cache, output.md5)
    manifest: dict[str, str] | None = None
    if not cached.is_file():
        found.not_cached += 1
    elif _verify_object(cached, output, found):
        manifest = {entry["relpath"]: entry["md5"] for entry in read_json(cached)}
    there = {file.relative_to(folder).as_posix(): file for file in _files_below(folder)}
    if manifest is None:  # the listing is lost: the folder as a whole still has a hash
        _verify_unlisted(folder, there, output, found)
        return
    for name, md5 in manifest.items():
        _verify_file(folder / PurePosixPath(name), md5, cache, output, found)
    for name in there.keys() - manifest.keys():
        _note(found, folder / name, f"is no part of this output of {output.stage}", "delete it")


def _verify_unlisted(folder: Path, there: dict[str, Path], output: LockedFile, found: Findings) -> None:
    if not there:
        _note(found, folder, f"does not exist (MD5 {output.md5} of {output.stage})", f"run: {_remake(output)}")
        return
    found.files += len(there)
    actual = md5_as_locked(folder)
    if actual != output.md5:
        _note(found, folder, f"expected MD5 {output.md5}, found {actual}", f"delete it, then run: {_remake(output)}")
    for file in there.values():
        _verify_content(file, found)


def _verify_file(path: Path, md5: str, cache: Path, output: LockedFile, found: Findings) -> None:
    cached = _object(cache, md5)
    in_cache = cached.is_file()
    whole = False
    if not in_cache:
        found.not_cached += 1
    elif _same_file(path, cached):
        found.objects += 1
    else:
        whole = _verify_object(cached, output, found)
    back = f"dvc checkout {output.path}" if whole else _remake(output)
    if not path.is_file():
        _note(found, path, f"does not exist (MD5 {md5} of {output.stage})", f"run: {back}")
        return
    found.files += 1
    actual = md5_of(path)
    if actual != md5:
        _note(found, path, f"expected MD5 {md5} of {output.stage}, found {actual}", f"delete it, then run: {back}")
    else:
        _verify_content(path, found)


def _verify_object(cached: Path, output: LockedFile, found: Findings) -> bool:
    """Return whether an object of the cache has the hash that its name says."""
    expected, actual = cached.parent.name + cached.name.removesuffix(_DIR), md5_of(cached)
    found.objects += 1
    if actual == expected:
        return True
    _note(
        found,
        cached,
        f"the cache object of {output.path}: expected MD5 {expected}, found {actual}",
        f"delete it, then run: dvc commit --force {output.stage} where {output.path} is whole, else {_remake(output)}",
    )
    return False


def _verify_content(path: Path, found: Findings) -> None:
    """A file may have been damaged before it was hashed: what carries checksums of its own is held against them."""
    try:
        if path.suffix == ".parquet":
            found.tables += 1
            check_parquet(path)
        elif path.suffix == ".json":
            read_json(path)
    except DcnasError as error:
        _note(found, path, str(error).splitlines()[0].removeprefix(f"{path} "), "run the stage that made it again")


def _note(found: Findings, path: Path, problem: str, remedy: str) -> None:
    found.damages.append(Damage(path=path, problem=problem, remedy=remedy))


def _remake(output: LockedFile) -> str:
    return f"dvc repro --force --single-item {output.stage} (or dvc pull {output.path})"


def _object(cache: Path, md5: str) -> Path:
    return cache / md5[:2] / md5[2:]


def _same_file(path: Path, cached: Path) -> bool:
    """Whether workspace and cache share one file, as with links; it is then hashed once."""
    return path.exists() and path.samefile(cached)


def _files_below(folder: Path) -> Iterator[Path]:
    """What .dvcignore leaves in an output folder."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".tmp" and "__pycache__" not in path.relative_to(folder).parts:
            yield path


def _cache_folder(root: Path) -> Path:
    """Return DVC's cache: what `cache.dir` names in .dvc/config.local or .dvc/config, else .dvc/cache."""
    for name in ("config.local", "config"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(root / ".dvc" / name, encoding="utf-8")
        named = parser.get("cache", "dir", fallback=None)
        if named:
            return root / ".dvc" / named.strip("\"'")
    return root / ".dvc" / "cache"
