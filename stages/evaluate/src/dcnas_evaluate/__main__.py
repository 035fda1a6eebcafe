r"""
Score one trained model on every test scene at every noise level, count its cost, and time it.

Run:    python -m dcnas_evaluate --model unet_s --seed 0 --scenes data/generate_data/digits --trained data/retrain/unet_s/0 \
            --out data/evaluate/unet_s/0
Takes:  params.yaml (device, noise, models, evaluate); test.parquet; weights.safetensors and log.parquet
Expect: record.parquet (one row a noise level) and panel.parquet (sample images); everything but the measured time is the same at every run
"""

import argparse
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, run_main
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, evaluate, write record and panel."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--model", required=True, help="name of the model under models in the parameter file")
    parser.add_argument("--seed", type=int, required=True, help="the seed that the model was trained with")
    parser.add_argument("--scenes", type=Path, required=True, help="folder with test.parquet")
    parser.add_argument("--trained", type=Path, required=True, help="folder with weights.safetensors and log.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder for record and panel")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=Path(".scratch"),
        help="folder for locks and the machine's best time of the reference op, never an output",
    )
    arguments = parser.parse_args()
    die_with_parent()
    params = load_params(arguments.params)
    if arguments.model not in params.models:
        raise BadInputError(
            f"No model is named {arguments.model!r}.",
            where=f"{arguments.params}: models",
            remedy=f"known are {', '.join(params.models)}",
        )
    require_writable(arguments.out)
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
    with exclusive_run(arguments.out, arguments.scratch):
        evaluate_job(job, arguments.out)


if __name__ == "__main__":
    run_main(main)
