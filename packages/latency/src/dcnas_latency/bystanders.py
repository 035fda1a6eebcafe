"""How much of the processors other programs take while a turn is timed: a ratio is as honest as the machine is quiet."""

import os
import time
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_QUIET = 0.05
_PROBE_S = 1.0


class Bystanders:
    """
    Watches from its making on; `share()` says what part of all processors' time others took, 0 to 1, `None` where the system does not tell.

    Others are all but this process and its descendants (a compiler's helpers are grandchildren), a hypervisor's stolen time included.
    """

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy_s(), _own_s()

    def share(self) -> float | None:
        """Return the part of all processors' time that went to others since this object was made."""
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_s() - self._own)
        return min(max(others / ((time.monotonic() - self._began) * (os.cpu_count() or 1)), 0.0), 1.0)


def wait_for_quiet(patience_s: float) -> None:
    """Wait, at most `patience_s`, until others leave the processors alone for a second."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() + _PROBE_S < deadline:
        watch = Bystanders()
        time.sleep(_PROBE_S)
        if (watch.share() or 0.0) < _QUIET:
            return


def _busy_s() -> float | None:
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def _own_s() -> float:
    return sum(os.times()[:4]) + _living_descendants_s()


def _living_descendants_s() -> float:
    """Return the processor time of this process's descendants that were not waited for yet: `os.times` counts only the others."""
    children: dict[str, list[str]] = defaultdict(list)
    seconds: dict[str, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children[fields[1]].append(stat.parent.name)
        seconds[stat.parent.name] = (
            sum(map(int, fields[11:15])) / _TICKS
        )  # its own, and of its children that it waited for
    total, left = 0.0, list(children[str(os.getpid())])
    while left:
        pid = left.pop()
        total += seconds[pid]
        left += children[pid]
    return total
