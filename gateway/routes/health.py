"""GET /health/live and /health/ready, for load balancers and people."""

from dataclasses import replace
from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from gateway.errors import ANSWERS, NotReady
from gateway.health import Code
from gateway.routes.http import Request, json_response
from gateway.routes.operation import Operation


class Health(Struct, omit_defaults=True):
    """How the gateway is."""

    status: Literal["live", "ready", "not ready"]
    code: Code | UnsetType = UNSET
    """Why it is not ready, for programs."""
    reason: str | UnsetType = UNSET
    """Why it is not ready, for people."""


async def live(_: Request) -> Response:
    """Answer as long as the process can."""
    return json_response(Health("live"))


async def ready(request: Request) -> Response:
    """Answer 200 if every model has answered an inference in the last seconds, else 503 and the reason."""
    problem = request.state["gateway"].monitor.problem()
    if problem is None:
        return json_response(Health("ready"))
    return json_response(Health("not ready", problem.code, problem.reason), ANSWERS[NotReady].status)


OPERATIONS = tuple(
    replace(operation, response=Health, tag="Health", needs_key=False)
    for operation in (
        Operation("get", "/health", "health", "The same as /health/ready, where TEI has it", ready),
        Operation("get", "/health/live", "healthLive", "Whether the process answers", live),
        Operation("get", "/health/ready", "healthReady", "Whether every model answers", ready),
    )
)
