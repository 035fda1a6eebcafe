"""A search by two processes: the curves of one, the same draws in both, one set of files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcnas_schema.parquet import read_parquet
from dcnas_schema.search_log import SEARCH_LOG, ArchitectureRecord, SearchMetadata
from dcnas_schema.search_params import ArchitectureParams

pytestmark = [pytest.mark.slow, pytest.mark.long]

SEARCH = """
from dcnas_search_supernet import loop
from dcnas_search_supernet.job import Job, Settings, search_job

folder, photos, profile = (Path(word) for word in sys.argv[1:4])
settings = Settings.model_validate_json(sys.argv[4])

def act(seat):
    name = f"{seat.size}-{seat.rank}"
    curves = {"weights": [], "paths": [], "architecture": [], "noise": []}

    class Weights(loop.WeightSteps):
        def step(self, images, paths, depths):
            loss = super().step(images, paths, depths)
            curves["paths"].append(paths)
            curves["weights"].append(float(loss))
            return loss

    class Steps(loop.ArchitectureSteps):
        def step(self, images, noise, heat):
            scores = super().step(images, noise, heat)
            curves["noise"].append(noise.flatten().tolist())
            curves["architecture"] += scores.tolist()
            return scores

    loop.WeightSteps, loop.ArchitectureSteps = Weights, Steps
    job = Job(search="tiny", seed=0, settings=settings, photos=photos, profile=profile, seat=seat, scratch=folder / f"scratch {seat.size}")
    search_job(job, folder / f"out {seat.size}")
    (folder / f"{name}.json").write_text(json.dumps(curves))

assert together(1, act) + together(2, act) == [0, 0, 0]
print(json.dumps({name: json.loads((folder / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1")}))
"""


@pytest.fixture(scope="module")
def searched(
    forks: Callable[..., Any], job: Callable[..., Any], params: Callable[..., Any], pictures: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """The folder of what a search by one process and one by two left, and the curves of each process."""
    folder = tmp_path_factory.mktemp("together")
    view = params().view.model_copy(update={"size": 64})
    changed = params(epochs=3, batch_size=6, view=view, learning_rate=1e-3, architecture=ArchitectureParams(every=2))
    spec = {"beta": "sink", "images": "noisy", "loss": "both"}
    one = job(folder, photos=pictures(7 * 6, 8), params_=changed, **spec)
    return folder, forks(SEARCH, folder, one.photos, one.profile, one.settings.model_dump_json())


def test_two_processes_have_the_curves_of_one(searched: tuple[Path, dict[str, Any]]) -> None:
    """Over twenty weight steps, and the architecture's, all losses are those of one process within 1e-5, and the same in both."""
    _, curves = searched
    one, first, second = curves["1-0"], curves["2-0"], curves["2-1"]
    assert len(one["weights"]) == 21
    assert first == second
    for curve in ("weights", "architecture"):
        assert first[curve] == pytest.approx(one[curve], abs=1e-5, rel=0)
    assert (first["paths"], first["noise"]) == (one["paths"], one["noise"])


def test_the_leader_alone_writes_what_one_process_would(searched: tuple[Path, dict[str, Any]]) -> None:
    """Every epoch's widths and choices are those of one process, alphas nearly; the log says how many searched."""
    folder, _ = searched
    (one, of_one), (two, of_two) = (
        read_parquet(folder / f"out {n}/search.parquet", SEARCH_LOG, SearchMetadata) for n in (1, 2)
    )
    for row, expected in zip(two.to_pylist(), one.to_pylist(), strict=True):
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-3), name
    assert (of_one.provenance.processes, of_two.provenance.processes) == (1, 2)
    records = [
        ArchitectureRecord.model_validate_json((folder / f"out {n}/architecture.json").read_text()) for n in (1, 2)
    ]
    assert records[0].widths == records[1].widths
    for mine, theirs in zip(records[0].log_alphas, records[1].log_alphas, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3)
