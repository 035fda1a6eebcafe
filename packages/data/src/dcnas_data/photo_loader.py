"""Photographs for training: decoded once onto the device where they fit, else by threads ahead of time; the loop never waits for them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dcnas_data.photo_files import decode_stored
from dcnas_data.photo_views import RawPhotos, View
from dcnas_data.photos import Photos, ordered_map, read_photos
from dcnas_data.share import ALL, Rows, Share
from dcnas_harness.errors import CorruptArtefactError

_CHUNK = 64
"""Pictures decoded by one thread at a time."""
_AHEAD = 2
"""Batches decoded ahead for each thread, where pictures are not resident; fewer where they would take more than `memory_mb`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoBatch:
    """Photographs on the device."""

    clean: Tensor
    """batch x 3 x size x size, float32 in [0, 1]."""
    labels: Tensor
    """batch, int64."""
    numbers: Tensor
    """batch, int64, on the CPU: the number of each picture in the store, by which evaluation noise is drawn."""
    rows: Rows
    """Which pictures of a batch that several processes share these are."""


class PhotoStore:
    """
    The pictures of one split, or of several one after the other.

    Args:
        splits: As read; all have the same classes.

        memory_mb: Most memory for decoded pictures on `device`, in units of 10^6 bytes: three bytes a pixel. Where it does not suffice,
            `threads` decode batches ahead of time instead, at least one and no more than fit into it, and the pictures come out the same.

    Raises:
        CorruptArtefactError: The splits have different classes, or a picture does not decode to its size.
    """

    def __init__(self, splits: Sequence[Photos], *, device: torch.device, memory_mb: float, threads: int) -> None:
        if len({split.metadata.classes for split in splits}) != 1:
            raise CorruptArtefactError(
                "photo splits that are used together have different classes.", remedy="run: dvc repro generate_data"
            )
        self.classes = splits[0].metadata.classes
        self._splits, self._device, self._threads = splits, device, threads
        self.memory_mb = memory_mb
        self._starts = np.cumsum([0, *(len(split.labels) for split in splits)])
        sizes = np.concatenate([split.sizes for split in splits])
        self._shapes = sizes
        self._sizes = torch.from_numpy(sizes).float().to(device)
        self.labels = torch.from_numpy(np.concatenate([split.labels for split in splits])).long().to(device)
        self._areas = 3 * sizes.prod(axis=1, dtype=np.int64)
        self.resident = bool(self._areas.sum() <= memory_mb * 1e6)
        self._flat = self._decode_all().to(device) if self.resident else None
        self._offsets = np.cumsum([0, *self._areas])
        self._uniform = bool((sizes == sizes[0]).all()) if len(sizes) else True

    @classmethod
    def open(cls, paths: Sequence[Path], *, device: torch.device, memory_mb: float, threads: int) -> "PhotoStore":
        """
        Read the files of splits and make a store of them: `train` and `validation` together retrain a derived net.

        Raises:
            CorruptArtefactError: A file is missing, damaged, or does not fit the others.
        """
        return cls([read_photos(path) for path in paths], device=device, memory_mb=memory_mb, threads=threads)

    @property
    def resident_mb(self) -> float:
        """Memory that decoded pictures take on the device for as long as the store lives, in units of 10^6 bytes."""
        return float(self._areas.sum()) / 1e6 if self.resident else 0.0

    @property
    def largest(self) -> tuple[int, int]:
        """Greatest height and greatest width of all pictures: what a batch of any of them is padded to at most."""
        height, width = self._shapes.max(axis=0).tolist()
        return height, width

    def __len__(self) -> int:
        return len(self.labels)

    def shuffled(self, batch_size: int, view: View, order: torch.Generator, share: Share = ALL) -> Iterator[PhotoBatch]:
        """
        Yield one epoch in random order, in whole batches; the remainder of a shuffle is left out, as batch norm wants equal ones.

        Args:
            order: Lives on the CPU; one permutation is drawn from it.

            share: What is wanted of each batch; nothing else is decoded.
        """
        numbers = torch.randperm(len(self), generator=order)
        whole = len(self) - len(self) % batch_size
        yield from self._batches(numbers[:whole], batch_size, view, share)

    def in_order(self, batch_size: int, view: View, share: Share = ALL) -> Iterator[PhotoBatch]:
        """
        Yield every picture once, in the order of the files; the last batch may be smaller.

        Args:
            share: What is wanted of each batch; one so small that it has no picture for this process is left out.
        """
        yield from self._batches(torch.arange(len(self)), batch_size, view, share)

    def _batches(self, numbers: Tensor, batch_size: int, view: View, share: Share) -> Iterator[PhotoBatch]:
        batches = torch.split(numbers, batch_size) if len(numbers) else ()
        shares = [(share.rows(len(batch)), batch) for batch in batches]
        shares = [(rows, batch) for rows, batch in shares if len(rows)]
        parts = [rows.of(batch) for rows, batch in shares]
        on_device = torch.split(numbers.to(self._device), batch_size) if len(numbers) else ()
        indices = [rows.of(index) for (rows, _), index in zip(shares, on_device, strict=False)]
        pixels = self._pixels(parts, indices)
        for (rows, _), whole, part, index, of_part in zip(shares, on_device, parts, indices, pixels, strict=False):
            raw = RawPhotos(pixels=of_part, sizes=self._sizes[whole], rows=rows)
            yield PhotoBatch(clean=view(raw), labels=self.labels[index], numbers=part, rows=rows)

    def _pixels(self, parts: Sequence[Tensor], indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield batch x 3 x height x width, uint8, on the device."""
        if self._flat is None:
            ahead = self._batches_ahead(max(map(len, parts), default=1))
            for padded in ordered_map(self._decode_batch, parts, threads=self._threads, ahead=ahead):
                yield padded.to(self._device, non_blocking=True)
        elif self._uniform:
            images = self._flat.view(len(self), 3, *self._shapes[0].tolist()) if len(self) else self._flat
            yield from (images[index] for index in indices)
        else:
            yield from (self._gathered(part.tolist(), self._flat) for part in parts)

    def _batches_ahead(self, size: int) -> int:
        """Return how many batches of `size` pictures may wait."""
        height, width = self.largest
        fitting = int(self.memory_mb * 1e6 // (3 * height * width * size))
        return max(1, min(_AHEAD * self._threads, fitting))

    def _gathered(self, numbers: Sequence[int], flat: Tensor) -> Tensor:
        batch = self._padding(numbers)
        for row, number in zip(batch, numbers, strict=True):
            height, width = self._shapes[number]
            row[:, :height, :width] = flat[self._offsets[number] : self._offsets[number + 1]].view(3, height, width)
        return batch

    def _padding(self, numbers: Sequence[int], device: torch.device | None = None) -> Tensor:
        height, width = self._shapes[numbers].max(axis=0).tolist()
        return torch.zeros((len(numbers), 3, height, width), dtype=torch.uint8, device=device or self._device)

    def _decode_batch(self, numbers: Tensor) -> Tensor:
        batch = self._padding(numbers.tolist(), torch.device("cpu"))
        for row, number in zip(batch, numbers.tolist(), strict=True):
            height, width = self._shapes[number]
            row[:, :height, :width] = torch.from_numpy(self._planes(number))
        return batch.pin_memory() if self._device.type == "cuda" else batch

    def _decode_all(self) -> Tensor:
        flat = np.empty(self._areas.sum(), np.uint8)
        offsets = np.cumsum([0, *self._areas])

        def decode(start: int) -> None:
            for number in range(start, min(start + _CHUNK, len(self._areas))):
                flat[offsets[number] : offsets[number + 1]] = self._planes(number).ravel()

        for _ in ordered_map(
            decode, range(0, len(self._areas), _CHUNK), threads=self._threads, ahead=_AHEAD * self._threads
        ):
            pass
        return torch.from_numpy(flat)

    def _planes(self, number: int) -> NDArray[np.uint8]:
        """Return the pixels of one picture, 3 x height x width."""
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        split, row = self._splits[part], number - int(self._starts[part])
        try:
            pixels = decode_stored(split.encoded(row))
        except (OSError, ValueError, SyntaxError) as error:
            raise CorruptArtefactError(
                f"picture {row} ({split.names[row]}) of the {split.metadata.split} photographs does not decode: {error}",
                remedy="run: dvc repro generate_data",
            ) from error
        if pixels.shape != (*self._shapes[number], 3):
            raise CorruptArtefactError(
                f"picture {row} ({split.names[row]}) of the {split.metadata.split} photographs is {pixels.shape}, not "
                f"{(*self._shapes[number].tolist(), 3)} as its row says",
                remedy="run: dvc repro generate_data",
            )
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
