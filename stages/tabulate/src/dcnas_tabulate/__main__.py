r"""
Join the records of all runs into tables beside the paper's figures, draw the figures, write the report page.

Run:    python -m dcnas_tabulate --records data/evaluate --profile data/profile_latency/profile.parquet \
            --reference data/reference/paper_tables.csv --out results
Takes:  params.yaml (preset, runs, models, generate_data, tabulate); one record.parquet and panel.parquet a model and seed; with
        --profile the latency profile that profile_latency wrote
Expect: table_1, table_7, table_8 (.md .csv .parquet .cells.json), figures/, curves/, metrics.json, index.html, with --profile also
        latency.md and latency.csv; same records, same bytes
"""

import argparse
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, run_main
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters and records, write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_tabulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--records", type=Path, required=True, help="folder with <model>/<seed>/record.parquet")
    parser.add_argument("--reference", type=Path, required=True, help="the paper's figures, CSV")
    parser.add_argument("--profile", type=Path, help="the latency profile to show, Parquet; none is shown without it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--scratch", type=Path, default=Path(".scratch"), help="folder for locks, never an output")
    arguments = parser.parse_args()
    die_with_parent()
    params = load_params(arguments.params)
    require_writable(arguments.out)
    # here, because a wrong argument or parameter needs no plotting library
    from dcnas_tabulate.job import tabulate

    with exclusive_run(arguments.out, arguments.scratch):
        tabulate(params, arguments.records, arguments.reference, arguments.out, arguments.profile)


if __name__ == "__main__":
    run_main(main)
