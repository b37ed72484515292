"""Every failure in the error body of the path's API; in OpenAI's on all that are nobody else's."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.error_body import OPENAI, Dialect, Failure
from gateway.errors import ANSWERS, INTERNAL, Answer, GatewayError, InvalidRequest, MethodNotAllowed, NoSuchRoute
from gateway.routes.http import json_response

log = logging.getLogger(__name__)


async def gateway_error(request: Request, exc: Exception) -> Response:
    """Answer one of our own errors."""
    assert isinstance(exc, GatewayError)  # noqa: S101 - what it is registered for
    request.scope["state"]["record"].error = type(exc).__name__
    response = _respond(request, type(exc), ANSWERS[type(exc)], exc.message, exc.param)
    response.headers.update(exc.headers)
    return response


async def http_exception(request: Request, exc: Exception) -> Response:
    """Answer what the router raises for paths and methods that are not there."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - what it is registered for
    path = request.url.path
    error: GatewayError
    if exc.status_code == HTTPStatus.NOT_FOUND:
        error = NoSuchRoute(f"there is no {path}; see /openapi.json")
    elif exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error = MethodNotAllowed(f"{path} does not take {request.method}")
    else:
        error = InvalidRequest(exc.detail)
    response = await gateway_error(request, error)
    response.headers.update(exc.headers or {})
    return response


async def client_disconnect(_: Request, __: Exception) -> Response:
    """Note that the client hung up while it sent its body; nobody reads this answer. 499 is nginx's status for it."""
    return Response(status_code=499)


async def internal_error(request: Request, exc: Exception) -> Response:
    """Answer a bug: the log has the trace, the client has the request id to find it by."""
    log.error("request %s failed", request.scope["state"]["record"].request_id, exc_info=exc)
    message = "internal error; the server's log has it under this answer's x-request-id"
    return _respond(request, type(exc), INTERNAL, message, None)


def _respond(request: Request, kind: type[Exception], failure: Answer, message: str, param: str | None) -> Response:
    state = request.scope["state"]
    dialect: Dialect = state.get("dialect", OPENAI)
    response = json_response(
        dialect.write(Failure(kind, failure, message, param, state["record"].request_id)), failure.status
    )
    response.headers.update(failure.headers)
    return response
