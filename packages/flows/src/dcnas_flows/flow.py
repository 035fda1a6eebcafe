"""
The reproduction as a Prefect flow: one task per stale pipeline stage.

DVC alone decides what is stale and keeps what was made; Prefect caches nothing and stores no results.
"""

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from dcnas_flows.away import Away
from dcnas_flows.engine import RETRIES, Outcome, Plan, Result, Step, execute, worth_retrying
from dcnas_flows.job import ASKED, in_project, know_this_machine
from dcnas_flows.orders import Sharing
from dcnas_flows.project import Project, capacity_of, opened
from dcnas_flows.report import describe, mermaid, rows

_PROJECT: ContextVar[Project] = ContextVar("project")
"""The project of the present flow; not a parameter of its tasks, which Prefect would take apart."""


def _may_pass(_task: Any, _run: TaskRun, state: State[Outcome]) -> bool:
    return isinstance(state.data, Outcome) and worth_retrying(state.data)


@task(
    name="pipeline stage",
    task_run_name="{name}",
    retries=RETRIES,
    retry_condition_fn=_may_pass,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def run_pipeline_stage(name: str) -> State[Outcome]:
    """Run one pipeline stage; its lines go to the run's log as they come, what it read and made into a table."""
    log = get_run_logger()
    project = _PROJECT.get()
    outcome = project.run(name, lambda line: log.info(line) if line else None)
    outcome = replace(outcome, attempts=task_run.run_count)
    if outcome.good:
        key = f"stage-{re.sub('[^a-z0-9]+', '-', name.lower())}"
        said = f"{name}: {outcome.result.value}, {outcome.seconds:.1f} s"
        publish([partial(create_table_artifact, key=key, table=project.files(name), description=said)])
        label = "Completed" if outcome.result is Result.RAN else outcome.result.name.capitalize()
        return Completed(name=label, message=outcome.result.value, data=outcome)
    return Failed(message=f"{name} failed with exit code {outcome.exit_code}", data=outcome)


@flow(name="reproduce", persist_result=False)
def reproduce_flow(
    targets: list[str] = [],  # noqa: B006 - never changed; the UI's form shows it
    jobs: int | None = None,
    sharing: Sharing | None = None,
) -> State[Any]:
    """
    Run every stale pipeline stage that the targets need, side by side where they fit; the result is what `dvc repro` gives.

    Args:
        targets: Names of pipeline stages or of the groups that a matrix makes, such as retrain; none means all.

        jobs: Most cores that stages take together; all that this process may use, where it is empty.

        sharing: Run on other machines what may leave home (`dcnas_flows.away`); all runs here where it is `None`.

    Raises:
        BadInputError: A target is unknown, or DVC cannot read the pipeline; or there is nothing to share through: no DVC remote, no pool.

        UnfitEnvironmentError: Another flow or dvc process is at work there.
    """
    return in_project(lambda root: _reproduced(root, targets, jobs, sharing))


def _reproduced(
    root: Path, targets: list[str], jobs: int | None, sharing: Sharing | None
) -> State[tuple[Outcome, ...]]:
    if sharing is None or not sharing.device_elsewhere:
        know_this_machine(root)
    with opened(root, targets, _elsewhere(sharing) if sharing else None) as project:
        get_run_logger().info(describe(project.plan))
        capacity = capacity_of(root, jobs)
        if project.elsewhere is not None:
            get_run_logger().info(project.elsewhere.describe())
            capacity = replace(capacity, away=project.elsewhere.names)
        _PROJECT.set(project)
        outcomes = execute(project.plan, _TaskRunner(), capacity)
    if asked := ASKED.get():
        asked.outcomes = outcomes
    publish(_results(root, project.plan, outcomes))
    failed = [outcome.name for outcome in outcomes if outcome.result is Result.FAILED]
    if failed:
        return Failed(message=f"failed: {', '.join(failed)}", data=outcomes)
    return Completed(message=f"brought up to date: {len(outcomes)} pipeline stages", data=outcomes)


def _elsewhere(sharing: Sharing) -> Callable[..., Away]:
    from dcnas_flows.pool import PoolCarrier

    def made(repo: Any, planned: Plan, stages: Mapping[str, Any]) -> Away:
        return Away(repo, planned, stages, carrier=PoolCarrier(sharing.pool), sharing=sharing)

    return made


class _TaskRunner:
    """Runs a step as a task and tells Prefect which tasks of this run it waited for."""

    def __init__(self) -> None:
        self._states: dict[str, State[Any]] = {}

    def __call__(self, step: Step) -> Outcome:
        upstream = [self._states[name] for name in step.upstream if name in self._states]
        state: State[Any] = run_pipeline_stage(step.name, wait_for=upstream, return_state=True)
        self._states[step.name] = state
        outcome: Outcome | BaseException = state.result(raise_on_failure=False)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def publish(artifacts: list[Callable[[], object]]) -> None:
    """Send artifacts to the server; where it is lost, say so and leave out the rest: they only show what the files hold."""
    try:
        for create in artifacts:
            create()
    except httpx.HTTPError as error:
        get_run_logger().warning("Prefect's server took no artifact: %s", error or type(error).__name__)


def _results(root: Path, made: Plan, outcomes: tuple[Outcome, ...]) -> list[Callable[[], object]]:
    drawing = f"```mermaid\n{mermaid(made)}\n```"
    said = describe(made)
    artifacts: list[Callable[[], object]] = [
        partial(create_table_artifact, key="pipeline-stages", table=rows(outcomes), description=said),
        partial(create_markdown_artifact, key="pipeline-graph", markdown=drawing, description=said),
    ]
    for path in sorted(root.glob("results/table_*.md")):
        key, text = f"results-{path.stem}".replace("_", "-").lower(), path.read_text(encoding="utf-8")
        artifacts.append(partial(create_markdown_artifact, key=key, markdown=text, description=path.name))
    return artifacts
