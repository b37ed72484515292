"""Writes every error in the format of the path's API, OpenAI's by default."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.error_body import OPENAI, ErrorFormat, Failure
from gateway.errors import ERROR_SPECS, INTERNAL, ErrorSpec, GatewayError, InvalidRequest, MethodNotAllowed, NoSuchRoute
from gateway.routes.http import json_response

log = logging.getLogger(__name__)


async def gateway_error(request: Request, exc: Exception) -> Response:
    """Respond to a GatewayError."""
    assert isinstance(exc, GatewayError)  # noqa: S101 - it is registered for this class
    request.scope["state"]["record"].error = type(exc).__name__
    response = _respond(request, type(exc), ERROR_SPECS[type(exc)], exc.message, exc.param)
    response.headers.update(exc.headers)
    return response


async def http_exception(request: Request, exc: Exception) -> Response:
    """Respond to the router's errors for unknown paths and methods."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - it is registered for this class
    path = request.url.path
    error: GatewayError
    if exc.status_code == HTTPStatus.NOT_FOUND:
        error = NoSuchRoute(f"there is no {path}; see /openapi.json")
    elif exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error = MethodNotAllowed(f"{path} does not support {request.method}")
    else:
        error = InvalidRequest(exc.detail)
    response = await gateway_error(request, error)
    response.headers.update(exc.headers or {})
    return response


async def client_disconnect(_: Request, __: Exception) -> Response:
    """Record that the client disconnected while it sent its body. Nobody reads this response; 499 is nginx's status."""
    return Response(status_code=499)


async def internal_error(request: Request, exc: Exception) -> Response:
    """Respond to a bug. The stack trace is logged; the request id in the response identifies it."""
    log.error("request %s failed", request.scope["state"]["record"].request_id, exc_info=exc)
    message = "internal error; find the details in the server's log by this response's x-request-id"
    return _respond(request, type(exc), INTERNAL, message, None)


def _respond(request: Request, kind: type[Exception], spec: ErrorSpec, message: str, param: str | None) -> Response:
    state = request.scope["state"]
    error_format: ErrorFormat = state.get("error_format", OPENAI)
    response = json_response(
        error_format.write(Failure(kind, spec, message, param, state["record"].request_id)), spec.status
    )
    response.headers.update(spec.headers)
    return response
