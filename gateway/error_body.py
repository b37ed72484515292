"""Bodies of error responses. Each dialect has its own; the default is OpenAI's."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from gateway.errors import ErrorSpec


class ErrorObject(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Struct):
    """An error response in OpenAI's format."""

    error: ErrorObject
    detail: str
    """The message again, where Jina clients look for it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, with all that a dialect may report of it."""

    kind: type[Exception]
    """A GatewayError; any other exception is a bug."""
    spec: ErrorSpec
    message: str
    param: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """The error format of one API."""

    body: type[Struct]
    write: Callable[[Failure], Struct]


def _openai(failure: Failure) -> Struct:
    error = ErrorObject(failure.message, failure.spec.type, failure.param, failure.spec.code)
    return ErrorResponse(error, failure.message)


OPENAI = ErrorFormat(ErrorResponse, _openai)
