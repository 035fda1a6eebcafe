"""Handwritten digits, 28x28: MNIST's four original files, or scikit-learn's embedded set up-sampled."""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_schema.params import DigitsParams
from dcnas_schema.scenes import DIGIT_SIZE

MNIST_VALIDATION_DIGITS = 5000
"""The last digits of MNIST's training set, kept for validation scenes."""

_OPTDIGITS_SHARES = (0.70, 0.15, 0.15)
_IDX_HEADER_BYTES = {"images": 16, "labels": 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitSet:
    """Source digits of one split."""

    images: NDArray[np.uint8]
    """n x 28 x 28, 0 is background."""
    labels: NDArray[np.uint8]
    """n, values 0 to 9."""
    indices: NDArray[np.int32]
    """n, number of each digit within its source: no number stands in two splits."""


def load_digits(params: DigitsParams) -> dict[str, DigitSet]:
    """
    Return the source digits of the splits `train`, `validation` and `test`, disjoint by construction.

    Raises:
        BadInputError: An MNIST file is missing, or the download failed.

        CorruptArtefactError: An MNIST file's MD5 is not torchvision's.
    """
    if params.source == "optdigits":
        return _split_optdigits()
    assert params.root is not None, "checked with the parameters"
    return _split_mnist(Path(params.root).expanduser(), download=params.download)


def _split_optdigits() -> dict[str, DigitSet]:
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    images = upsample_8x8(bunch.images)
    labels = bunch.target.astype(np.uint8)
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels)).astype(np.int32)
    ends = (np.cumsum(_OPTDIGITS_SHARES) * len(order)).round().astype(int)
    parts = np.split(order, ends[:-1])
    return {
        split: DigitSet(images=images[part], labels=labels[part], indices=part)
        for split, part in zip(("train", "validation", "test"), parts, strict=True)
    }


def upsample_8x8(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    """
    Up-sample n x 8 x 8 digits with values 0 to 16 to n x 28 x 28 uint8: bilinear to 20x20, centred in a margin of 4 as MNIST is.
    """
    inner, margin = 20, 4
    positions = np.linspace(0, 7, inner)
    low = np.minimum(positions.astype(int), 6)
    weights = np.zeros((inner, 8))
    weights[np.arange(inner), low] = 1 - (positions - low)
    weights[np.arange(inner), low + 1] = positions - low
    large = np.einsum("ir,nrc,jc->nij", weights, images, weights)
    scaled = np.rint(large * (255 / 16)).astype(np.uint8)
    return np.pad(scaled, ((0, 0), (margin, margin), (margin, margin)))


def _split_mnist(root: Path, *, download: bool) -> dict[str, DigitSet]:
    files = _mnist_files(root, download=download)
    names = [name.removesuffix(".gz") for name in files]
    parsed = {name: _parse_idx(path) for name, path in zip(names, files.values(), strict=True)}
    images = np.concatenate([parsed["train-images-idx3-ubyte"], parsed["t10k-images-idx3-ubyte"]])
    labels = np.concatenate([parsed["train-labels-idx1-ubyte"], parsed["t10k-labels-idx1-ubyte"]])
    test_start = len(parsed["train-labels-idx1-ubyte"])
    bounds = {
        "train": (0, test_start - MNIST_VALIDATION_DIGITS),
        "validation": (test_start - MNIST_VALIDATION_DIGITS, test_start),
        "test": (test_start, len(labels)),
    }
    return {
        split: DigitSet(images=images[a:b], labels=labels[a:b], indices=np.arange(a, b, dtype=np.int32))
        for split, (a, b) in bounds.items()
    }


def _mnist_files(root: Path, *, download: bool) -> dict[str, Path]:
    from torchvision.datasets import MNIST

    names = [name for name, _ in MNIST.resources]
    found = _present(root, names)
    if len(found) < len(names) and download:
        try:
            MNIST(str(root), download=True)
        except (RuntimeError, OSError) as error:
            raise BadInputError(
                f"MNIST could not be downloaded into {root}: {error}",
                remedy="set generate_data.digits.root to a folder that holds MNIST's four .gz files",
            ) from error
        found = _present(root, names)
    if absent := [name for name in names if name not in found]:
        raise BadInputError(
            f"Of MNIST's four files {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} neither in {root} nor in MNIST/raw below it.",
            where="params.yaml: generate_data.digits.root",
            remedy="put the four .gz files there, or set generate_data.digits.download: true, or source: optdigits",
        )
    for name, md5 in MNIST.resources:
        path = found[name]
        if (actual := hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()) != md5:
            raise CorruptArtefactError(
                f"MNIST's file {path} is damaged: its MD5 is {actual}, not {md5}.",
                remedy="delete it and fetch it again",
            )
    return found


def _present(root: Path, names: list[str]) -> dict[str, Path]:
    """Return those of the named files that are there, in `root` or in MNIST/raw below it, where torchvision lays them."""
    places = {name: (root / name, root / "MNIST" / "raw" / name) for name in names}
    return {name: path for name, paths in places.items() if (path := next((p for p in paths if p.is_file()), None))}


def _parse_idx(path: Path) -> NDArray[np.uint8]:
    kind = "images" if "images" in path.name else "labels"
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise CorruptArtefactError(f"{path} is not a whole gzip file: {error}", remedy="fetch it again") from error
    values = np.frombuffer(content, np.uint8, offset=_IDX_HEADER_BYTES[kind])
    return values.reshape(-1, DIGIT_SIZE, DIGIT_SIZE) if kind == "images" else values
