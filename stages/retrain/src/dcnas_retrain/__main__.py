r"""
Train one model with one seed, from scratch or from the newest checkpoint of the same code, parameters and data.

Run:    python -m dcnas_retrain --model unet_s --seed 0 --scenes data/generate_data/digits --out data/retrain/unet_s/0
        python -m dcnas_retrain --model dc_nas_s --seed 0 --photos data/generate_data/photos \
            --genotype data/genotypes/dc_nas_s/0.json --out data/retrain_photos/dc_nas_s/0
Takes:  params.yaml (device, and noise, models, retrain; on photos photo_view, photo_noise, photo_models, retrain_photos);
        train.parquet and validation.parquet; the chosen genotype of a net of the search space
Expect: weights.safetensors and log.parquet; same machine, seed and threads: the same bits, also after being killed
"""

import argparse
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_sleep, run_main
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, train, write weights and log."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_retrain", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument(
        "--model", required=True, help="name of the model in the parameter file: models, or photo_models"
    )
    parser.add_argument("--seed", type=int, required=True, help="the one seed of this run")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--scenes", type=Path, help="folder with train.parquet and validation.parquet of digits")
    data.add_argument("--photos", type=Path, help="folder with train.parquet and validation.parquet of photos")
    parser.add_argument("--genotype", type=Path, help="what choose_genotypes wrote for a model on photos and its seed")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and log")
    parser.add_argument(
        "--scratch", type=Path, default=Path(".scratch"), help="folder for checkpoints and locks, never an output"
    )
    arguments = parser.parse_args()
    die_with_parent()
    let_idle_threads_sleep()
    if arguments.photos is not None:
        _train_on_photos(arguments)
    else:
        _train_on_scenes(arguments)


def _train_on_scenes(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.params)
    if arguments.model not in params.models:
        raise BadInputError(
            f"No model is named {arguments.model!r}.",
            where=f"{arguments.params}: models",
            remedy=f"known are {', '.join(params.models)}",
        )
    require_writable(arguments.out)
    # here, because torch takes seconds to import: a mistyped name is answered before them, and Ctrl-C in them ends as quietly as later
    from dcnas_retrain.job import Job, checkpoints_of, train_job

    job = Job(
        model=arguments.model, seed=arguments.seed, params=params, scenes=arguments.scenes, scratch=arguments.scratch
    )
    with exclusive_run(arguments.out, arguments.scratch), exclusive_run(checkpoints_of(job), arguments.scratch):
        train_job(job, arguments.out)


def _train_on_photos(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.params)
    params.photo_model_named(arguments.model, where=arguments.params)
    require_writable(arguments.out)
    # here, because torch takes seconds to import
    from dcnas_retrain.photo_job import PhotoJob, photo_checkpoints_of, train_photo_job

    job = PhotoJob(
        model=arguments.model,
        seed=arguments.seed,
        settings=params,
        photos=arguments.photos,
        genotype=arguments.genotype,
        scratch=arguments.scratch,
    )
    with exclusive_run(arguments.out, arguments.scratch), exclusive_run(photo_checkpoints_of(job), arguments.scratch):
        train_photo_job(job, arguments.out)


if __name__ == "__main__":
    run_main(main)
