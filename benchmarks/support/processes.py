"""The processes of a run as /proc tells them: who is below whom, of which kind, who is left."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["dvc", "stage", "child of a stage", "child of dvc"]
"""A stage's command is what dvc started with DVC_STAGE in its environment; what that starts in turn is its child."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """A living process of a run."""

    pid: int
    kind: Kind
    stage: str | None
    """The pipeline stage that it belongs to."""


def tree(root: int) -> list[Process]:
    """Return the living processes from `root`, which is dvc, downwards."""
    below: dict[int, list[int]] = {}
    for pid, (parent, _, state) in _all().items():
        if state != "Z":
            below.setdefault(parent, []).append(pid)
    found, waiting = [], [(root, 0)]
    while waiting:
        pid, depth = waiting.pop()
        stage = _stage_of(pid)
        found.append(Process(pid=pid, kind=_kind(depth, stage), stage=stage if depth else None))
        waiting += [(child, depth + 1) for child in below.get(pid, ())]
    return found


def wait_until_gone(session: int, seconds: float) -> int:
    """Wait until no process of a session is alive, and return how many still were after that time; those are killed."""
    deadline = time.monotonic() + seconds
    while (left := _alive_in(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def _alive_in(session: int) -> list[int]:
    return [pid for pid, (_, its_session, state) in _all().items() if its_session == session and state != "Z"]


def _all() -> dict[int, tuple[int, int, str]]:
    """Return pid -> parent, session and state of every process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent, _, session = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            found[int(folder.name)] = (int(parent), int(session), state)
    return found


def _stage_of(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(b"DVC_STAGE="):
                return entry.split(b"=", 1)[1].decode()
    return None


def _kind(depth: int, stage: str | None) -> Kind:
    if depth == 0:
        return "dvc"
    if stage is None:
        return "child of dvc"
    return "stage" if depth == 1 else "child of a stage"
