"""What a process takes of each batch: all processes together take everything once, with the draws of one process."""

from pathlib import Path

import pytest
import torch

from dcnas_data.loader import ResidentScenes
from dcnas_data.noise import add_training_noise, add_uniform_noise
from dcnas_data.photo_loader import PhotoBatch, PhotoStore
from dcnas_data.photo_views import CentreView, RandomView
from dcnas_data.scenes import read_scenes
from dcnas_data.share import ALL, Share
from dcnas_schema.photo_params import JitterParams, PhotoViewParams

CPU = torch.device("cpu")
VIEW = PhotoViewParams(
    size=32, scale=(0.5, 1.0), ratio=(0.75, 1.25), flip=0.5, centre_share=0.875, memory_mb=10,
    jitter=JitterParams(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
)  # fmt: skip


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("batch", "processes"), [(8, 2), (7, 3), (2, 3), (1, 4), (5, 1)])
def test_every_image_is_one_processs(batch: int, processes: int) -> None:
    """The rows of all processes are the batch, in order, and differ by one image at most."""
    rows = [Share(number=number, of=processes).rows(batch) for number in range(processes)]
    assert torch.cat([row.of(torch.arange(batch)) for row in rows]).tolist() == list(range(batch))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize("processes", [2, 4])
def test_shares_of_scenes_are_the_batches_of_one_process(tiny_scenes: Path, processes: int) -> None:
    """Shuffled and in order, scenes and their noise put together from all shares are what one process sees."""
    scenes = ResidentScenes(read_scenes(tiny_scenes / "train.parquet"), CPU)
    sigmas = torch.tensor([0.1, 0.5])

    def epoch(share: Share) -> list[torch.Tensor]:
        noise, order = seeded(), seeded(1)
        return [
            add_training_noise(
                batch.clean, sigmas, generator=noise, clip=False, memory_format=torch.channels_last, rows=batch.rows
            )
            for batches in (scenes.shuffled(8, order, share), scenes.in_order(6, share))
            for batch in batches
        ]

    parts = zip(*(epoch(Share(number=number, of=processes)) for number in range(processes)), strict=True)
    for together, one in zip([torch.cat(part) for part in parts], epoch(ALL), strict=True):
        assert torch.equal(together, one)


@pytest.mark.parametrize("memory_mb", [10, 0])
def test_shares_of_photos_are_the_batches_of_one_process(tiny_photos: Path, memory_mb: float) -> None:
    """Crops, flips, colours, noise, labels and numbers are those of one process, resident or decoded ahead; a batch too small has none."""
    store = PhotoStore.open([tiny_photos / "train.parquet"], device=CPU, memory_mb=memory_mb, threads=1)

    def epoch(share: Share) -> list[PhotoBatch]:
        view = RandomView(VIEW, draws=seeded(), order=seeded(1))
        return [*store.shuffled(4, view, seeded(2), share), *store.in_order(11, CentreView(VIEW), share)]

    def noisy(batches: list[PhotoBatch]) -> list[torch.Tensor]:
        noise = seeded(3)
        return [add_uniform_noise(b.clean, 1.0, generator=noise, clip=False, rows=b.rows)[0] for b in batches]

    one, first, second = (epoch(share) for share in (ALL, Share(number=0, of=2), Share(number=1, of=2)))
    assert (len(one), len(first), len(second)) == (5, 4, 5), "the last batch has one picture"
    pictures = [noisy(batches) for batches in (one, first, second)]
    for number in range(4):
        joined = torch.cat([pictures[1][number], pictures[2][number]])
        torch.testing.assert_close(joined, pictures[0][number], rtol=0, atol=1e-6)
        for name in ("labels", "numbers"):
            parts = [getattr(batches[number], name) for batches in (first, second)]
            assert torch.equal(torch.cat(parts), getattr(one[number], name))
