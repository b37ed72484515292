"""The process that serves: the only one, or one of several workers."""

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from socket import socket

import uvicorn

from gateway.app import create_app
from gateway.board import Board
from gateway.drain import Drain
from gateway.server.listener import Listener
from gateway.server.protocol import Protocol
from gateway.server.server import Server
from gateway.settings import Settings
from gateway.telemetry.spans import Spans

KEEP_ALIVE_S = 75
"""Longer than the idle timeouts of clients and load balancers, so that the gateway never closes first."""
SWITCH_INTERVAL_S = 0.0005
"""How long the event loop waits for a thread that holds the GIL, such as to parse JSON; Python's default is 5 ms."""
CLOSE_S = 1
"""Time to send responses to slow clients after draining."""
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def serve(settings: Settings, sockets: Sequence[socket], board: Board, spans: Spans) -> None:
    """Serve the API until a signal to stop.

    Args:
        settings: the gateway's settings.
        sockets: listen for connections.
        board: shared by the workers.
        spans: records traces.
    """
    _yield_to_models()
    drain = Drain()
    config = uvicorn.Config(
        create_app(settings, drain, spans, board),
        loop="uvloop",
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
    )
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # Exclude what is allocated so far from garbage collection, which takes 20 ms for it each time.
    gc.collect()
    gc.freeze()
    Server(config, drain, settings.drain_timeout_s, Listener(sockets, board), board, settings.heartbeat_file).run()


def end_with(parent: int) -> None:
    """Make the kernel end this process when its parent has ended, by whatever."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _yield_to_models() -> None:
    """Do not preempt the threads of models on the same machine (sched(7), SCHED_BATCH).

    This gives 4 to 6 % more throughput and lower latencies: the threads of a model wait for each other.
    """
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
