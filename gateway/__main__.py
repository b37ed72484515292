"""`python -m gateway`: serve the API until SIGINT or SIGTERM."""

import os

# gRPC reads both on import. Otherwise it logs a line in its own format for each image worker started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Otherwise tokenizers use one shared thread pool, in which each batch waits for all earlier ones.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import logging
import socket
import sys
from dataclasses import replace

from gateway.board import Board
from gateway.parent import Parent
from gateway.scheduling import cores
from gateway.server.listener import listen
from gateway.settings import Settings, SettingsError
from gateway.telemetry import logs
from gateway.telemetry.configure import configure_spans

log = logging.getLogger("gateway")

START_FAILED = 3
"""uvicorn's exit code."""
MOST_WORKERS = 8
"""What `auto` starts at most: each worker takes about 100 MiB."""


def main() -> int:
    """Run the gateway. The exit code is 2 if a setting is invalid, and 3 if it cannot listen or start."""
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as exc:
        print(f"gateway: {exc}", file=sys.stderr)  # noqa: T201 - logging is not configured yet
        return 2
    if len(sys.argv) > 1:
        return _work(settings, *map(int, sys.argv[1:]))
    logs.configure()
    try:
        sockets = listen(settings.host, settings.port)
    except OSError as exc:
        log.error("cannot listen on %s, port %d: %s", settings.host, settings.port, exc)  # noqa: TRY400
        return START_FAILED
    workers = min(cores.count(), MOST_WORKERS) if settings.workers is None else settings.workers
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info("listening on http://%s:%d, workers: %d", host, settings.port, workers)
    if workers > 1:
        return Parent(settings, workers, sockets).run()
    return _serve(settings, sockets, Board())


def _work(settings: Settings, parent: int, workers: int, file: int, column: int, *sockets: int) -> int:
    """Be a worker of a parent."""
    from gateway.worker import end_with  # noqa: PLC0415 - see _serve

    end_with(parent)
    logs.configure(worker=column)
    for one in (file, *sockets):  # an image decoder that outlives this process must not keep the port taken
        os.set_inheritable(one, False)
    listening = [socket.socket(fileno=one) for one in sockets]
    return _serve(replace(settings, heartbeat_file=None), listening, Board(workers, file, column))


def _serve(settings: Settings, sockets: list[socket.socket], board: Board) -> int:
    from gateway.worker import serve  # noqa: PLC0415 - the parent does without: it takes 60 MiB

    serve(settings, sockets, board, configure_spans(os.environ))
    return 0


if __name__ == "__main__":
    sys.exit(main())
