"""GET /health/live and /health/ready, for load balancers and people."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.responses import Response

from gateway.errors import ANSWERS, NotReady
from gateway.routes.http import Request, answer


class Health(Struct, omit_defaults=True):
    """How the gateway is."""

    status: Literal["live", "ready", "not ready"]
    reason: str | UnsetType = UNSET


async def live(_: Request) -> Response:
    """Answer as long as the process can."""
    return answer(Health("live"))


async def ready(request: Request) -> Response:
    """Answer 200 if every model has answered an inference in the last seconds, else 503 and the reason."""
    problem = request.state["gateway"].monitor.problem()
    if problem is None:
        return answer(Health("ready"))
    return answer(Health("not ready", problem), ANSWERS[NotReady].status)
