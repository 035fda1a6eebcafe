"""
The beginning of a measuring process: it binds itself to its cores before any library is imported that starts threads.

A thread that runs already stays where it is, and NumPy's and Arrow's libraries start theirs when they are imported. So this module imports
next to nothing, and the worker when it is bound.

Run:    python -m dcnas_profile_latency.bound PARENT THREADS
Takes:  requests on stdin, see dcnas_profile_latency.worker
Expect: one answer a line on stdout
"""

import sys
from contextlib import suppress

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.process import die_with_parent
from dcnas_latency.timers import pin


def main() -> None:
    """Bind this process, then serve requests from stdin."""
    die_with_parent(int(sys.argv[1]))
    with suppress(UnfitEnvironmentError):  # too few cores: the worker binds again, and answers that it cannot
        pin(int(sys.argv[2]))
    from dcnas_profile_latency.worker import main as serve

    serve()


if __name__ == "__main__":
    main()
