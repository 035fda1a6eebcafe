"""
The reproduction as a Prefect flow: one task per stale pipeline stage.

DVC alone decides what is stale and keeps what was made; Prefect caches nothing and stores no results.
"""

from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from prefect.states import Completed, Failed

from dcnas_flows.engine import RETRIES, Outcome, Plan, Result, Step, execute, worth_retrying
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
    """Run one pipeline stage; its lines go to the run's log as they come."""
    log = get_run_logger()
    outcome = _PROJECT.get().run(name, lambda line: log.info(line) if line else None)
    outcome = replace(outcome, attempts=task_run.run_count)
    if outcome.good:
        label = "Completed" if outcome.result is Result.RAN else outcome.result.name.capitalize()
        return Completed(name=label, message=outcome.result.value, data=outcome)
    return Failed(message=f"{name} failed with exit code {outcome.exit_code}", data=outcome)


@flow(name="reproduce", persist_result=False)
def reproduce_flow(root: Path, targets: list[str], jobs: int | None = None) -> State[tuple[Outcome, ...]]:
    """
    Run every stale pipeline stage that the targets need, side by side where they fit; the result is what `dvc repro` gives.

    Args:
        root: The project's folder.

        targets: Names of pipeline stages or of their groups; none means all.

        jobs: Most cores that stages take together; all that this process may use, where it is `None`.

    Raises:
        BadInputError: A target is unknown, or DVC cannot read the pipeline.

        UnfitEnvironmentError: Another flow or dvc process is at work there.
    """
    with opened(root, targets) as project:
        get_run_logger().info(describe(project.plan))
        _PROJECT.set(project)
        outcomes = execute(project.plan, _TaskRunner(), capacity_of(root, jobs))
    _publish(root, project.plan, outcomes)
    failed = [outcome.name for outcome in outcomes if outcome.result is Result.FAILED]
    if failed:
        return Failed(message=f"failed: {', '.join(failed)}", data=outcomes)
    return Completed(message=f"brought up to date: {len(outcomes)} pipeline stages", data=outcomes)


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


def _publish(root: Path, made: Plan, outcomes: tuple[Outcome, ...]) -> None:
    create_table_artifact(key="pipeline-stages", table=rows(outcomes), description=describe(made))
    create_markdown_artifact(key="pipeline-graph", markdown=f"```mermaid\n{mermaid(made)}\n```")
    for path in sorted(root.glob("results/table_*.md")):
        key = f"results-{path.stem}".replace("_", "-").lower()
        create_markdown_artifact(key=key, markdown=path.read_text(encoding="utf-8"), description=path.name)
