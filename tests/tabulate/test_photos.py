"""Tables 2 to 6, the figures and the page on photos: every row of the paper, each cell by its rule, what is missing shown as such."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Workshop = Any
TABLES = ("table_2", "table_3", "table_4", "table_5", "table_6", "table_clean")
FIGURES = tuple(
    f"figure_{number}_{theme}.{kind}" for number in (4, 5, 6, 8) for theme in ("light", "dark") for kind in ("svg", "png")
)
SEARCHES = ("noisy_s", "noisy_m", "clean_4_s", "sink_4_s")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, new_photo_workshop: Callable[..., Workshop]) -> Path:
    """The results of three seeds of every model and two of Figure 4's searches; tests leave them as they are."""
    workshop = new_photo_workshop(tmp_path_factory.mktemp("full"))
    workshop.all_rows()
    for search in SEARCHES:
        for seed in (0, 1):
            workshop.search(search, seed, restless=0.5 if search == "sink_4_s" else 0.1, epochs=30)
    return workshop.run(
        run_models=tuple(workshop.params.photo_models), seeds=(0, 1, 2), run_searches=SEARCHES, search_seeds=(0, 1)
    )


def test_everything(full: Path) -> None:
    """X."""
    print(full)
