"""What a request can fail with, and the HTTP status of each failure: the one table.

GatewayError
├── InvalidRequest        the body is malformed, or a field is wrong
├── InvalidKey            no API key, or an unknown one
├── ForbiddenOrigin             without keys: a page of another site asks, in somebody's browser
├── ModelNotFound         no model of that name does what was asked
├── NoSuchRoute           no such path
├── MethodNotAllowed      the path takes other methods
├── UnsupportedEncoding   the body is compressed
├── RequestTooLarge       more bytes than a body may have, or more tokens than a request
├── QuotaExceeded         the key has asked for all that it may in this minute
├── Overloaded            more work is waiting than can be done in time
├── ClientGone            nobody is there to read an answer
├── TokenizerFailed       a model's tokenizer broke down on a text
├── InferenceFailed       Triton answered with an error, or with nonsense
├── NotReady              Triton is down, or a model is not loaded
└── DeadlineExceeded      no answer in time
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_MESSAGE = 500
"""Characters. What a message quotes of a request may be megabytes."""


MAX_QUOTED = 200
"""Characters of one value that a message quotes."""


def quoted(text: str) -> str:
    """What a client sent, between quotation marks: no more than its beginning, since megabytes take long to escape."""
    return repr(text) if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]!r}..."


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


class GatewayError(Exception):
    """Base of all; anything else that escapes is a bug and answered as an internal error."""

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Describe the failure to the client.

        Args:
            message: one sentence; names the field and the limit.
            param: the field at fault, as a path such as "input[3].text".
            headers: of the answer, beside those that the table has.
        """
        super().__init__(message)
        self.headers = headers or {}
        self.message = _shortened(message)
        self.param = param if param is None else _shortened(param)


class InvalidRequest(GatewayError):  # noqa: N818 - all of these are failures of a request, and named after it
    """The body is malformed, or a field is wrong."""


class InvalidKey(GatewayError):  # noqa: N818
    """No API key, or an unknown one."""


class ForbiddenOrigin(GatewayError):  # noqa: N818
    """A page of another site asks, in the browser of somebody who can reach this server."""


class ModelNotFound(GatewayError):  # noqa: N818
    """No model of that name does what was asked."""


class NoSuchRoute(GatewayError):  # noqa: N818
    """No such path."""


class MethodNotAllowed(GatewayError):  # noqa: N818
    """The path takes other methods."""


class UnsupportedEncoding(GatewayError):  # noqa: N818
    """The body is compressed."""


class RequestTooLarge(GatewayError):  # noqa: N818
    """More bytes than a body may have, or more tokens than a request."""


class QuotaExceeded(GatewayError):  # noqa: N818
    """The key has asked for all that it may in this minute."""


class Overloaded(GatewayError):  # noqa: N818
    """More work is waiting than can be done in time."""


class ClientGone(GatewayError):  # noqa: N818
    """Nobody is there to read an answer."""


class TokenizerFailed(GatewayError):  # noqa: N818
    """A model's tokenizer broke down on a text, as with a regular expression that never ends."""


class InferenceFailed(GatewayError):  # noqa: N818
    """Triton answered with an error, or with nonsense."""


class NotReady(GatewayError):  # noqa: N818
    """Triton is down, or a model is not loaded."""


class DeadlineExceeded(GatewayError):  # noqa: N818
    """No answer in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a failure looks to a client."""

    status: int
    type: str
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


INTERNAL = Answer(500, "server_error", "internal_error")

ANSWERS: Mapping[type[GatewayError], Answer] = {
    InvalidRequest: Answer(400, "invalid_request_error"),
    InvalidKey: Answer(401, "authentication_error", "invalid_api_key", {"www-authenticate": "Bearer"}),
    ForbiddenOrigin: Answer(403, "invalid_request_error", "forbidden_origin"),
    ModelNotFound: Answer(404, "invalid_request_error", "model_not_found"),
    NoSuchRoute: Answer(404, "invalid_request_error", "not_found"),
    MethodNotAllowed: Answer(405, "invalid_request_error", "method_not_allowed"),
    UnsupportedEncoding: Answer(415, "invalid_request_error", "unsupported_encoding", {"accept-encoding": "identity"}),
    RequestTooLarge: Answer(413, "invalid_request_error", "request_too_large"),
    QuotaExceeded: Answer(429, "rate_limit_error", "rate_limit_exceeded"),
    Overloaded: Answer(429, "rate_limit_error", "overloaded", {"retry-after": "1"}),
    ClientGone: Answer(499, "invalid_request_error", "client_gone"),  # nginx's status for it
    TokenizerFailed: Answer(500, "server_error", "tokenizer_failed"),
    InferenceFailed: Answer(502, "server_error", "inference_failed"),
    NotReady: Answer(503, "server_error", "not_ready", {"retry-after": "1"}),
    DeadlineExceeded: Answer(504, "server_error", "deadline_exceeded"),
}
