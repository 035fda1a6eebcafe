"""
Prefect's API server for one flow, where none is configured.

Prefect's own temporary server shares the flow's process group and knows nothing of its parent's death: Ctrl-C ends it before it
hears that the run ended, and a killed flow leaves it behind for ever. This one outlives Ctrl-C and ends with its parent.

Run:    python -m dcnas_flows.server DESCRIPTOR, done by `ensure_server`; DESCRIPTOR is that of a listening socket
Takes:  a pipe as stdin, whose other end the parent holds open while it lives
Expect: the database of PREFECT_HOME brought up to date, then the API until the pipe closes; no services for schedules
"""

import atexit
import os
import socket
import subprocess
import sys
from threading import Thread

from dcnas_harness.errors import UnfitEnvironmentError

_REMEDY = "start one (prefect server start) and set PREFECT_API_URL, or run: dcnas flow run --no-prefect"

_UI_URL = "http://127.0.0.1:4200"
"""Where `prefect server start` serves its pages unless told otherwise; the temporary server has none."""


def ensure_server() -> None:
    """
    Make sure that Prefect's server answers; start a temporary one, which ends with this process, where none is configured.

    Raises:
        UnfitEnvironmentError: The configured server does not answer or has another version, or the temporary one does not start.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not settings.api.url:
        _start_temporary(float(settings.server.ephemeral.startup_timeout_seconds))
    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch()
    except RuntimeError as error:
        raise UnfitEnvironmentError(f"Prefect's server cannot be used: {error}", remedy=_REMEDY) from error


def _start_temporary(limit_s: float) -> None:
    import httpx
    from prefect.context import refresh_global_settings_context

    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        print(f"starting a temporary Prefect server at {url} (up to {limit_s:.0f} s)", flush=True)
        print(f"its database stays: `prefect server start` shows this run later, at {_UI_URL}", flush=True)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dcnas_flows.server", str(listening.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
        atexit.register(process.kill)  # after Prefect's own exit hooks, which send what they still hold
    try:
        httpx.get(f"{url}/health", timeout=limit_s, trust_env=False).raise_for_status()  # waits in the socket's queue
    except httpx.HTTPError as error:
        process.kill()
        raise UnfitEnvironmentError(
            f"The temporary Prefect server did not start (limit {limit_s:.0f} s): {error}", where=url, remedy=_REMEDY
        ) from error
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_UI_URL", _UI_URL)
    refresh_global_settings_context()


def main() -> None:
    """Serve on the inherited socket until the parent is gone."""
    Thread(target=_end_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    config = uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
