"""Scenes on the device: whole epochs, every scene once, pixels in [0, 1]."""

from itertools import chain
from pathlib import Path

import pytest
import torch

from dcnas_data.loader import ResidentScenes, SceneBatch
from dcnas_data.scenes import Scenes, read_scenes


@pytest.fixture
def scenes(tiny_scenes: Path) -> Scenes:
    """The sixteen training scenes."""
    return read_scenes(tiny_scenes / "train.parquet")


@pytest.fixture
def resident(scenes: Scenes) -> ResidentScenes:
    """The same scenes on the CPU, each marked by its number in the first pixel."""
    scenes.images[:, 0, 0] = range(len(scenes.images))
    return ResidentScenes(scenes, torch.device("cpu"))


def numbers(batch: SceneBatch) -> list[int]:
    """Return the marks of a batch's scenes."""
    marks: list[int] = (batch.clean[:, 0, 0, 0] * 255).round().int().tolist()
    return marks


def shuffled(resident: ResidentScenes, batch_size: int, seed: int = 0) -> list[list[int]]:
    """Return the marks of one shuffled epoch, batch by batch."""
    return [numbers(batch) for batch in resident.shuffled(batch_size, torch.Generator().manual_seed(seed))]


def test_a_batch_holds_pixels_labels_and_corners_of_the_same_scenes(resident: ResidentScenes, scenes: Scenes) -> None:
    """Pixels are float32 in [0, 1] as one channel; labels and corners are those of the same rows."""
    index = torch.tensor([3, 0, 7])
    batch = resident.batch(index)
    assert batch.clean.shape == (3, 1, 56, 56)
    assert batch.clean.dtype == torch.float32
    assert torch.equal((batch.clean[:, 0] * 255).round().byte(), torch.from_numpy(scenes.images)[index])
    assert 0 <= batch.clean.min() < batch.clean.max() <= 1
    assert batch.labels.tolist() == scenes.labels[[3, 0, 7]].tolist()
    assert batch.corners.tolist() == scenes.corners[[3, 0, 7]].tolist()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 16])
def test_a_shuffled_epoch_shows_no_scene_twice(resident: ResidentScenes, batch_size: int) -> None:
    """Batches are whole and distinct; only the remainder that fills no batch is left out."""
    epoch = shuffled(resident, batch_size)
    assert [len(batch) for batch in epoch] == [batch_size] * (16 // batch_size)
    seen = [number for batch in epoch for number in batch]
    assert len(set(seen)) == len(seen)


def test_the_order_follows_the_generator(resident: ResidentScenes) -> None:
    """The same generator state gives the same order, another one another; a second epoch goes on and differs."""
    assert shuffled(resident, 4) == shuffled(resident, 4)
    assert shuffled(resident, 4) != shuffled(resident, 4, seed=1)
    generator = torch.Generator().manual_seed(0)
    first, second = ([numbers(b) for b in resident.shuffled(4, generator)] for _ in range(2))
    assert first != second
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(16))


def test_every_scene_is_drawn_in_time(resident: ResidentScenes) -> None:
    """The scenes that a remainder leaves out are others in other epochs."""
    generator = torch.Generator().manual_seed(0)
    seen = {number for _ in range(20) for batch in resident.shuffled(12, generator) for number in numbers(batch)}
    assert seen == set(range(16))


@pytest.mark.parametrize("batch_size", [1, 5, 16, 100])
def test_in_order_gives_every_scene_once(resident: ResidentScenes, batch_size: int) -> None:
    """The last batch may be smaller; nothing is left out or shuffled."""
    assert list(chain(*(numbers(batch) for batch in resident.in_order(batch_size)))) == list(range(16))


def test_scenes_stay_as_they_are_stored(resident: ResidentScenes) -> None:
    """On the device a pixel takes one byte, and using a batch does not change the store."""
    before = resident.images.clone()
    resident.batch(slice(0, 4)).clean.fill_(9)
    assert resident.images.dtype == torch.uint8
    assert torch.equal(resident.images, before)


def test_too_small_a_set_gives_no_batch(resident: ResidentScenes) -> None:
    """A batch larger than the set is none: the parameters refuse it before."""
    assert shuffled(resident, 17) == []
