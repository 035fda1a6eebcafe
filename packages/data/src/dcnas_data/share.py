"""What one of several processes takes of every batch; what is random is drawn for the whole batch, so that no draw depends on it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Consecutive images of a batch."""

    whole: int
    """Images of the batch."""
    first: int
    end: int
    """Number of the image behind the last."""

    def __len__(self) -> int:
        return self.end - self.first

    def of(self, values: Tensor) -> Tensor:
        """Return these rows of a tensor that has one for each image of the batch."""
        return values if len(self) == self.whole else values[self.first : self.end]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The part of each batch that process `number` of `of` takes; by default all of it."""

    number: int = 0
    of: int = 1

    def rows(self, batch: int) -> Rows:
        """Return its rows of a batch of so many images: as many as any other process's, or one fewer."""
        return Rows(whole=batch, first=batch * self.number // self.of, end=batch * (self.number + 1) // self.of)


ALL = Share()
"""The share of a process that is alone."""


def all_rows(images: int) -> Rows:
    """Return the rows of a whole batch."""
    return Rows(whole=images, first=0, end=images)
