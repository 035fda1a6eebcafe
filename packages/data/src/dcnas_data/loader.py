"""A split resident on the device as uint8, batched by index: the training loop never waits for data."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dcnas_data.scenes import Scenes
from dcnas_data.share import ALL, Rows, Share, all_rows


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneBatch:
    """Scenes on the device."""

    clean: Tensor
    """batch x 1 x height x width, float32 in [0, 1]; broadcasts to the three equal channels."""
    labels: Tensor
    """batch x 2, int64."""
    corners: Tensor
    """batch x 2 x (top, left), int64."""
    rows: Rows
    """Which scenes of a batch that several processes share these are."""


class ResidentScenes:
    """One split on the device, uint8, as it is stored: 30,000 scenes of 96x96 take 276 MB."""

    def __init__(self, scenes: Scenes, device: torch.device) -> None:
        self.images = torch.from_numpy(scenes.images).to(device)
        self.labels = torch.from_numpy(scenes.labels).to(device).long()
        self.corners = torch.from_numpy(scenes.corners).to(device).long()

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor | slice, rows: Rows | None = None) -> SceneBatch:
        """Return the scenes at `index`, which are those `rows` of a batch, or all of one."""
        clean = self.images[index].unsqueeze(1).float().div_(255)
        rows = rows or all_rows(len(clean))
        return SceneBatch(clean=clean, labels=self.labels[index], corners=self.corners[index], rows=rows)

    def shuffled(self, batch_size: int, generator: torch.Generator, share: Share = ALL) -> Iterator[SceneBatch]:
        """
        Yield one epoch in random order, in whole batches; the remainder of a shuffle is left out, as batch norm wants equal ones.

        Args:
            generator: Lives on the CPU; one permutation is drawn from it.

            share: What is wanted of each batch.
        """
        rows = share.rows(batch_size)
        order = torch.randperm(len(self), generator=generator).to(self.images.device)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            yield self.batch(rows.of(order[start : start + batch_size]), rows)

    def in_order(self, batch_size: int, share: Share = ALL) -> Iterator[SceneBatch]:
        """Yield every scene once, in the order of the file; of each batch the share, and nothing of one too small to have any."""
        for start in range(0, len(self), batch_size):
            rows = share.rows(min(batch_size, len(self) - start))
            if len(rows):
                yield self.batch(slice(start + rows.first, start + rows.end), rows)
