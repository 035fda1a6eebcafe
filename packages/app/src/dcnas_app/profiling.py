"""`dcnas profile`: the command of the pipeline stage profile_latency, and the comparison that it cannot draw by itself."""

from collections.abc import Sequence
from pathlib import Path

from dcnas_profile_latency.command import parser
from dcnas_profile_latency.command import run as run_command


def run(words: Sequence[str]) -> None:
    """Profile this device, show a profile or compare two, as the words of the command line say."""
    made = parser("dcnas profile")
    made.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="set two profiles side by side instead of measuring; the picture goes to --out without suffix",
    )
    arguments = made.parse_args(words)
    if arguments.compare is not None:
        from dcnas_app.comparing import compare_profiles  # draws; an edge box need not have what that takes

        first, second = arguments.compare
        compare_profiles(first, second, arguments.out)
        return
    run_command(arguments)
