"""
Derive the genotype of one search: ops, widths and depths of its most likely architecture, and what the net costs.

Run:    python -m dcnas_derive_genotype --architecture data/search_supernet/dc_nas_m/0/architecture.json
        --profile data/profile_latency/profile.parquet --out data/derive_genotype/dc_nas_m/0/genotype.json
Takes:  params.yaml (device, derive_genotype); the search's architecture.json; the latency profile that the search took
Expect: genotype.json with predicted latency, its interval, MACs and parameters; the measured latency where the profile is this device's
"""

import argparse
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_spin, run_main
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, derive, write the genotype and say what it is."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_derive_genotype", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--architecture", type=Path, required=True, help="architecture.json of the search")
    parser.add_argument("--profile", type=Path, required=True, help="latency profile that the search took")
    parser.add_argument("--out", type=Path, required=True, help="file for the genotype")
    parser.add_argument("--scratch", type=Path, default=Path(".scratch"), help="folder for locks, never an output")
    arguments = parser.parse_args()
    die_with_parent()
    let_idle_threads_spin()
    # here, because torch takes seconds to import, and its threads read the environment then
    from dcnas_derive_genotype.job import Job, Settings, derive_job

    params = load_params(arguments.params)
    require_writable(arguments.out.parent)
    settings = Settings(device=params.device, derive_genotype=params.derive_genotype)
    job = Job(settings=settings, architecture=arguments.architecture, profile=arguments.profile)
    with exclusive_run(arguments.out, arguments.scratch):
        record = derive_job(job, arguments.out)
    predicted, measured = record.predicted[record.bound], record.measured
    said = f"measured {measured.median_ms:.3f} ms" if measured is not None else f"not measured: {record.not_measured}"
    print(
        f"{record.search} seed {record.seed}: target {record.target_ms:.3f} ms, predicted {predicted.ms:.3f} ms, {said}"
    )


if __name__ == "__main__":
    run_main(main)
