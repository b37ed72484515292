"""GET /health, /health/live, /health/ready, /version and /load, for load balancers and people."""

from dataclasses import replace
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from gateway import __version__
from gateway.errors import ERROR_SPECS, NotReady
from gateway.health import Code
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation
from gateway.telemetry.metrics import IN_FLIGHT


class Health(Struct, omit_defaults=True):
    """The state of the server."""

    status: Literal["live", "ready", "not ready"]
    code: Code | UnsetType = UNSET
    """Why it is not ready, for programs."""
    reason: str | UnsetType = UNSET
    """Why it is not ready, for people."""


class Version(Struct):
    """The version of the server."""

    version: str


class Load(Struct):
    """The load of the server."""

    server_load: int
    """Requests in flight, over all workers of this replica."""


async def live(_: Request) -> Response:
    """ErrorSpec 200 as long as the process runs."""
    return json_response(Health("live"))


async def ready(request: Request) -> Response:
    """ErrorSpec 200 if every model has answered an inference in the last seconds, otherwise 503 and the reason."""
    problem = request.state["gateway"].monitor.problem()
    if problem is None:
        return json_response(Health("ready"))
    return json_response(Health("not ready", problem.code, problem.reason), ERROR_SPECS[NotReady].status)


async def version(_: Request) -> Response:
    """Answer GET /version."""
    return json_response(Version(__version__))


async def load(request: Request) -> Response:
    """Answer GET /load, which does not count itself."""
    return json_response(Load(int(request.state["gateway"].metrics.gauge(IN_FLIGHT)) - 1))


HEALTH = tuple(
    replace(operation, response=Health, needs_key=False)
    for operation in (
        Operation("get", "/health", "health", "The same as /health/ready (TEI)", ready),
        Operation("get", "/health/live", "healthLive", "Liveness: whether the process responds", live),
        Operation("get", "/health/ready", "healthReady", "Readiness: whether every model responds", ready),
        Operation("get", "/ping", "ping", "The same as /health/ready (SageMaker, vLLM)", ready),
    )
)
LOAD = (
    Operation("get", "/version", "version", "The version of the server (vLLM)", version, Version),
    Operation("get", "/load", "load", "The number of requests in flight (vLLM)", load, Load),
)
