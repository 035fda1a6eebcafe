"""The interface between deciding what to measure and measuring it: a rig loads subjects and gives samples, build by build."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from dcnas_schema.genotype import Genotype
from dcnas_schema.keys import Part
from dcnas_schema.latency import Clock
from dcnas_schema.photo_models import BaselineClassifier
from dcnas_schema.provenance import DeviceState
from dcnas_schema.space import NetKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is timed as one call: a whole net of the space, a part alone, or a net of the literature."""

    kind: NetKind | None
    """Of a net of the space; `None` for the others."""
    parts: tuple[Part, ...]
    """Of a whole net in the order of the forward pass (`parts_of`), or the one part; empty of a net of the literature."""
    genotype: Genotype | None
    """Of a net of the space; `None` for the others."""
    reference: BaselineClassifier | None = None
    """The net of the literature; `None` for the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RigSample:
    """One timed call of one subject."""

    subject: int
    """Index into what was loaded."""
    build: int
    round: int
    total_ms: float
    part_ms: tuple[float, ...]
    """Time of each part between marks; empty where none were set."""
    canary_ms: float
    """Of the reference op, the slower of those right before and right after."""
    page_faults: int
    run_delay_ms: float | None
    """Time that our threads waited for a processor; `None` where the system does not tell."""
    wall_ms: float
    enqueue_ms: float | None
    """Time until the call returned, the device still at work; `None` on a CPU."""
    launches_hidden: bool | None = None
    """The whole call was queued before the device began it; `None` off CUDA."""


class Rig(Protocol):
    """
    A device with its timer, in one or more builds: processes that each make every subject anew.

    The caller interleaves: it asks one build after the other, round by round, each time for all subjects in an order of its own.
    """

    in_context: bool
    """Parts can be timed between marks inside a whole net."""
    clock: Clock
    builds: int

    def load(self, subjects: Sequence[Subject]) -> None:
        """Make `subjects` ready in every build, in the place of those loaded before."""

    def sample(self, build: int, *, round: int, marked: bool, order: Sequence[int]) -> list[RigSample]:
        """Time each subject of `order` once in one build; `marked` asks for the parts' times too."""

    def state(self) -> DeviceState:
        """Return the device as it is now."""

    def close(self) -> None:
        """End what was started."""

    def __enter__(self) -> Self:
        """Return the rig; it is closed when the block ends."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the rig."""
