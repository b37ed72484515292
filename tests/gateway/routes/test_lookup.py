"""Routes that are looked up answer as Starlette's own would."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from gateway.routes.lookup import Lookup


async def tell(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.url.path}")


ROUTES = [Route("/one", tell), Route("/one/two", tell, methods=["POST"])]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
@pytest.mark.parametrize("path", ["/one", "/one/two", "/one/", "/other", "/on%65"])
def test_answers_are_those_of_a_list_of_routes(method: str, path: str) -> None:
    plain, looked_up = (TestClient(Starlette(routes=routes)) for routes in (ROUTES, [Lookup(ROUTES), *ROUTES]))
    expected, answer = (client.request(method, path, follow_redirects=False) for client in (plain, looked_up))
    assert (answer.status_code, answer.text) == (expected.status_code, expected.text)
    assert answer.headers == expected.headers
