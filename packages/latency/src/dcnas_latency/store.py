"""Samples of finished rounds on disk, so that an interrupted profile goes on where it stopped."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dcnas_harness.files import write_text
from dcnas_latency.rig import RigSample, Subject


@dataclass(kw_only=True, slots=True)
class SampleStore:
    """
    Samples of finished rounds in a scratch folder.

    Args:
        folder: Named by the digest of everything that the samples depend on; `None` keeps nothing.
    """

    folder: Path | None

    def read(self, phase: str, round: int, build: int) -> list[RigSample] | None:
        """Return the stored samples; `None` where there are none, or a half-written file of an older format."""
        path = self._path(phase, round, build)
        if path is None or not path.is_file():
            return None
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return [RigSample(**{**row, "part_ms": tuple(row["part_ms"])}) for row in rows]
        except (ValueError, TypeError, KeyError):
            return None  # measured again

    def write(self, phase: str, round: int, build: int, samples: Sequence[RigSample]) -> None:
        """Keep the samples of one round of one build."""
        path = self._path(phase, round, build)
        if path is not None:
            write_text(path, json.dumps([asdict(sample) for sample in samples]))

    def _path(self, phase: str, round: int, build: int) -> Path | None:
        return None if self.folder is None else self.folder / f"{phase}-{round:04d}-{build}.json"


def phase_name(name: str, subjects: Sequence[Subject]) -> str:
    """
    Return what the rounds of a phase are kept under: its name, and a digest of what it times in which order.

    A sample names its subject by number only: rounds of another plan must never be taken for those of this one.
    """
    digest = hashlib.sha256()
    for subject in subjects:
        digest.update(f"{subject.kind} {subject.reference}\n".encode())
        for part in subject.parts:
            digest.update(f"{part.key} {part.mid_channels}\n".encode())
    return f"{name}-{digest.hexdigest()[:12]}"
