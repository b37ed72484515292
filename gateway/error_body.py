"""The body of an error answer: in OpenAI's form, unless the path belongs to another API."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Struct

from gateway.errors import Answer


class ErrorObject(Struct):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Struct):
    """The body of every failure."""

    error: ErrorObject
    detail: str
    """The message again, where clients of Jina look for it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What there is to tell of a failure."""

    kind: type[Exception]
    """A GatewayError, or anything else, which is a bug."""
    answer: Answer
    message: str
    param: str | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one API writes errors."""

    body: type[Struct]
    write: Callable[[Failure], Struct]


def _openai(failure: Failure) -> Struct:
    error = ErrorObject(failure.message, failure.answer.type, failure.param, failure.answer.code)
    return ErrorResponse(error, failure.message)


OPENAI = Dialect(ErrorResponse, _openai)
