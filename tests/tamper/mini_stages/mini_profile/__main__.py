"""
Write a made-up latency.

Run:    python -m mini_profile --out data/profile_latency/lut.json
Expect: {"median_ms": 4.0}
"""

import argparse
from pathlib import Path

from dcnas_harness.files import write_json
from dcnas_harness.process import run_stage
from dcnas_schema.params import load_params


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    params = load_params(Path("params.yaml"))
    write_json(parser.parse_args().out, {"median_ms": float(params.profile_latency.warm_calls + 3)})


if __name__ == "__main__":
    run_stage(main)
