"""
Profile this CPU twice and set the two profiles side by side: how far can the table and its predictor be believed?

Run:    python benchmarks/latency.py [--rounds 20] [--nets 25] [--threads 2] [--keep FOLDER] [--json benchmarks/results/latency.json]
Takes:  the machine for itself; PyTorch eager, channels_last, fp32, 64x64, batch 1
Expect: about 10 minutes on 2 cores; at most 5 % mean error and at least 0.95 Spearman on held-out nets of each kind, at most 800 measured
        entries, two profiles that agree to 5 % (median entry); figures as they are where the noise gate did not pass
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from support.report import Bar, Report

from dcnas_latency.files import read_profile
from dcnas_profile_latency.edge import Request, settings_of
from dcnas_profile_latency.job import Settings, profile_job
from dcnas_profile_latency.summary import print_summary
from dcnas_schema.latency import Entry, ProfileMetadata

_PUBLISHED_RECIPE = 2802
"""Measurements of TF-NAS's script at every eighth width (its published lookup-table code, counted)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="times that each of two builds times each subject")
    parser.add_argument("--nets", type=int, default=25, help="held-out nets of each kind")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--keep", type=Path, help="folder for the two profiles")
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    settings = _settings(arguments.rounds, arguments.nets, arguments.threads)
    report = Report("latency", settings, torch.device("cpu"), hidden=[str(arguments.keep)])
    with tempfile.TemporaryDirectory() as folder:
        keep = arguments.keep or Path(folder)
        profiles = [_profile(settings, keep / f"profile_{name}.parquet", Path(folder)) for name in ("a", "b")]
    _report(report, profiles, arguments.json)


def _settings(rounds: int, nets: int, threads: int) -> Settings:
    return settings_of(
        Request(
            out=Path("unused"),
            params=None,
            device="cpu",
            threads=threads,
            runtime="torch_eager",
            provider=None,
            batch=1,
            image_size=64,
            classes=100,
            precision="fp32",
            memory_format="channels_last",
            rounds=rounds,
            nets=nets,
            allow_noisy=True,
        )
    )


def _profile(settings: Settings, path: Path, scratch: Path) -> tuple[tuple[Entry, ...], ProfileMetadata]:
    print_summary(profile_job(settings, path, scratch), path)
    return read_profile(path)


def _report(report: Report, profiles: list[tuple[tuple[Entry, ...], ProfileMetadata]], json: Path | None) -> None:
    differences = _differences(profiles[0][0], profiles[1][0])
    agree = statistics.median(differences)
    bars, rows = [], []
    for name, (_, metadata) in zip("ab", profiles, strict=True):
        gate = "passed" if metadata.gate.passed else "closed"
        for one in metadata.accuracy:
            what = f"profile {name}, {one.kind}"
            rows.append(
                [
                    what,
                    one.nets,
                    f"{one.mape_pct:.1f}",
                    f"{one.table_mape_pct:.1f}",
                    f"{one.within_5_pct:.0f}",
                    f"{one.within_10_pct:.0f}",
                    f"{one.spearman:.3f}",
                    gate,
                ]
            )
            bars += [
                Bar(
                    what=f"{what}: mean error on held-out nets", value=one.mape_pct, sense="at most", limit=5, unit=" %"
                ),
                Bar(what=f"{what}: Spearman", value=one.spearman, sense="at least", limit=0.95),
            ]
        entries = metadata.plan.entries + metadata.plan.held_out
        bars.append(Bar(what=f"profile {name}: measured entries", value=entries, sense="at most", limit=800))
    bars.append(Bar(what="two profiles differ by (median entry)", value=agree, sense="at most", limit=5, unit=" %"))
    results = {
        "profiles": [
            {
                "plan": metadata.plan.model_dump(),
                "published_recipe_entries": _PUBLISHED_RECIPE,
                "accuracy": [one.model_dump() for one in metadata.accuracy],
                "gate": metadata.gate.model_dump(),
                "seconds": metadata.protocol.seconds,
            }
            for _, metadata in profiles
        ],
        "entries_differ_pct": {
            "median": agree,
            "p95": statistics.quantiles(differences, n=20)[-1],
            "entries": len(differences),
        },
    }
    headings = ["", "nets", "MAPE %", "plain table %", "within 5 %", "within 10 %", "Spearman", "noise gate"]
    report.finish(headings, rows, bars, results, json)


def _differences(first: tuple[Entry, ...], second: tuple[Entry, ...]) -> list[float]:
    """Return by how many per cent of their mean the entries that both profiles measured differ."""
    other = {(entry.key, entry.mid_channels): entry.median_ms for entry in second}
    pairs = [(e.median_ms, other[e.key, e.mid_channels]) for e in first if (e.key, e.mid_channels) in other]
    return [200 * abs(a - b) / (a + b) for a, b in pairs]


if __name__ == "__main__":
    main()
