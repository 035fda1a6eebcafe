"""
Search the space of nets for one target latency with one seed, from scratch or from the newest checkpoint of the same inputs.

Run:    python -m dcnas_search_supernet --search dc_nas_m --seed 0 --photos data/generate_data/photos
        --profile data/profile_latency/profile.parquet --out data/search_supernet/dc_nas_m/0
        torchrun --nproc-per-node 4 -m dcnas_search_supernet ...    (the same, on four GPUs: each takes a quarter of every batch)
Takes:  params.yaml (device, searches, search_supernet); train.parquet and validation.parquet; the latency profile of this device
Expect: search.parquet and architecture.json; an unreachable target ends before any training with exit 2 and the reachable range;
        same machine, seed, threads and number of processes: the same bits, also after being killed (a relative target is measured once
        a run)
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from dcnas_harness.errors import BadInputError
from dcnas_harness.files import require_writable
from dcnas_harness.process import die_with_parent, exclusive_run, let_idle_threads_spin_briefly, run_stage
from dcnas_harness.seat import Seat, leader_speaks_first, take_seat
from dcnas_schema.params import load_params


def main() -> None:
    """Read the parameters, search, write log and architecture."""
    parser = argparse.ArgumentParser(
        prog="python -m dcnas_search_supernet", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
    parser.add_argument("--search", required=True, help="name of the search under searches in the parameter file")
    parser.add_argument("--seed", type=int, required=True, help="the one seed of this run")
    parser.add_argument("--photos", type=Path, required=True, help="folder with train.parquet and validation.parquet")
    parser.add_argument("--profile", type=Path, required=True, help="latency profile of this device")
    parser.add_argument("--out", type=Path, required=True, help="folder for log and architecture")
    parser.add_argument(
        "--scratch", type=Path, default=Path(".scratch"), help="folder for checkpoints and locks, never an output"
    )
    arguments = parser.parse_args()
    die_with_parent()
    seat = take_seat()
    let_idle_threads_spin_briefly()
    with leader_speaks_first(seat):
        _search(seat, arguments)


def _search(seat: Seat, arguments: argparse.Namespace) -> None:
    # here, because torch takes seconds to import, and its threads read the environment then
    from dcnas_search_supernet.job import Job, Settings, checkpoints_of, search_job

    params = load_params(arguments.params)
    if arguments.search not in params.searches:
        raise BadInputError(
            f"No search is named {arguments.search!r}.",
            where=f"{arguments.params}: searches",
            remedy=f"known are {', '.join(params.searches)}",
        )
    seat.require_equal_shares(params.search_supernet.batch_size, key="search_supernet.batch_size")
    if seat.leads:
        require_writable(arguments.out)
    settings = Settings(
        device=params.device, spec=params.searches[arguments.search], search_supernet=params.search_supernet
    )
    job = Job(
        search=arguments.search,
        seed=arguments.seed,
        settings=settings,
        photos=arguments.photos,
        profile=arguments.profile,
        scratch=arguments.scratch,
        seat=seat,
    )
    with ExitStack() as locks:
        if seat.leads:  # the others write nothing
            locks.enter_context(exclusive_run(arguments.out, arguments.scratch))
            locks.enter_context(exclusive_run(checkpoints_of(job), arguments.scratch))
        search_job(job, arguments.out)


if __name__ == "__main__":
    run_stage(main)
