"""
Derive the genotype of one search, or choose the genotype of every model that is to be trained.

Run:    python -m dcnas_derive_genotype derive --architecture data/search_supernet/dc_nas_m/0/architecture.json
        --profile data/profile_latency/profile.parquet --out data/derive_genotype/dc_nas_m/0/genotype.json
        python -m dcnas_derive_genotype choose --derived data/derive_genotype
        --profile data/profile_latency/profile.parquet --out data/genotypes
Takes:  derive: params.yaml (device, derive_genotype); the search's architecture.json; the latency profile that the search took
        choose: params.yaml (photo_models, photo_runs, search_runs); the genotypes of all searches; the latency profile
Expect: derive: genotype.json with ops, widths and depths of the most likely architecture, predicted latency, its interval, MACs and
        parameters; the measured latency where the profile is this device's
        choose: MODEL/SEED.json for every model and seed that run: what the net is built of, and nothing else
"""

import argparse
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_spin, run_stage
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, derive or choose."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_derive_genotype", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    deriving = commands.add_parser("derive", help="the genotype of one search")
    deriving.set_defaults(run=_derive)
    deriving.add_argument("--architecture", type=Path, required=True, help="architecture.json of the search")
    choosing = commands.add_parser("choose", help="the genotype of every model")
    choosing.set_defaults(run=_choose)
    choosing.add_argument("--derived", type=Path, required=True, help="folder with SEARCH/SEED/genotype.json")
    for command, out in ((deriving, "file for the genotype"), (choosing, "folder for MODEL/SEED.json")):
        command.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
        command.add_argument("--profile", type=Path, required=True, help="latency profile that the searches took")
        command.add_argument("--out", type=Path, required=True, help=out)
        command.add_argument(
            "--scratch",
            type=Path,
            default=Path(".scratch"),
            help="folder for locks, never an output",
        )
    arguments = parser.parse_args()
    die_with_parent()
    arguments.run(arguments)


def _derive(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.params)
    require_writable(arguments.out.parent)
    let_idle_threads_spin()
    # here, because torch takes seconds to import, and its threads read the environment then
    from dcnas_derive_genotype.job import Job, Settings, derive_job

    settings = Settings(device=params.device, derive_genotype=params.derive_genotype)
    job = Job(
        settings=settings,
        architecture=arguments.architecture,
        profile=arguments.profile,
        scratch=arguments.scratch,
    )
    with exclusive_run(arguments.out, arguments.scratch):
        record = derive_job(job, arguments.out)
    predicted, measured = record.predicted[record.bound], record.measured_ms
    said = f"measured {measured:.3f} ms" if measured is not None else f"not measured: {record.not_measured}"
    missed = "" if record.met else f" (TARGET NOT MET, off by {record.target_error_pct:+.1f} %)"
    print(
        f"{record.search} seed {record.seed}: target {record.target_ms:.3f} ms, predicted {predicted.ms:.3f} ms{missed}, {said}"
    )


def _choose(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.params)
    require_writable(arguments.out)
    from dcnas_derive_genotype.choose import ChoiceJob, ChoiceSettings, choose_genotypes

    settings = ChoiceSettings(
        photo_models=params.photo_models, photo_runs=params.photo_runs, search_runs=params.search_runs
    )
    with exclusive_run(arguments.out, arguments.scratch):
        choose_genotypes(
            ChoiceJob(settings=settings, derived=arguments.derived, profile=arguments.profile), arguments.out
        )


if __name__ == "__main__":
    run_stage(main)
