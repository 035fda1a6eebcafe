"""
Make the three splits of one set: two-digit scenes, or photographs.

Run:    python -m dcnas_generate_data --out data/generate_data/digits
        python -m dcnas_generate_data --set photos --out data/generate_data/photos
Takes:  params.yaml (generate_data); MNIST's four .gz files where the source is mnist; the user's pictures where photos come from a folder,
        ImageNet or Parquet. Nothing but MNIST is ever downloaded, and that only where the parameters say so
Expect: train.parquet, validation.parquet, test.parquet, provenance.json; 30,000 scenes in less than 20 s and 60 MB; pictures that cannot be
        used are left out, counted by reason and named; same seed, same bytes
"""

import argparse
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, run_stage
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, write the splits."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_generate_data", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", choices=("digits", "photos"), default="digits", help="which set to make")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the three tables")
    parser.add_argument("--scratch", type=Path, default=Path(".scratch"), help="folder for locks, never an output")
    arguments = parser.parse_args()
    die_with_parent()
    params = load_params(arguments.params)
    # here, because a wrong parameter needs neither numpy nor pyarrow
    from dcnas_generate_data.write import write_splits
    from dcnas_generate_data.write_photos import write_photo_splits

    require_writable(arguments.out)
    with exclusive_run(arguments.out, arguments.scratch):
        if arguments.set == "digits":
            write_splits(params.generate_data.digits, arguments.out)
        else:
            write_photo_splits(params.generate_data.photos, arguments.out)


if __name__ == "__main__":
    run_stage(main)
