"""
Compose and write 30,000 two-digit scenes by the real stage; read them back.

Run:    python benchmarks/scenes.py [--mnist FOLDER] [--rounds 3] [--json benchmarks/results/scenes.json]
Takes:  presets/paper.yaml, its source replaced by the embedded optdigits or by MNIST's four .gz files in FOLDER
Expect: under a minute; on 2 cores at most 20 s a round, 60 MB on disk, 1.5 GB of peak memory (process start and imports included)
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from support.contest import Spread
from support.report import Bar, Report
from support.work import Usage, generate_scenes, paper_params

from dcnas_data.scenes import read_scenes
from dcnas_schema.scenes import SPLITS

_READS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", help="folder of MNIST's four .gz files; without it the source is optdigits")
    parser.add_argument("--rounds", type=int, default=3, help="times the stage runs; the median counts")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        params, path = paper_params(Path(folder), mnist=arguments.mnist)
        report = Report("scenes", params, torch.device("cpu"), hidden=[arguments.mnist])
        out = Path(folder) / "digits"
        usages = [generate_scenes(path, out) for _ in range(arguments.rounds)]
        megabytes = sum((out / f"{split}.parquet").stat().st_size for split in SPLITS) / 1e6
        reading = _read_back(out / "train.parquet")
    counts = params.generate_data.digits.scenes
    _report(report, usages, megabytes, reading, f"{params.generate_data.digits.source} {counts}", arguments.json)


def _read_back(path: Path) -> dict[str, float]:
    """Return the median seconds of `read_scenes` and of copying its pixels once, in turns; both end in freshly allocated memory."""
    images = read_scenes(path).images
    reads, copies = [], []
    for _ in range(_READS):
        reads.append(_seconds(lambda: read_scenes(path)))
        copies.append(_seconds(images.copy))
    return {
        "pixels_gb": images.nbytes / 1e9,
        "read_s": statistics.median(reads),
        "memcpy_s": statistics.median(copies),
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _report(
    report: Report, usages: list[Usage], megabytes: float, reading: dict[str, float], what: str, json: Path | None
) -> None:
    wall, cpu = (Spread.of([getattr(usage, field) for usage in usages]) for field in ("wall_s", "cpu_s"))
    peak = max(usage.peak_mb for usage in usages) / 1000
    read, copy = reading["pixels_gb"] / reading["read_s"], reading["pixels_gb"] / reading["memcpy_s"]
    rows = [
        (f"compose and write, {what} [s]", wall),
        ("  processor time [s]", cpu),
        ("  on disk [MB]", f"{megabytes:.1f}"),
        ("  peak memory [GB]", f"{peak:.2f}"),
        ("read train.parquet [s]", f"{reading['read_s']:.3f}"),
        ("  pixels [GB/s]", f"{read:.2f}"),
        ("  memcpy of the same pixels [GB/s]", f"{copy:.2f}"),
    ]
    bars = [
        Bar(what="compose and write", value=wall.median, sense="at most", limit=20, unit=" s"),
        Bar(what="on disk", value=megabytes, sense="at most", limit=60, unit=" MB"),
        Bar(what="peak memory", value=peak, sense="at most", limit=1.5, unit=" GB"),
    ]
    results = {
        "what": what,
        "compose_and_write_s": wall.rounded(),
        "processor_s": cpu.rounded(),
        "disk_mb": round(megabytes, 2),
        "peak_memory_gb": round(peak, 3),
        **{key: round(value, 4) for key, value in reading.items()},
        "read_gb_per_s": round(read, 3),
        "memcpy_gb_per_s": round(copy, 3),
    }
    report.finish(("", "median (least to greatest)"), rows, bars, results, json)


if __name__ == "__main__":
    main()
