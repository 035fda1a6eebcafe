"""Photographs for training: whole epochs, every picture once, the same pictures whether resident or decoded ahead of time."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcnas_data import photo_loader
from dcnas_data.photo_files import decode_stored
from dcnas_data.photo_loader import PhotoBatch, PhotoStore
from dcnas_data.photo_views import CentreView, RandomView, RawPhotos
from dcnas_data.photos import Photos, ordered_map, read_photos
from dcnas_harness.errors import CorruptArtefactError
from dcnas_schema.photo_params import JitterParams, PhotosParams, PhotoViewParams

VIEW = PhotoViewParams(
    size=24,
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    jitter=JitterParams(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
    centre_share=1.0,
    memory_mb=1,
)


@pytest.fixture(scope="module")
def ragged_set(
    photos_params: Callable[..., PhotosParams],
    folder_of_classes: Callable[..., Path],
    write_set: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The splits of a folder whose pictures have several widths."""
    folder = tmp_path_factory.mktemp("ragged")
    folder_of_classes(folder / "in", a=12, b=12)
    write_set(photos_params(source="image_folder", root=str(folder / "in")), folder / "out")
    return folder / "out"


def store(folder: Path, splits: Sequence[str] = ("train",), memory_mb: float = 100, threads: int = 2) -> PhotoStore:
    """Return a store on the CPU."""
    paths = [folder / f"{split}.parquet" for split in splits]
    return PhotoStore.open(paths, device=torch.device("cpu"), memory_mb=memory_mb, threads=threads)


def shuffled(photos: PhotoStore, batch_size: int, seed: int = 0, view: object = None) -> list[PhotoBatch]:
    """Return one shuffled epoch."""
    order = torch.Generator().manual_seed(seed)
    return list(photos.shuffled(batch_size, view or CentreView(VIEW), order))  # type: ignore[arg-type] # a View


def numbers(batches: Sequence[PhotoBatch]) -> list[int]:
    """Return the numbers of all pictures of the batches."""
    return [number for batch in batches for number in batch.numbers.tolist()]


def as_stored(raw: RawPhotos) -> Tensor:
    """Show pictures as they are, padding and all."""
    return raw.pixels.float()


@pytest.mark.parametrize("memory_mb", [100, 0])
@pytest.mark.parametrize("name", ["demo_set", "ragged_set"])
def test_pixels_and_labels_are_those_of_the_file(name: str, memory_mb: float, request: pytest.FixtureRequest) -> None:
    """Every picture comes out as it was stored, with its label, of one size or of many, resident or not."""
    folder: Path = request.getfixturevalue(name)
    photos: Photos = read_photos(folder / "train.parquet")
    loaded = store(folder, memory_mb=memory_mb)
    assert loaded.resident == (memory_mb > 0)
    assert loaded.classes == photos.metadata.classes
    seen = 0
    for batch in loaded.in_order(5, as_stored):
        for pixels, label, number in zip(batch.clean, batch.labels, batch.numbers.tolist(), strict=True):
            height, width = photos.sizes[number].tolist()
            expected = decode_stored(photos.encoded(number)).transpose(2, 0, 1)
            assert np.array_equal(pixels[:, :height, :width].numpy(), expected)
            assert int(label) == photos.labels[number]
            assert number == seen
            seen += 1
    assert seen == len(loaded) == len(photos.labels)


