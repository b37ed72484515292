"""`python -m embedded`: run Triton and the gateway in the foreground until Ctrl-C or SIGTERM."""

import asyncio
import http.client
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from embedded.supervisor import Service, StartFailedError, Supervisor
from embedded.triton import EXIT_TIMEOUT_S, LOOPBACK, Ports, Triton, UnsupportedError, check_ports
from gateway.health import Code
from gateway.settings import Settings, SettingsError

GATEWAY_STOP_S = 4.0
"""Time to stop in addition to the drain timeout: for errors, slow clients and cleanup."""
TRITON_STOP_S = EXIT_TIMEOUT_S + 1.0
LOST_S = 3.0
"""How long Triton may be unhealthy with fewer processes of models than usual: it does not restart them. The gateway
restarts its own, the image workers."""
HEARTBEAT_S = 5.0
"""Maximum age of the gateway's heartbeat file, which it touches every second."""
LOG_LINES = 30
"""Number of errors in Triton's log to show if it does not start."""
ERROR_LINE = re.compile(r"(?:E\d{4} |error: )(?!.*CudaDriverHelper)")
"""Start of an error line in Triton's log. The end of the log is no use: it is a table of settings."""


def main() -> int:
    """Run both. The exit code is 1 if a service fails to start, 2 if a setting or the machine is unsuitable."""
    try:
        ports = Ports.from_env(os.environ)
        environment = {
            **os.environ,
            "GATEWAY_TRITON_URL": f"{LOOPBACK}:{ports.grpc}",
            "GATEWAY_WORKERS": os.environ.get("GATEWAY_WORKERS") or "1",  # models need the cores
        }
        settings = Settings.from_env(environment)
        check_ports(
            {
                "GATEWAY_PORT": settings.port,
                "TRITON_HTTP_PORT": ports.http,
                "TRITON_GRPC_PORT": ports.grpc,
                "TRITON_METRICS_PORT": ports.metrics,
            }
        )
        with tempfile.TemporaryDirectory(prefix="conch-") as scratch:
            return _serve(settings, environment, ports, Path(scratch))
    except (SettingsError, UnsupportedError) as exc:
        print(f"serve: {exc}", file=sys.stderr)
        return 2


def _serve(settings: Settings, environment: Mapping[str, str], ports: Ports, scratch: Path) -> int:
    triton = Triton.prepare(settings.model_repository, ports, scratch)
    log, heartbeat = scratch / "triton.log", scratch / "heartbeat"
    services = [
        Service(
            "triton",
            triton.command,
            triton.environment,
            TRITON_STOP_S,
            log,
            triton.clean_up,
            lambda: _problem(settings) in (None, "no_models"),  # a model may have been unloaded on purpose
            LOST_S,
        ),
        Service(
            "gateway",
            [sys.executable, "-m", "gateway"],
            {**environment, "GATEWAY_HEARTBEAT_FILE": str(heartbeat)},
            settings.drain_timeout_s + GATEWAY_STOP_S,
            is_healthy=lambda: gateway_is_healthy(settings, heartbeat),
        ),
    ]
    print(f"starting Triton (log: {log}) and the gateway", flush=True)
    try:
        asyncio.run(Supervisor(services).run(lambda: _is_ready(settings), lambda: _greet(settings)))
    except StartFailedError as exc:
        print(f"serve: {exc}", file=sys.stderr)
        errors = [line for line in log.read_text(errors="replace").splitlines() if ERROR_LINE.match(line)]
        print(*errors[-LOG_LINES:], sep="\n", file=sys.stderr)
        return 1
    return 0


def _get(settings: Settings, path: str) -> tuple[int, bytes] | None:
    """Status and body of the gateway's answer; None without an answer."""
    connection = http.client.HTTPConnection(_reachable(settings.host), settings.port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def gateway_is_healthy(settings: Settings, heartbeat: Path) -> bool:
    """Whether the gateway has a recent heartbeat, or answers.

    With a full disk it cannot write the heartbeat, and under load it may have no free connection.
    """
    with suppress(OSError):
        if time.time() - heartbeat.stat().st_mtime < HEARTBEAT_S:
            return True
    return _get(settings, "/health/live") is not None


def _is_ready(settings: Settings) -> bool:
    answer = _get(settings, "/health/ready")
    return answer is not None and answer[0] == http.HTTPStatus.OK


def _problem(settings: Settings) -> Code | None:
    """The code that the gateway's readiness check reports; None if it is ready or does not answer."""
    answer = _get(settings, "/health/ready")
    return json.loads(answer[1]).get("code") if answer is not None else None


def _reachable(host: str) -> str:
    """The address of a server for clients on this machine, also if it listens on all addresses."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - not an address to bind


def _greet(settings: Settings) -> None:
    host = _reachable(settings.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    key = " -H 'Authorization: Bearer YOUR_API_KEY'" if settings.api_keys or settings.api_keys_file else ""
    post = f"  curl {url}%s{key} -H 'Content-Type: application/json' -d '%s'"
    print(
        f"ready on {url}",
        *([f"  playground: {url}/   API: {url}/docs"] if settings.pages else []),
        "",
        post % ("/v1/embeddings", '{"input": ["a shell", "a trumpet"]}'),
        post
        % ("/v1/rerank", '{"query": "sea shells", "documents": ["A conch is a sea snail.", "Brass is an alloy."]}'),
        f"  curl {url}/v1/models{key}",
        "",
        sep="\n",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
