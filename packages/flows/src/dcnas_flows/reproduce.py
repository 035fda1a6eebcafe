"""The door that `dcnas flow run` opens: bring the stale pipeline stages up to date, with Prefect or without."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcnas_flows.engine import Outcome, Step, execute, exit_code, retrying
from dcnas_flows.orders import Sharing
from dcnas_flows.processes import supervised
from dcnas_flows.project import Project, capacity_of, opened, plan
from dcnas_flows.report import Narrator, describe, print_summary, print_times
from dcnas_flows.server import ensure_server, settle_prefect
from dcnas_harness.errors import BadInputError, UnfitEnvironmentError

if TYPE_CHECKING:
    from dcnas_flows.job import Asked


def reproduce(
    root: Path, targets: Sequence[str], *, use_prefect: bool, jobs: int | None = None, sharing: Sharing | None = None
) -> int:
    """
    Run every stale pipeline stage that the targets need, print a summary, and return the exit code. Main thread only.

    dvc.lock and all outputs end as `dvc repro` would leave them. Prefect uses the server of PREFECT_API_URL or of its profile, and a
    temporary one where none is configured. On SIGINT and SIGTERM all processes are ended, and this one within 8 s.

    Args:
        root: The project's folder.

        targets: Names of pipeline stages, or of the groups that a matrix makes (`retrain`); none means all of dvc.yaml.

        use_prefect: Whether to run as a Prefect flow; the same engine either way.

        jobs: Most cores that stages take together (each as its `meta` in dvc.yaml says); all that this process may use, where it is `None`.

        sharing: Run on other machines, through Prefect, what may leave home; all runs here where it is `None`.

    Returns:
        0, the failed stage's own code where it is one of 2 to 5, otherwise 1.

    Raises:
        BadInputError: A target is unknown, DVC cannot read the pipeline, or there is nothing to share through.

        UnfitEnvironmentError: Another flow or dvc process is at work here, or Prefect's server cannot be reached.

        KeyboardInterrupt, SystemExit: On SIGINT and on SIGTERM (143).
    """
    if sharing is not None and not use_prefect:
        raise BadInputError("Other machines take stages from Prefect's server.", remedy="leave --no-prefect out")
    outcomes = supervised(
        lambda: _with_prefect(root, targets, jobs, sharing) if use_prefect else _plainly(root, targets, jobs)
    )
    if outcomes:
        print_summary(outcomes)
        print_times(outcomes)
    return exit_code(outcomes)


def _plainly(root: Path, targets: Sequence[str], jobs: int | None) -> tuple[Outcome, ...]:
    with opened(root, targets) as project:
        print(describe(project.plan), flush=True)
        capacity = capacity_of(root, jobs)
        narrator = Narrator(len(project.plan.stale), side_by_side=capacity.cores > 1)
        return execute(project.plan, lambda step: _run(project, step, narrator), capacity)


def _run(project: Project, step: Step, narrator: Narrator) -> Outcome:
    say = narrator.line_of(step.name)
    outcome = retrying(lambda: project.run(step.name, say), say)
    narrator.ended(outcome)
    return outcome


def _with_prefect(root: Path, targets: Sequence[str], jobs: int | None, sharing: Sharing | None) -> tuple[Outcome, ...]:
    made = plan(root, targets)  # a look ahead: starting Prefect takes longer than finding that nothing is stale
    print(describe(made), flush=True)
    return _run_flow(root, targets, jobs, sharing) if made.stale else ()


def _run_flow(root: Path, targets: Sequence[str], jobs: int | None, sharing: Sharing | None) -> tuple[Outcome, ...]:
    settle_prefect()
    from prefect.client.schemas.objects import State

    from dcnas_flows.flow import reproduce_flow
    from dcnas_flows.job import ASKED, Asked

    asked = Asked(root)
    ASKED.set(asked)
    with _server_errors_explained(asked):
        ensure_server(for_others=sharing is not None)
        state: State[Any] = reproduce_flow(list(targets), jobs, sharing, return_state=True)
        outcomes = state.result(raise_on_failure=False)
        if isinstance(outcomes, BaseException):
            raise outcomes
    return asked.outcomes or ()


@contextmanager
def _server_errors_explained(asked: "Asked") -> Iterator[None]:
    """Turn the loss of the server into an error; where all pipeline stages have ended by then, into a warning."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        lost = f"Prefect's server was lost during the flow: {error or type(error).__name__}"
        if asked.outcomes is None:
            remedy = "what ran is kept; run the same command again, or: dcnas flow run --no-prefect"
            raise UnfitEnvironmentError(lost, remedy=remedy) from error
        print(f"warning: {lost}; all that was to run has ended, and the next flow tells it how", flush=True)
