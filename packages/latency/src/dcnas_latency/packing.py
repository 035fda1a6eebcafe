"""Pack the points to be measured into whole nets: one timed pass of a joint net gives one point of every place."""

from collections import defaultdict, deque
from collections.abc import Sequence

from dcnas_latency.rig import Subject
from dcnas_schema.genotype import BlockChoice, Genotype, block_key, parts_of
from dcnas_schema.keys import LatencyKey, Part
from dcnas_schema.space import OPS, PLACES, NetKind, OpName, padded, width_bounds


def pack(points: Sequence[Part], *, ops: Sequence[OpName], height: int, width: int, classes: int) -> list[Subject]:
    """
    Return joint nets that hold every point at least once; places that run out of points repeat theirs.

    Places that share a key share its points, so the number of nets is that of the place with the most.
    """
    homes: dict[LatencyKey, list[int]] = defaultdict(list)
    for number, place in enumerate(PLACES):
        for key in dict.fromkeys(block_key(place, op, padded(height), padded(width)) for op in ops):
            homes[key].append(number)
    queues: list[deque[Part]] = [deque() for _ in PLACES]
    for part in points:
        shortest = min(homes[part.key], key=lambda number: len(queues[number]))
        queues[shortest].append(part)
    count = max((len(queue) for queue in queues), default=0)
    fillers = [_fillers(queue, homes, number, points) for number, queue in enumerate(queues)]
    return [
        _net([fill[net % len(fill)] for fill in fillers], ops, height=height, width=width, classes=classes)
        for net in range(count)
    ]


def whole_net(genotype: Genotype, kind: NetKind, *, height: int, width: int, classes: int) -> Subject:
    """Return a whole net of the space as something to time."""
    parts = parts_of(kind, genotype, height=height, width=width, classes=classes)
    return Subject(kind=kind, parts=parts, genotype=genotype)


def _fillers(queue: deque[Part], homes: dict[LatencyKey, list[int]], number: int, points: Sequence[Part]) -> list[Part]:
    """Return what stands at a place, net by net: its own points, or those of the places that share its keys, or any of its widths."""
    own = list(queue) or [part for part in points if number in homes[part.key]]
    if own:
        return own
    key = next(key for key, places in homes.items() if number in places)
    least, _ = width_bounds(key.in_channels, OPS["k3_e3"])
    return [Part(key, least)]


def _net(points: Sequence[Part], ops: Sequence[OpName], *, height: int, width: int, classes: int) -> Subject:
    stages: dict[int, list[BlockChoice]] = defaultdict(list)
    for place, part in zip(PLACES, points, strict=True):
        assert part.mid_channels is not None
        op = next(
            op
            for op in ops
            if block_key(place, op, padded(height), padded(width)) == part.key
            and width_bounds(place.in_channels, OPS[op])[0]
            <= part.mid_channels
            <= width_bounds(place.in_channels, OPS[op])[1]
        )
        stages[place.stage].append(BlockChoice(op=op, mid_channels=part.mid_channels))
    genotype = Genotype(stages=tuple(tuple(stages[stage]) for stage in sorted(stages)))
    return whole_net(genotype, "dc_nas", height=height, width=width, classes=classes)
