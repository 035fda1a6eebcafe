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
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dcnas_evaluate.timing import timing_process
from dcnas_harness.asking import Ask
from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_spin_briefly, run_stage
from dcnas_schema.params import Params, load_params, require_model


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
    let_idle_threads_spin_briefly()
    params = load_params(arguments.params)
    require_model(arguments.model, params, on_photos=arguments.photos is not None, where=arguments.params)
    require_writable(arguments.out)
    latency = (params.evaluate if arguments.photos is None else params.evaluate_photos).latency
    with exclusive_run(arguments.out, arguments.scratch), timing_process(latency, threads=params.device.threads) as ask:
        evaluate = _evaluation(params, arguments)
        evaluate(arguments.out, ask)


def _evaluation(params: Params, arguments: argparse.Namespace) -> Callable[[Path, Ask | None], None]:
    """Return what evaluates the model and writes into a folder, asking who times."""
    model, seed, trained, scratch = arguments.model, arguments.seed, arguments.trained, arguments.scratch
    # here, because torch takes seconds to import: a mistyped name is answered before them, and Ctrl-C in them ends as quietly as later
    if arguments.photos is None:
        from dcnas_evaluate.job import Job, evaluate_job

        of_scenes = Job(
            model=model, seed=seed, params=params, scenes=arguments.scenes, trained=trained, scratch=scratch
        )
        return partial(evaluate_job, of_scenes)
    from dcnas_evaluate.photo_job import PhotoJob, evaluate_photo_job

    of_photos = PhotoJob(
        model=model,
        seed=seed,
        settings=params,
        photos=arguments.photos,
        trained=trained,
        profile=arguments.profile,
        scratch=scratch,
    )
    return partial(evaluate_photo_job, of_photos)


if __name__ == "__main__":
    run_stage(main)
