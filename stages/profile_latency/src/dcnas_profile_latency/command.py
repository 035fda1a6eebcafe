"""
The command that profiles a device on its own.

Run:    dcnas-profile [--out box.parquet] (or dcnas profile, or python -m dcnas_profile_latency.command)
Takes:  the device; no repository, no params.yaml
Expect: one Parquet file and what it says of itself; exit 3 when the noise gate is closed
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dcnas_harness.process import run_main
from dcnas_profile_latency.edge import Request, profile_this_device, show


def parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of the command `name`."""
    made = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--out", type=Path, help="the profile to write (default: named by device and setting)")
    made.add_argument(
        "--show", type=Path, metavar="FILE", help="print what a profile says of itself instead of measuring"
    )
    made.add_argument(
        "--params", type=Path, help="take sections device and profile_latency of this file instead of the options below"
    )
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    made.add_argument(
        "--runtime",
        choices=("torch_eager", "torch_cuda_graph", "torch_compile", "onnxruntime"),
        default="torch_eager",
    )
    made.add_argument("--provider", help="execution provider of onnxruntime")
    made.add_argument("--batch", type=int, default=1, help="images per forward pass (default 1)")
    made.add_argument("--image-size", type=int, default=224, help="height and width in pixels (default 224)")
    made.add_argument("--classes", type=int, default=100, help="outputs of the classifier (default 100)")
    made.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    made.add_argument("--memory-format", choices=("channels_last", "contiguous"), default="channels_last")
    made.add_argument("--rounds", type=int, default=20, help="times that each build times each subject (default 20)")
    made.add_argument("--nets", type=int, default=20, help="held-out whole nets of each kind (default 20)")
    made.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="NET",
        help="time this net of the literature too, for searches with a target relative to it; may be given again",
    )
    made.add_argument("--allow-noisy", action="store_true", help="write a profile that failed the noise gate, marked")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Do what the parsed command line asks for."""
    if arguments.show is not None:
        show(arguments.show)
        return
    fields = {name: getattr(arguments, name) for name in Request.__dataclass_fields__}
    profile_this_device(Request(**{**fields, "reference": tuple(arguments.reference)}))


def entry(words: Sequence[str] | None = None) -> None:
    """Run the command; the installed script calls this."""
    run_main(lambda: run(parser("dcnas-profile").parse_args(words)))


if __name__ == "__main__":
    entry()
