"""
Prefect's runner of served deployments, with an end that its server learns of.

Prefect 3.8's own answer to SIGTERM starts a coroutine that nobody awaits: the flow that runs is killed and stays RUNNING in the server.
"""

import asyncio
import signal
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner


class _Runner(Runner):
    """Runs one flow at a time; on the first SIGINT or SIGTERM it cancels it, pauses the schedules and ends."""

    _stopped: Future[None] | None = None

    def handle_sigterm(self, *_: Any) -> None:
        """Stop in the event loop, which this signal has interrupted."""
        if self._stopped is None and self._loop is not None:
            self._stopped = asyncio.run_coroutine_threadsafe(self.astop(), self._loop)


async def _run(deployments: Sequence[RunnerDeployment]) -> None:
    runner = _Runner(pause_on_shutdown=True, limit=1)
    for deployment in deployments:
        await runner.aadd_deployment(deployment)
    signal.signal(signal.SIGINT, runner.handle_sigterm)
    print(f"serving {', '.join(deployment.full_name for deployment in deployments)}", flush=True)
    await runner.start()


def run_until_stopped(deployments: Sequence[RunnerDeployment]) -> None:
    """Register the deployments with Prefect's server and run what falls due, one at a time, until SIGINT or SIGTERM. Main thread only."""
    asyncio.run(_run(deployments))
