"""The installed command `dcnas`: signals and exit codes are in place before anything heavy is imported."""

import os

from dcnas_harness.process import run_main


def entry() -> None:
    """Run the command."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    run_main(_main)


def _main() -> None:
    from dcnas_app.main import app

    app()
