"""GET /metrics, for Prometheus."""

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from gateway.routes.http import Request


async def show(request: Request) -> Response:
    return Response(request.state["gateway"].metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