@pytest.mark.parametrize("batch_size", [1, 7, 48])
def test_a_shuffled_epoch_shows_no_picture_twice(demo_set: Path, batch_size: int) -> None:
    """Batches are whole and distinct; only the remainder that fills no batch is left out, and not always the same."""
    photos = store(demo_set)
    epoch = shuffled(photos, batch_size)
    assert [len(batch.labels) for batch in epoch] == [batch_size] * (48 // batch_size)
    assert len(set(numbers(epoch))) == len(numbers(epoch))
    assert set().union(*(numbers(shuffled(photos, batch_size, seed)) for seed in range(12))) == set(range(48))
    assert all(batch.clean.shape == (batch_size, 3, 24, 24) for batch in epoch)


def test_too_small_a_set_gives_no_batch(demo_set: Path) -> None:
    """A batch larger than the set is none."""
    assert shuffled(store(demo_set), 49) == []
    assert shuffled(store(demo_set, memory_mb=0), 49) == []


def test_the_epoch_follows_the_generators(ragged_set: Path) -> None:
    """The same states give the same batches to the bit, resident or decoded ahead by any number of threads; other states others."""

    def epoch(seed: int, **how: float) -> list[PhotoBatch]:
        view = RandomView(VIEW, draws=torch.Generator().manual_seed(seed), order=torch.Generator().manual_seed(seed))
        return shuffled(store(ragged_set, **how), 4, seed, view)  # type: ignore[arg-type] # threads is whole

    reference = epoch(0)
    for other in (epoch(0), epoch(0, memory_mb=0, threads=1), epoch(0, memory_mb=0, threads=3)):
        assert numbers(other) == numbers(reference)
        for one, two in zip(reference, other, strict=True):
            assert torch.equal(one.clean, two.clean)
            assert torch.equal(one.labels, two.labels)
    assert numbers(epoch(1)) != numbers(reference)


def test_train_and_validation_together_retrain(demo_set: Path) -> None:
    """A store of two splits has the pictures of both, one after the other, under one numbering."""
    both = store(demo_set, ("train", "validation"))
    parts = [store(demo_set, (split,)) for split in ("train", "validation")]
    assert len(both) == 48 + 16
    whole = torch.cat([batch.clean for batch in both.in_order(10, as_stored)])
    apart = torch.cat([batch.clean for part in parts for batch in part.in_order(10, as_stored)])
    assert torch.equal(whole, apart)
    assert both.labels.tolist() == [label for part in parts for label in part.labels.tolist()]
    assert numbers(list(both.in_order(10, as_stored))) == list(range(64))


def test_sets_of_other_classes_do_not_mix(demo_set: Path, ragged_set: Path) -> None:
    """Labels of two different sets mean different things."""
    paths = [folder / "train.parquet" for folder in (demo_set, ragged_set)]
    with pytest.raises(CorruptArtefactError, match="different classes"):
        PhotoStore.open(paths, device=torch.device("cpu"), memory_mb=1, threads=1)


@pytest.mark.parametrize("memory_mb", [100, 0])
def test_a_picture_that_is_not_what_its_row_says_is_named(demo_set: Path, memory_mb: float) -> None:
    """A wrong size in the table is exit 4, from the threads as well, and never a wrong batch."""
    photos = read_photos(demo_set / "train.parquet")
    photos.sizes[20] = (16, 64)
    with pytest.raises(
        CorruptArtefactError, match=r"picture 20 \(skimage/data/brick\.png\) of the train photographs is"
    ):
        list(
            PhotoStore([photos], device=torch.device("cpu"), memory_mb=memory_mb, threads=2).in_order(
                8, CentreView(VIEW)
            )
        )


def test_an_epoch_may_be_left_in_the_middle(demo_set: Path) -> None:
    """Whoever stops asking leaves no thread behind that works on."""
    import threading

    before = threading.active_count()
    batches = store(demo_set, memory_mb=0).in_order(4, CentreView(VIEW))
    next(batches)
    batches.close()  # type: ignore[attr-defined] # a generator
    assert threading.active_count() == before


def test_pictures_decoded_ahead_take_no_more_memory_than_is_given(
    demo_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many batches wait is counted in bytes: many threads and large batches do not fill the host."""
    ahead: list[int] = []

    def spy(function: object, items: object, *, threads: int, ahead: int, seen: list[int] = ahead) -> object:
        seen.append(ahead)
        return ordered_map(function, items, threads=threads, ahead=ahead)  # type: ignore[arg-type] # handed on as they came

    monkeypatch.setattr(photo_loader, "ordered_map", spy)
    loaded = store(demo_set, memory_mb=0, threads=4)
    height, width = loaded.largest
    of_a_batch = 8 * 3 * height * width / 1e6
    for memory_mb in (0.0, 3.5 * of_a_batch, 1000.0):
        few = PhotoStore([read_photos(demo_set / "train.parquet")], device=torch.device("cpu"), memory_mb=0, threads=4)
        few.memory_mb = memory_mb
        assert len(numbers(list(few.in_order(8, CentreView(VIEW))))) == len(few)
    assert ahead == [1, 3, 8]
