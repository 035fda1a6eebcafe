r"""
Join the records of all runs into tables beside the paper's figures, draw the figures, write the report page.

Run:    python -m dcnas_tabulate --records data/evaluate --profile data/profile_latency/profile.parquet \
            --reference data/reference/paper_tables.csv --out results
        python -m dcnas_tabulate photos --records data/evaluate_photos --searches data/search_supernet \
            --genotypes data/derive_genotype --photos data/generate_data/photos --profile data/profile_latency/profile.parquet \
            --reference data/reference/paper_tables.csv --out results
Takes:  params.yaml (preset, tabulate; runs, models, generate_data; of photos photo_runs, photo_models, search_runs, searches); one
        record.parquet and panel.parquet a model and seed; with --profile the latency profile that profile_latency wrote; of photos
        search.parquet and genotype.json of every search and seed, and the photo set
Expect: table_1, table_7, table_8 (.md .csv .parquet .cells.json), figures/, curves/, metrics.json, index.html, with --profile also
        latency.md and latency.csv; of photos table_2 to table_6, table_clean and searches (the same four forms), figures 4, 5, 6 and 8
        in figures_photos/, curves_photos/, photos_metrics.json, photos.html; same records, same bytes
"""

import argparse
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, run_stage
from dcnas_schema.params import Params, load_params

_OF_PHOTOS = ("searches", "genotypes", "photos", "profile")


def main() -> None:
    """Read the parameters and records, write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_tabulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", nargs="?", choices=("digits", "photos"), default="digits", help="which models")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--records", type=Path, required=True, help="folder with <model>/<seed>/record.parquet")
    parser.add_argument("--reference", type=Path, required=True, help="the paper's figures, CSV")
    parser.add_argument("--profile", type=Path, help="the latency profile to show, Parquet; none is shown without it")
    parser.add_argument("--searches", type=Path, help="folder with <search>/<seed>/search.parquet (photos)")
    parser.add_argument("--genotypes", type=Path, help="folder with <search>/<seed>/genotype.json (photos)")
    parser.add_argument("--photos", type=Path, help="folder with the splits of the photo set (photos)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--scratch", type=Path, default=Path(".scratch"), help="folder for locks, never an output")
    arguments = parser.parse_args()
    if arguments.kind == "photos":
        missing = [f"--{name}" for name in _OF_PHOTOS if getattr(arguments, name) is None]
        if missing:
            parser.error(f"photos needs {', '.join(missing)}")
    die_with_parent()
    params = load_params(arguments.params)
    require_writable(arguments.out)
    page = arguments.out / ("photos.html" if arguments.kind == "photos" else "index.html")  # the two run side by side
    with exclusive_run(page, arguments.scratch):
        if arguments.kind == "photos":
            _of_photos(params, arguments)
        else:
            _of_digits(params, arguments)


def _of_digits(params: Params, arguments: argparse.Namespace) -> None:
    # here, because a wrong argument or parameter needs no plotting library
    from dcnas_tabulate.job import tabulate

    tabulate(params, arguments.records, arguments.reference, arguments.out, arguments.profile)


def _of_photos(params: Params, arguments: argparse.Namespace) -> None:
    from dcnas_tabulate.photo_job import PhotoSources, tabulate_photos
    from dcnas_tabulate.photo_layout import PhotoTables

    sources = PhotoSources(
        records=arguments.records,
        searches=arguments.searches,
        genotypes=arguments.genotypes,
        photos=arguments.photos,
        profile=arguments.profile,
        reference=arguments.reference,
    )
    tabulate_photos(PhotoTables.of(params), sources, arguments.out)


if __name__ == "__main__":
    run_stage(main)
