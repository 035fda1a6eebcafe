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

from dcnas_harness.errors import UnfitEnvironmentError
from dcnas_harness.process import die_with_parent

Ask = Callable[[str], str]
"""Takes the question and returns the answer; once."""


@contextmanager
def respondent(module: str) -> Iterator[Ask]:
    """
    Start `python -m module`, which calls `respond`, and yield the function that asks it; it ends with the block, asked or not.

    Raises:
        UnfitEnvironmentError: By that function, when the process failed; what it said stands above.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )

    def ask(question: str) -> str:
        said, _ = process.communicate(question)
        lines = said.splitlines()
        if process.returncode != 0 or not lines:
            raise UnfitEnvironmentError(
                f"The process that was to time a net ({module}) ended with {process.returncode}.",
                remedy="see what it said above, then run the same command again",
            )
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
