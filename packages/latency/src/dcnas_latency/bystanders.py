"""How much of the processors other programs take while a turn is timed: a ratio is as honest as the machine is quiet."""

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
MOST_OTHERS_PCT = 5.0
"""Share of the processors' time, in per cent, that others may take without a doubt about a figure."""
_PROBE_S = 1.0
_STAT = Path("/proc/stat")


class Bystanders:
    """
    Watches from its making on; `share()` says what part of the cores' time others took, 0 to 1, `None` where the system does not tell.

    Others are all but this process and its descendants (a compiler's helpers are grandchildren), a hypervisor's stolen time included.

    Args:
        cores: Those that the work is bound to: on a large machine a few busy neighbours are nothing to all cores, and everything to these.
            All, where none are named.
    """

    def __init__(self, cores: Sequence[int] = ()) -> None:
        self._cores = tuple(cores)
        self._began, self._busy, self._own = time.monotonic(), _busy_s(self._cores), _own_s()

    def share(self) -> float | None:
        """Return the part of the cores' time that went to others since this object was made."""
        busy = _busy_s(self._cores)
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_s() - self._own)
        count = len(self._cores) or os.cpu_count() or 1
        return min(max(others / ((time.monotonic() - self._began) * count), 0.0), 1.0)


def wait_for_quiet(patience_s: float) -> None:
    """Wait, at most `patience_s`, until others leave the processors alone for a second."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() + _PROBE_S < deadline:
        watch = Bystanders()
        time.sleep(_PROBE_S)
        if 100 * (watch.share() or 0.0) < MOST_OTHERS_PCT:
            return


def _busy_s(cores: Sequence[int] = ()) -> float | None:
    """Return the seconds that these cores, or all, have worked since the machine's start: one line of /proc/stat each (proc(5))."""
    names = {f"cpu{core}" for core in cores} or {"cpu"}
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines()]
    except OSError:
        return None
    found = [fields[1:9] for fields in lines if fields and fields[0] in names]
    if len(found) != len(names):
        return None
    ticks = 0
    for fields in found:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
        ticks += user + nice + system + irq + softirq + steal
    return ticks / _TICKS


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
