"""Work in threads of its own: who does it, with how many CPU threads, and what becomes of an error."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from dcnas_training.side_by_side import side_by_side


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    """Four CPU threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def seen() -> tuple[int, int]:
    """Return the thread, and its CPU threads."""
    return threading.get_ident(), torch.get_num_threads()


@pytest.mark.parametrize(("jobs", "share"), [(1, 4), (2, 2), (3, 1), (6, 1)])
def test_each_has_a_thread_and_its_share(jobs: int, share: int) -> None:
    """As many threads as jobs, the last being this one; each with its share; afterwards all are here again."""
    found = side_by_side([seen] * jobs)
    assert found[-1][0] == threading.get_ident()
    assert threading.get_ident() not in [thread for thread, _ in found[:-1]]
    assert [count for _, count in found] == [share] * jobs
    assert torch.get_num_threads() == 4


def test_they_run_at_the_same_time_and_answer_in_order() -> None:
    """Each waits for the other, which only works at once; the results are in the order of the jobs."""
    both = threading.Barrier(2, timeout=20)

    def first() -> str:
        both.wait()
        return "first"

    def second() -> str:
        both.wait()
        return "second"

    assert side_by_side([first, second]) == ["first", "second"]


@pytest.mark.parametrize("failing", ["first", "last", "both"])
def test_an_error_waits_for_the_others(failing: str) -> None:
    """What a job raises comes out when all have ended, and the threads are given back."""
    ended = []

    def job(name: str) -> None:
        time.sleep(0.05 if name == "first" else 0.0)
        ended.append(name)
        if failing in (name, "both"):
            raise ValueError(name)

    with pytest.raises(ValueError, match=r"first|last"):
        side_by_side([lambda: job("first"), lambda: job("last")])
    assert sorted(ended) == ["first", "last"]
    assert torch.get_num_threads() == 4
