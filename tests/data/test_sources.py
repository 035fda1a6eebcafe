"""Source digits: scikit-learn's set as it is up-sampled, MNIST's four files checked before they are read."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dcnas_data.sources import MNIST_VALIDATION_DIGITS, load_digits, upsample_8x8
from dcnas_harness.errors import BadInputError, CorruptArtefactError
from dcnas_schema.params import DigitsParams, Params

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TRAIN, TEST = MNIST_VALIDATION_DIGITS + 100, 30


@pytest.fixture
def params(tiny_params: Callable[..., Params]) -> Callable[..., DigitsParams]:
    """A function that gives the parameters of MNIST digits in a folder."""

    def make(root: Path, *, download: bool = False) -> DigitsParams:
        changes = {"source": "mnist", "root": str(root), "download": download}
        return tiny_params(
            {f"generate_data.digits.{key}": value for key, value in changes.items()}
        ).generate_data.digits

    return make


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four files in MNIST's form, whose MD5 torchvision is told; digit i is filled with i modulo 251."""
    from torchvision.datasets import MNIST

    root = tmp_path / "mnist"
    root.mkdir()
    resources = []
    for name in NAMES:
        count = TRAIN if name.startswith("train") else TEST
        numbers = np.arange(count) + (0 if name.startswith("train") else TRAIN)
        if "images" in name:
            header = np.array([2051, count, 28, 28], ">i4").tobytes()
            body = np.repeat((numbers % 251).astype(np.uint8), 28 * 28).tobytes()
        else:
            header, body = np.array([2049, count], ">i4").tobytes(), (numbers % 10).astype(np.uint8).tobytes()
        path = root / f"{name}.gz"
        path.write_bytes(gzip.compress(header + body, compresslevel=1, mtime=0))
        resources.append((path.name, hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    return root


def test_up_sampling_keeps_the_corners_and_the_scale() -> None:
    """The 8x8 corners stand at the corners of the inner 20x20, 0 to 16 becomes 0 to 255, a margin of 4 stays empty."""
    image = np.zeros((1, 8, 8))
    image[0, 0, 0], image[0, 7, 7], image[0, 0, 7] = 16, 8, 4
    large = upsample_8x8(image)[0]
    assert large.shape == (28, 28)
    assert (large[4, 4], large[23, 23], large[4, 23], large[23, 4]) == (255, 128, 64, 0)
    large[4:24, 4:24] = 0
    assert large.max() == 0


def test_up_sampling_is_bilinear() -> None:
    """A ramp stays a ramp, and a constant stays constant."""
    ramp = np.broadcast_to(np.arange(8.0), (1, 8, 8))
    expected = np.rint(np.linspace(0, 7, 20) * 255 / 16)
    np.testing.assert_array_equal(upsample_8x8(ramp)[0, 10, 4:24], expected)
    assert set(upsample_8x8(np.full((1, 8, 8), 16.0))[0, 4:24, 4:24].ravel()) == {255}


def test_mnist_splits_are_disjoint_and_in_order(mnist: Path, params: Callable[..., DigitsParams]) -> None:
    """The last 5000 training digits are for validation, the test set is for testing; pixels and labels belong to their index."""
    sets = load_digits(params(mnist))
    assert {split: len(digits.labels) for split, digits in sets.items()} == {
        "train": 100,
        "validation": MNIST_VALIDATION_DIGITS,
        "test": TEST,
    }
    indices = np.concatenate([sets[split].indices for split in ("train", "validation", "test")])
    np.testing.assert_array_equal(indices, np.arange(TRAIN + TEST))
    for digits in sets.values():
        np.testing.assert_array_equal(digits.images[:, 0, 0], digits.indices % 251)
        np.testing.assert_array_equal(digits.images[:, 27, 27], digits.indices % 251)
        np.testing.assert_array_equal(digits.labels, digits.indices % 10)


def test_mnist_is_found_where_torchvision_puts_it(mnist: Path, params: Callable[..., DigitsParams]) -> None:
    """The four files may stand in MNIST/raw below the folder."""
    raw = mnist / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in NAMES:
        (mnist / f"{name}.gz").rename(raw / f"{name}.gz")
    assert len(load_digits(params(mnist))["test"].labels) == TEST


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_mnist_file_is_named(mnist: Path, params: Callable[..., DigitsParams], name: str) -> None:
    """A file that is not there is bad input (exit 2): the message names file, folder, parameter and remedy."""
    (mnist / f"{name}.gz").unlink()
    with pytest.raises(BadInputError, match=rf"(?s){name}\.gz.*mnist.*generate_data\.digits\.root.*optdigits"):
        load_digits(params(mnist))


@pytest.mark.parametrize("moved", [(), NAMES, NAMES[:2]], ids=["root", "raw", "both"])
def test_only_absent_mnist_files_are_named(
    mnist: Path, params: Callable[..., DigitsParams], moved: tuple[str, ...]
) -> None:
    """Wherever the other files lie, in the folder or in MNIST/raw below it, the message names the two that are in neither."""
    raw = mnist / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in moved:
        (mnist / f"{name}.gz").rename(raw / f"{name}.gz")
    assert len(load_digits(params(mnist))["test"].labels) == TEST
    for name in NAMES[1:3]:
        next(mnist.rglob(f"{name}.gz")).unlink()
    with pytest.raises(BadInputError) as caught:
        load_digits(params(mnist))
    assert [name for name in NAMES if name in str(caught.value)] == list(NAMES[1:3])


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_mnist_file_is_named(mnist: Path, params: Callable[..., DigitsParams], name: str) -> None:
    """One changed bit, or a cut file, is a corrupt artefact (exit 4) that names the file and both MD5 sums."""
    path = mnist / f"{name}.gz"
    content = path.read_bytes()
    middle = len(content) // 2
    for damage in (content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], content[:-1], b""):
        path.write_bytes(damage)
        expected = hashlib.md5(content, usedforsecurity=False).hexdigest()
        with pytest.raises(CorruptArtefactError, match=rf"(?s){name}\.gz is damaged.*{expected}"):
            load_digits(params(mnist))


def test_files_that_are_there_are_not_downloaded(
    mnist: Path, params: Callable[..., DigitsParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `download: true` and all four files in the folder nothing is fetched: the network may be absent."""
    from torchvision.datasets import MNIST

    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("there is no network")

    monkeypatch.setattr(MNIST, "__init__", refuse)
    assert len(load_digits(params(mnist, download=True))["test"].labels) == TEST


def test_a_download_that_was_cut_short_is_taken_up_again(
    mnist: Path, params: Callable[..., DigitsParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder MNIST/raw that holds only some of the files, as a killed download leaves it, is completed."""
    from torchvision.datasets import MNIST

    raw = mnist / "MNIST" / "raw"
    raw.mkdir(parents=True)
    kept = {name: (mnist / f"{name}.gz").read_bytes() for name in NAMES}
    for name in NAMES:
        (mnist / f"{name}.gz").unlink()
    (raw / f"{NAMES[0]}.gz").write_bytes(kept[NAMES[0]])

    def fetch(_self: object, root: str, *, download: bool) -> None:
        assert download
        for name, content in kept.items():
            (Path(root) / "MNIST" / "raw" / f"{name}.gz").write_bytes(content)

    monkeypatch.setattr(MNIST, "__init__", fetch)
    assert len(load_digits(params(mnist, download=True))["test"].labels) == TEST


def test_a_failed_download_says_what_else_to_do(
    tmp_path: Path, params: Callable[..., DigitsParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network the message names the folder and the parameter that takes local files (exit 2)."""
    from torchvision.datasets import MNIST

    def refuse(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(MNIST, "__init__", refuse)
    with pytest.raises(BadInputError, match=r"(?s)could not be downloaded.*generate_data\.digits\.root"):
        load_digits(params(tmp_path, download=True))


@pytest.mark.skipif(
    "DCNAS_MNIST_ROOT" not in os.environ, reason="set DCNAS_MNIST_ROOT to a folder with MNIST's four files"
)
def test_the_real_mnist_is_read(params: Callable[..., DigitsParams]) -> None:
    """The real files pass the check; the first training digit is the known 5, the first test digit the known 7."""
    sets = load_digits(params(Path(os.environ["DCNAS_MNIST_ROOT"])))
    assert [len(sets[split].labels) for split in ("train", "validation", "test")] == [55_000, 5_000, 10_000]
    assert (sets["train"].labels[0], sets["test"].labels[0]) == (5, 7)
    assert sets["train"].images.mean() == pytest.approx(0.1307 * 255, rel=0.01)
