"""
Work on a CPU in two threads at once, each with half of the cores.

A step of small operations spends a quarter of its time where one core works and the others wait: between operations, and in those that are
too small to divide. Two halves of a step that do not need each other fill those gaps.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Made = TypeVar("Made")


def side_by_side(jobs: Sequence[Callable[[], Made]]) -> list[Made]:
    """
    Return what the jobs return, in their order: the last is done in this thread, each other one in a thread of its own.

    Each gets its share of torch's CPU threads, one at least, so a job's result depends on how many jobs there are and not on their timing.
    What is set for a thread alone, as gradient mode, autocast and torch function modes are, stands in the other threads as in a new one.

    Raises:
        Exception: What a job raises, once all have ended; of several, the first job's.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // len(jobs))

    def alone(job: Callable[[], Made]) -> Made:
        torch.set_num_threads(share)
        return job()

    *others, last = jobs
    futures = [_workers(len(others)).submit(alone, job) for job in others] if others else []
    try:
        try:
            own = alone(last)
        finally:
            for future in futures:
                future.exception()  # waits
        return [*(future.result() for future in futures), own]
    finally:
        torch.set_num_threads(threads)


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="side by side")
