"""
One question to a process of its own, which starts early and loads what takes seconds while the asking process does other work.

Made for timing: OpenMP's idle threads spin where a net is timed and sleep where one is trained or scored, and a process reads its
wait policy once, when torch is imported.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dcnas_harness.errors import (
    BadInputError,
    CorruptArtefactError,
    DcnasError,
    ExitCode,
    NumericalError,
    UnfitEnvironmentError,
)
from dcnas_harness.process import die_with_parent

_ERRORS: dict[int, type[DcnasError]] = {
    error.exit_code: error for error in (BadInputError, CorruptArtefactError, NumericalError)
}
Ask = Callable[[str], str]
"""Takes the question and returns the answer; once."""


@contextmanager
def respondent(module: str) -> Iterator[Ask]:
    """
    Start `python -m module`, which calls `respond`, and yield the function that asks it; it ends with the block, asked or not.

    Raises:
        DcnasError: By that function, when the process failed: of the class that it ended with; what it said stands above.

        SystemExit: By that function, when the process crashed or was killed, with its code, so that whoever runs this one learns of it.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )

    def ask(question: str) -> str:
        said, _ = process.communicate(question)
        lines = said.splitlines()
        if process.returncode != 0 or not lines:
            what = f"The process that was to time a net ({module}) ended with {process.returncode}."
            if process.returncode < 0 or process.returncode == ExitCode.BUG:
                print(what, file=sys.stderr, flush=True)
                sys.exit(128 - process.returncode if process.returncode < 0 else ExitCode.BUG)
            error = _ERRORS.get(process.returncode, UnfitEnvironmentError)
            raise error(what, remedy="see what it said above, then run the same command again")
        return lines[-1]

    with process:
        try:
            yield ask
        finally:
            process.kill()


def respond(prepare: Callable[[], Callable[[str], str]]) -> None:
    """
    Answer the one question that comes on stdin by a line on stdout; end in silence where none comes.

    Args:
        prepare: Loads what takes time and returns the function that answers; called at once.
    """
    die_with_parent(int(sys.argv[1]))
    answer = prepare()
    if question := sys.stdin.read():
        print(answer(question), flush=True)
