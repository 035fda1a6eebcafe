"""Names beside points, where they cover no other name or point."""

import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes

_Box = tuple[float, float, float, float]
"""Left, low, right, high in pixels."""
_AROUND = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
_REACHES = (1.0, 1.9, 2.8, 3.7, 4.6, 5.5, 6.4, 7.3, 8.2)
_MARK, _GAP, _FAR = 7.0, 14.0, 26.0
"""Half the side of a point, the distance of the nearest names, and that from which a line leads to the point; in pixels."""


def label_points(axes: Axes, points: Sequence[tuple[str, float, float]], ink: str) -> None:
    """
    Write each point's name above, below, right or left of it, further off where there is no room.

    The axes must have their final place; their limits become fixed.

    Args:
        points: Name, and place in data coordinates.
    """
    if not points:
        return
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    places = [tuple(axes.transData.transform((x, y))) for _, x, y in points]
    taken: list[_Box] = [_box(x, y, 2 * _MARK, 2 * _MARK) for x, y in places]
    frame = axes.get_window_extent()
    inside = (frame.x0, frame.y0, frame.x1, frame.y1)
    for (label, data_x, data_y), (x, y) in sorted(zip(points, places, strict=True), key=lambda item: item[1]):
        text = axes.annotate(label, xy=(data_x, data_y), color=ink, fontsize=8, ha="center", va="center")
        size = text.get_window_extent()
        width, height = size.width + 4, size.height + 2
        spots = [
            (x + dx * (width / 2 + _MARK * reach), y + dy * (_GAP if dx == 0 else _GAP / 2) * reach)
            for reach, (dx, dy) in itertools.product(_REACHES, _AROUND)
        ]
        costs = [_cost(_box(*spot, width, height), taken, inside) + 0.4 * number for number, spot in enumerate(spots)]
        spot = spots[costs.index(min(costs))]
        taken.append(_box(*spot, width, height))
        text.set_position(tuple(axes.transData.inverted().transform(spot)))
        if abs(spot[1] - y) > _FAR or abs(spot[0] - x) > width / 2 + _FAR:
            end = axes.transData.inverted().transform((spot[0], spot[1] - (height / 2 if spot[1] > y else -height / 2)))
            axes.plot([data_x, end[0]], [data_y, end[1]], color=ink, alpha=0.35, lw=0.7, scalex=False, scaley=False)


def _box(x: float, y: float, width: float, height: float) -> _Box:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _cost(box: _Box, taken: Sequence[_Box], inside: _Box) -> float:
    outside = sum(
        max(value, 0) for value in (inside[0] - box[0], inside[1] - box[1], box[2] - inside[2], box[3] - inside[3])
    )
    return 50 * outside + 20 * sum(_overlap(box, other) for other in taken)


def _overlap(a: _Box, b: _Box) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
