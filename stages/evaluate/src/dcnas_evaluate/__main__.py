r"""
Score one trained model on every test image at every noise level, count its cost, and time it.

Run:    python -m dcnas_evaluate --model unet_s --seed 0 --scenes data/generate_data/digits --trained data/retrain/unet_s/0 \
            --out data/evaluate/unet_s/0
        python -m dcnas_evaluate --model dc_nas_s --seed 0 --photos data/generate_data/photos --trained data/retrain_photos/dc_nas_s/0 \
            --profile data/profile_latency/profile.parquet --out data/evaluate_photos/dc_nas_s/0
Takes:  params.yaml (device, and noise, models, evaluate; on photos photo_view, photo_noise, photo_models, evaluate_photos); test.parquet;
        weights.safetensors and log.parquet; on photos a latency profile, for the predicted latency
Expect: record.parquet (one row a noise level) and panel.parquet (sample images); everything but the measured time is the same at every run
"""

import argparse
from pathlib import Path

from dcnas_evaluate.timing import timing_process
from dcnas_harness.errors import BadInputError
from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_sleep, run_main
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, evaluate, write record and panel."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument(
        "--model", required=True, help="name of the model in the parameter file: models, or photo_models"
    )
    parser.add_argument("--seed", type=int, required=True, help="the seed that the model was trained with")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--scenes", type=Path, help="folder with test.parquet of digits")
    data.add_argument("--photos", type=Path, help="folder with test.parquet of photos")
    parser.add_argument("--trained", type=Path, required=True, help="folder with weights.safetensors and log.parquet")
    parser.add_argument("--profile", type=Path, help="latency profile that predicts a model on photos")
    parser.add_argument("--out", type=Path, required=True, help="folder for record and panel")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path(".scratch"),
        help="folder for locks and the machine's best time of the reference op, never an output",
    )
    arguments = parser.parse_args()
    die_with_parent()
    let_idle_threads_sleep()
    if arguments.photos is not None:
        _evaluate_on_photos(arguments)
    else:
        _evaluate_on_scenes(arguments)


def _evaluate_on_scenes(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.params)
    if arguments.model not in params.models:
        raise BadInputError(
            f"No model is named {arguments.model!r}.",
            where=f"{arguments.params}: models",
            remedy=f"known are {', '.join(params.models)}",
        )
    require_writable(arguments.out)
    with exclusive_run(arguments.out, arguments.scratch), timing_process(params.evaluate.latency) as ask:
        # here, because torch takes seconds to import: a mistyped name is answered before them, and Ctrl-C in them ends as quietly as later
        from dcnas_evaluate.job import Job, evaluate_job

        job = Job(
            model=arguments.model,
            seed=arguments.seed,
            params=params,
            scenes=arguments.scenes,
            trained=arguments.trained,
            scratch=arguments.scratch,
        )
        evaluate_job(job, arguments.out, ask)


def _evaluate_on_photos(arguments: argparse.Namespace) -> None:
    params = load_params(arguments.params)
    params.photo_model_named(arguments.model, where=arguments.params)
    require_writable(arguments.out)
    with exclusive_run(arguments.out, arguments.scratch), timing_process(params.evaluate_photos.latency) as ask:
        from dcnas_evaluate.photo_job import PhotoJob, evaluate_photo_job  # here, for the same reason

        job = PhotoJob(
            model=arguments.model,
            seed=arguments.seed,
            settings=params,
            photos=arguments.photos,
            trained=arguments.trained,
            profile=arguments.profile,
            scratch=arguments.scratch,
        )
        evaluate_photo_job(job, arguments.out, ask)


if __name__ == "__main__":
    run_main(main)
