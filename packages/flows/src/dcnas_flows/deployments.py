"""
The deployments of prefect.yaml on one machine: a process that waits for their schedules and runs them here.

On several machines `prefect deploy` and `prefect worker` do that; both ways read the same file.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from dcnas_flows.server import settle_prefect, standing_server
from dcnas_harness.errors import BadInputError
from dcnas_schema.params import read_yaml
from dcnas_schema.section import Section

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

_FILE = "prefect.yaml"


class CronSchedule(Section):
    """When a deployment runs by itself."""

    cron: str
    timezone: str
    """Name of a zone of the IANA database."""
    active: bool = True


class ConcurrencyLimit(Section):
    """How many runs of a deployment there may be at once, and what becomes of one too many."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class WorkPool(Section):
    """Whose workers take the runs; not used on one machine."""

    name: str
    job_variables: dict[str, str] = Field(default_factory=dict)
    """Such as working_dir, the clone that runs are made in where it is not the one that the worker's environment is installed from."""


class Deployment(Section):
    """A flow with its parameters and schedules."""

    name: str
    entrypoint: str
    """Import path of the flow."""
    description: str
    parameters: dict[str, Any]
    concurrency_limit: ConcurrencyLimit
    schedules: tuple[CronSchedule, ...] = Field(strict=False)
    work_pool: WorkPool

    @property
    def active(self) -> bool:
        """Whether it runs by itself."""
        return any(schedule.active for schedule in self.schedules)


def read_deployments(root: Path) -> list[Deployment]:
    """
    Return the deployments of a project's prefect.yaml.

    Raises:
        BadInputError: There is no such file, or it is not as Prefect and this project need it.
    """
    path = root / _FILE
    try:
        return [Deployment.model_validate(entry) for entry in read_yaml(path)["deployments"]]
    except (ValidationError, KeyError, TypeError) as error:
        raise BadInputError(
            f"The deployments of {_FILE} are not valid: {error}", where=path, remedy="correct it"
        ) from error


def serve(root: Path) -> None:
    """
    Run the project's deployments on this machine, one at a time, at their times and on demand, until stopped. Main thread only.

    They are those of prefect.yaml that have an active schedule. Prefect's server is that of PREFECT_API_URL or of Prefect's profile;
    where none is configured, the one at its usual address, which is started with its pages and ends with this process unless it runs.
    On SIGINT and SIGTERM the flow that runs is cancelled, with all its processes, and the schedules are paused until the next start.

    Raises:
        BadInputError: prefect.yaml is missing or wrong.

        UnfitEnvironmentError: The server does not answer or does not start.
    """
    deployments = [deployment for deployment in read_deployments(root) if deployment.active]
    settle_prefect()
    os.chdir(root)  # the flows find the project there
    with standing_server():
        from dcnas_flows.alive import tell_of_the_dead
        from dcnas_flows.runner import run_until_stopped

        for run in tell_of_the_dead(root):
            print(f"flow run {run} had died without a word; it is marked as crashed", flush=True)
        run_until_stopped([_for_runner(deployment) for deployment in deployments])


def _for_runner(deployment: Deployment) -> "RunnerDeployment":
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    module, _, name = deployment.entrypoint.rpartition(".")
    limit = deployment.concurrency_limit
    made: RunnerDeployment = getattr(import_module(module), name).to_deployment(
        deployment.name,
        description=deployment.description,
        parameters=deployment.parameters,
        schedules=[Cron(item.cron, timezone=item.timezone, active=item.active) for item in deployment.schedules],
        concurrency_limit=ConcurrencyLimitConfig(
            limit=limit.limit, collision_strategy=ConcurrencyLimitStrategy(limit.collision_strategy)
        ),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return made
