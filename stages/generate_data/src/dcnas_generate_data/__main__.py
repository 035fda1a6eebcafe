"""
Compose the two-digit scenes of the three splits.

Run:    python -m dcnas_generate_data --out data/generate_data/digits
Takes:  params.yaml (generate_data); MNIST's four .gz files where the source is mnist
Expect: train.parquet, validation.parquet, test.parquet; 30,000 scenes in less than 20 s and 60 MB; same seed, same bytes
"""

import argparse
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, run_main
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, write the splits."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_generate_data", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the three tables")
    parser.add_argument("--scratch", type=Path, default=Path(".scratch"), help="folder for locks, never an output")
    arguments = parser.parse_args()
    die_with_parent()
    params = load_params(arguments.params)
    require_writable(arguments.out)
    # here, because a wrong parameter needs neither numpy nor pyarrow
    from dcnas_generate_data.write import write_splits

    with exclusive_run(arguments.out, arguments.scratch):
        write_splits(params.generate_data, arguments.out)


if __name__ == "__main__":
    run_main(main)
