"""Collect the provenance of an artefact as it is made."""

import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dcnas_harness.errors import CorruptArtefactError, UnfitEnvironmentError
from dcnas_harness.files import sha256_of
from dcnas_schema.provenance import DeviceCard, Provenance

_PACKAGES = ("torch", "torchvision", "numpy", "pyarrow", "safetensors", "pytorch-msssim", "scikit-learn", "timm")
_WRITTEN_BY_THE_RUN = ("dvc.lock",)


def collect_provenance(
    *, stage: str, item: str, params_sha256: str, seed: int | None, inputs: Iterable[Path], device: DeviceCard
) -> Provenance:
    """
    Return the provenance of what `stage` is about to make.

    Args:
        item: Model and seed, or the name of the split; empty where the pipeline stage has one output.

        inputs: Files that the stage reads; each is hashed here, by its content.

    Raises:
        CorruptArtefactError: An input is missing.

        UnfitEnvironmentError: Git was killed while it was asked.
    """
    commit, dirty = _git_state()
    return Provenance(
        stage=stage,
        item=item,
        commit=commit,
        dirty=dirty,
        params_sha256=params_sha256,
        seed=seed,
        inputs={path.as_posix(): _hash_of_input(path) for path in inputs},
        device=device,
        versions={package: found for package in _PACKAGES if (found := _version(package))},
    )


def _hash_of_input(path: Path) -> str:
    if not path.is_file():
        raise CorruptArtefactError(f"{path} does not exist.", remedy="run: dvc repro (or dvc pull)")
    return sha256_of(path)


def _git_state() -> tuple[str | None, tuple[str, ...] | None]:
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no", "--no-renames", "-z")
    if commit is None or status is None:
        return None, None
    changed = (entry[3:] for entry in status.split("\0") if entry)
    return commit.strip(), tuple(sorted(path for path in changed if path not in _WRITTEN_BY_THE_RUN))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode < 0:  # not "there is no checkout": the provenance would lose its commit in silence
        raise UnfitEnvironmentError(
            f"git {arguments[0]} was killed by signal {-done.returncode}.", remedy="run the same command again"
        )
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
