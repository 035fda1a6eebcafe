"""
Prefect's API server where none is configured: a temporary one for one flow, a whole one for schedules.

Prefect's own temporary server shares the flow's process group and knows nothing of its parent's death: Ctrl-C ends it before it
hears that the run ended, and a killed flow leaves it behind for ever. This one outlives Ctrl-C and ends with its parent.

Run:    python -m dcnas_flows.server DESCRIPTOR temporary|whole, done by `ensure_server` and `standing_server`
Takes:  the descriptor of a listening socket; a pipe as stdin, whose other end the parent holds open while it lives
Expect: the database of PREFECT_HOME brought up to date, then the API until the pipe closes; only a whole one runs schedules
"""

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from dcnas_harness.errors import UnfitEnvironmentError

_REMEDY = "start one (prefect server start) and set PREFECT_API_URL, or run: dcnas flow run --no-prefect"

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # in memory, Prefect's default, a restarted server forgets who holds a place, and a deployment of one place never runs again
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # a temporary server takes 16 to 29 s to start on two busy cores (measured); Prefect's own limit is 20
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}

_UI_URL = "http://127.0.0.1:4200"
"""Where `prefect server start` serves its pages unless told otherwise; the temporary server has none."""


def settle_prefect() -> None:
    """Set what Prefect reads of the environment when it is imported, where it is not set: no analytics, time to start."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def ensure_server(*, for_others: bool = False) -> None:
    """
    Make sure that Prefect's server answers; start a temporary one, which ends with this process, where none is configured.

    Args:
        for_others: Workers on other machines are to use it, so a temporary one does not do.

    Raises:
        UnfitEnvironmentError: None is configured though others need it, the configured one does not answer or has another version, or the
            temporary one does not start.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not settings.api.url and for_others:
        raise UnfitEnvironmentError(
            "No Prefect server is configured that workers on other machines could reach.",
            remedy="prefect server start --host 0.0.0.0, and set PREFECT_API_URL=http://THIS_MACHINE:4200/api here and there",
        )
    if not settings.api.url:
        _start(("127.0.0.1", 0), float(settings.server.ephemeral.startup_timeout_seconds), whole=False)
    try:
        with get_client(sync_client=True) as client:
            client.raise_for_api_version_mismatch()
    except RuntimeError as error:
        raise UnfitEnvironmentError(f"Prefect's server cannot be used: {error}", remedy=_REMEDY) from error


@contextmanager
def standing_server() -> Iterator[None]:
    """
    Make sure that a whole server answers while the block runs, with its pages and the service that makes runs of schedules.

    It is the configured one, or the one at Prefect's usual address; where none runs there, one is started, which ends with this process.

    Raises:
        UnfitEnvironmentError: It does not answer, does not start, or has another version.
    """
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not settings.api.url:
        host, port = settings.server.api.host, settings.server.api.port
        url = f"http://{host}:{port}/api"
        if _answers(url):
            print(f"using the Prefect server at {url}", flush=True)
            _use(url, f"http://{host}:{port}")
        else:
            _start((host, port), float(settings.server.ephemeral.startup_timeout_seconds), whole=True)
    ensure_server()
    yield


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _start(address: tuple[str, int], limit_s: float, *, whole: bool) -> None:
    """Start a server that ends with this process, and have Prefect's client use it."""
    import httpx

    try:
        listening = socket.create_server(address)
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        raise UnfitEnvironmentError(
            f"Prefect's server cannot listen there: {error}", where=where, remedy=_REMEDY
        ) from error
    with listening:
        host, port = listening.getsockname()[:2]
        url, kind = f"http://{host}:{port}/api", "whole" if whole else "temporary"
        print(f"starting a {kind} Prefect server at {url} (up to {limit_s:.0f} s)", flush=True)
        if whole:
            print(f"its pages: http://{host}:{port}", flush=True)
        else:
            print(f"its database stays: `prefect server start` shows this run later, at {_UI_URL}", flush=True)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dcnas_flows.server", str(listening.fileno()), kind],
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
            f"The {kind} Prefect server did not start (limit {limit_s:.0f} s): {error}", where=url, remedy=_REMEDY
        ) from error
    _use(url, f"http://{host}:{port}" if whole else _UI_URL)


def _use(url: str, pages: str) -> None:
    from prefect.context import refresh_global_settings_context

    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_UI_URL", pages)
    refresh_global_settings_context()


def main() -> None:
    """Serve on the inherited socket until the parent is gone."""
    Thread(target=_end_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    ephemeral = sys.argv[2:] != ["whole"]
    config = uvicorn.Config(create_app(ephemeral=ephemeral, final=True), log_level="error")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
