"""`python -m gateway`: serves the API until SIGINT or SIGTERM."""

import os
import sys

import uvicorn

from gateway import logs
from gateway.app import create_app
from gateway.settings import Settings, SettingsError

KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep an idle connection, so that the gateway is never the first to close."""
DRAIN_S = 4
"""How long requests that were accepted may take after a signal to stop."""


def main() -> int:
    """Run the server; the exit code is 2 where a setting is wrong."""
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as exc:
        print(f"gateway: {exc}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    logs.configure()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
