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
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_sleep, run_stage
from dcnas_schema.params import Params, load_params, require_model


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
    params = load_params(arguments.params)
    require_model(arguments.model, params, on_photos=arguments.photos is not None, where=arguments.params)
    require_writable(arguments.out)
    checkpoints, train = _training(params, arguments)
    with exclusive_run(arguments.out, arguments.scratch), exclusive_run(checkpoints, arguments.scratch):
        train(arguments.out)


def _training(params: Params, arguments: argparse.Namespace) -> tuple[Path, Callable[[Path], None]]:
    """Return the folder of the run's checkpoints, and what trains and writes into a folder."""
    model, seed, scratch = arguments.model, arguments.seed, arguments.scratch
    # here, because torch takes seconds to import: a mistyped name is answered before them, and Ctrl-C in them ends as quietly as later
    if arguments.photos is None:
        from dcnas_retrain.job import Job, checkpoints_of, train_job

        of_scenes = Job(model=model, seed=seed, params=params, scenes=arguments.scenes, scratch=scratch)
        return checkpoints_of(of_scenes), partial(train_job, of_scenes)
    from dcnas_retrain.photo_job import PhotoJob, photo_checkpoints_of, train_photo_job

    of_photos = PhotoJob(
        model=model,
        seed=seed,
        settings=params,
        photos=arguments.photos,
        genotype=arguments.genotype,
        scratch=scratch,
    )
    return photo_checkpoints_of(of_photos), partial(train_photo_job, of_photos)


if __name__ == "__main__":
    run_stage(main)
