r"""
Train one model with one seed, from scratch or from the newest checkpoint of the same code, parameters and data.

Run:    python -m dcnas_retrain --model unet_s --seed 0 --scenes data/generate_data/digits --out data/retrain/unet_s/0
        python -m dcnas_retrain --model dc_nas_s --seed 0 --photos data/generate_data/photos \
            --genotype data/genotypes/dc_nas_s/0.json --out data/retrain_photos/dc_nas_s/0
        torchrun --nproc-per-node 4 -m dcnas_retrain ...    (the same, on four GPUs: each takes a quarter of every batch)
Takes:  params.yaml (device, and noise, models, retrain; on photos photo_view, photo_noise, photo_models, retrain_photos);
        train.parquet and validation.parquet; the chosen genotype of a net of the search space
Expect: weights.safetensors and log.parquet; same machine, seed, threads and number of processes: the same bits, also after being killed
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_spin_briefly, run_stage
from dcnas_harness.seat import Seat, leader_speaks_first, take_seat
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
    seat = take_seat()
    let_idle_threads_spin_briefly()
    with leader_speaks_first(seat):
        _train(seat, arguments)


def _train(seat: Seat, arguments: argparse.Namespace) -> None:
    params = load_params(arguments.params)
    on_photos = arguments.photos is not None
    require_model(arguments.model, params, on_photos=on_photos, where=arguments.params)
    section = "retrain_photos" if on_photos else "retrain"
    seat.require_equal_shares(getattr(params, section).batch_size, key=f"{section}.batch_size")
    if seat.leads:
        require_writable(arguments.out)
    checkpoints, train = _training(params, arguments, seat)
    with ExitStack() as locks:
        if seat.leads:  # the others write nothing
            locks.enter_context(exclusive_run(arguments.out, arguments.scratch))
            locks.enter_context(exclusive_run(checkpoints, arguments.scratch))
        train(arguments.out)


def _training(params: Params, arguments: argparse.Namespace, seat: Seat) -> tuple[Path, Callable[[Path], None]]:
    """Return the folder of the run's checkpoints, and what trains and writes into a folder."""
    model, seed, scratch = arguments.model, arguments.seed, arguments.scratch
    # here, because torch takes seconds to import: a mistyped name is answered before them, and Ctrl-C in them ends as quietly as later
    if arguments.photos is None:
        from dcnas_retrain.job import Job, checkpoints_of, train_job

        of_scenes = Job(model=model, seed=seed, params=params, scenes=arguments.scenes, scratch=scratch, seat=seat)
        return checkpoints_of(of_scenes), partial(train_job, of_scenes)
    from dcnas_retrain.photo_job import PhotoJob, photo_checkpoints_of, train_photo_job

    of_photos = PhotoJob(
        model=model,
        seed=seed,
        settings=params,
        photos=arguments.photos,
        genotype=arguments.genotype,
        scratch=scratch,
        seat=seat,
    )
    return photo_checkpoints_of(of_photos), partial(train_photo_job, of_photos)


if __name__ == "__main__":
    run_stage(main)
