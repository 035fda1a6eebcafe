"""Which process this is: torchrun's variables, and batches that cannot be shared."""

import pytest

from dcnas_harness.errors import BadInputError
from dcnas_harness.seat import Seat, seat_of

VARIABLES = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}


def test_torchrun_says_which_process_this_is() -> None:
    """Rank, number of processes and number on this machine come from its three variables; the first leads."""
    assert seat_of(VARIABLES) == Seat(rank=5, size=8, local_rank=1)
    assert [seat_of({**VARIABLES, "RANK": rank}).leads for rank in "05"] == [True, False]


@pytest.mark.parametrize("missing", VARIABLES)
def test_without_torchrun_a_process_is_alone(missing: str) -> None:
    """What else sets some of these variables does not make a process one of several."""
    assert seat_of({name: value for name, value in VARIABLES.items() if name != missing}) == Seat()


@pytest.mark.parametrize("changes", [{"RANK": "8"}, {"RANK": "-1"}, {"WORLD_SIZE": "x"}, {"LOCAL_RANK": "-2"}])
def test_variables_that_contradict_each_other_are_refused(changes: dict[str, str]) -> None:
    """The error names all three."""
    with pytest.raises(BadInputError, match=r"RANK is .*WORLD_SIZE is .*LOCAL_RANK is"):
        seat_of({**VARIABLES, **changes})


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    """The error names batch, processes, and sizes that can be; one process takes any."""
    with pytest.raises(BadInputError, match=r"retrain.batch_size is 6, which 4 processes(.|\n)*4 or 8"):
        Seat(size=4).require_equal_shares(6, key="retrain.batch_size")
    with pytest.raises(BadInputError, match="such as 4"):
        Seat(size=4).require_equal_shares(3, key="retrain.batch_size")
    Seat(size=4).require_equal_shares(8, key="retrain.batch_size")
    Seat().require_equal_shares(7, key="retrain.batch_size")
