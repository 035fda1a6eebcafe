"""
Measure the latency profile of this device: a lookup table of every part of the search space, calibrated and tested on whole nets.

Run:    python -m dcnas_profile_latency --machine data/device.json --out data/profile_latency/profile.parquet
Takes:  params.yaml (device, profile_latency); what dcnas device wrote: which machine this is, and the SHA-256 of a profile that is taken
        instead; the device for itself while it is timed
Expect: one Parquet file with table, card, protocol and the predictor's error; exit 3 when the noise gate is closed
"""

import argparse
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, run_stage
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, measure, write the profile."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_profile_latency", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument(
        "--machine",
        type=Path,
        help="file that says which machine this is, or which profile is named; checked where given",
    )
    parser.add_argument("--out", type=Path, required=True, help="the profile to write")
    parser.add_argument(
        "--scratch", type=Path, default=Path(".scratch"), help="folder for samples and locks, never an output"
    )
    arguments = parser.parse_args()
    die_with_parent()
    # here, because libraries take seconds to import: Ctrl-C in them ends as quietly as later
    from dcnas_latency.identity import require_named_profile, require_this_machine
    from dcnas_profile_latency.job import Settings, profile_job
    from dcnas_profile_latency.summary import print_summary

    params = load_params(arguments.params)
    require_writable(arguments.out.parent)
    named = params.profile_latency.named_file
    if arguments.machine is not None:
        if named is None:
            require_this_machine(arguments.machine)
        else:
            require_named_profile(arguments.machine, named)
    settings = Settings(device=params.device, profile_latency=params.profile_latency)
    with exclusive_run(arguments.out, arguments.scratch):
        print_summary(profile_job(settings, arguments.out, arguments.scratch), arguments.out)


if __name__ == "__main__":
    run_stage(main)
