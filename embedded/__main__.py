"""`python -m embedded`: Triton and the gateway in the foreground, until Ctrl-C or SIGTERM stops both."""

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
from gateway.settings import Settings, SettingsError

GATEWAY_STOP_S = 4.0
"""More than it has to answer what it accepted: for errors, slow clients, and its own end."""
TRITON_STOP_S = EXIT_TIMEOUT_S + 1.0
LOST_S = 3.0
"""How long Triton may be unwell after it has lost the process of a model. Some end for a good reason, such as a new
version of a model. The gateway starts its own again, which decode images."""
BEAT_S = 5.0
"""How old the last sign of life of a gateway may be that renews it every second."""
LOG_LINES = 30
"""Of Triton's errors, shown where it could not start."""
ERROR_LINE = re.compile(r"(?:E\d{4} |error: )(?!.*CudaDriverHelper)")
"""How lines of Triton's log begin that tell of an error; the last ones of all are tables of settings."""


def main() -> int:
    """Run both; the exit code is 1 where something failed, 2 where a setting or the machine does not do."""
    try:
        ports = Ports.from_env(os.environ)
        environment = {**os.environ, "GATEWAY_TRITON_URL": f"{LOOPBACK}:{ports.grpc}"}
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
            lambda: _problem(settings) in (None, "no_models"),  # where somebody unloaded it, Triton is well
            LOST_S,
        ),
        Service(
            "gateway",
            [sys.executable, "-m", "gateway"],
            {**environment, "GATEWAY_HEARTBEAT_FILE": str(heartbeat)},
            settings.drain_timeout_s + GATEWAY_STOP_S,
            is_well=lambda: gateway_is_well(settings, heartbeat),
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
    """Status and body of what the gateway answers, if it does."""
    connection = http.client.HTTPConnection(_reachable(settings.host), settings.port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def gateway_is_well(settings: Settings, heartbeat: Path) -> bool:
    """Whether the gateway's event loop goes round, or it answers: with a full disk it gives no signs, and under load it
    may have no connection left."""
    with suppress(OSError):
        if time.time() - heartbeat.stat().st_mtime < BEAT_S:
            return True
    return _get(settings, "/health/live") is not None


def _is_ready(settings: Settings) -> bool:
    answer = _get(settings, "/health/ready")
    return answer is not None and answer[0] == http.HTTPStatus.OK


def _problem(settings: Settings) -> str | None:
    """The code of what the gateway's readiness check reports; None if it is ready, or gone."""
    answer = _get(settings, "/health/ready")
    return json.loads(answer[1]).get("code") if answer is not None else None


def _reachable(host: str) -> str:
    """An address to reach a server by that listens on every one."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - not bound to


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
