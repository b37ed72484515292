"""The errors of the API and the HTTP status of each.

GatewayError
├── InvalidRequest        malformed body, or an invalid field
├── InvalidKey            missing or unknown API key
├── ForbiddenOrigin       a server without keys was asked by a web page of another site
├── ModelNotFound         no model of that name supports the endpoint
├── NoSuchRoute           unknown path
├── NoSuchObject          no file or batch of this key has that id
├── MethodNotAllowed      the path supports other methods
├── UnsupportedEncoding   compressed body
├── RequestTooLarge       too many bytes in a body, or too many tokens in a request
├── QuotaExceeded         the key's requests or tokens per minute are used up
├── Overloaded            the queue is longer than can be worked off in time
├── ClientGone            the client has disconnected
├── TokenizerFailed       a model's tokenizer failed on a text, such as on a regular expression that takes too long
├── InferenceFailed       Triton returned an error, or an invalid output
├── NotReady              Triton is down, or a model is not loaded
└── DeadlineExceeded      no answer in time
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_MESSAGE = 500
"""Maximum length of a message in characters: a message may quote a request of megabytes."""
MAX_QUOTED = 200
"""Maximum length of one quoted value in characters."""


def quoted(text: str) -> str:
    """Quote a value from a request, truncated first: escaping megabytes takes long."""
    return repr(text) if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]!r}..."


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


class GatewayError(Exception):
    """The base class. Any other exception that reaches a client is a bug and becomes an internal error."""

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Describe the error to the client.

        Args:
            message: one sentence that names the field and the limit.
            param: path of the invalid field, such as "input[3].text".
            headers: response headers, in addition to those in ERROR_SPECS.
        """
        super().__init__(message)
        self.headers = headers or {}
        self.message = _shortened(message)
        self.param = param if param is None else _shortened(param)


class InvalidRequest(GatewayError): ...


class InvalidKey(GatewayError): ...


class ForbiddenOrigin(GatewayError): ...


class ModelNotFound(GatewayError): ...


class NoSuchRoute(GatewayError): ...


class NoSuchObject(GatewayError): ...


class MethodNotAllowed(GatewayError): ...


class UnsupportedEncoding(GatewayError): ...


class RequestTooLarge(GatewayError): ...


class QuotaExceeded(GatewayError): ...


class Overloaded(GatewayError): ...


class ClientGone(GatewayError): ...


class TokenizerFailed(GatewayError): ...


class InferenceFailed(GatewayError): ...


class NotReady(GatewayError): ...


class DeadlineExceeded(GatewayError): ...


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """What a client receives for an error."""

    status: int
    type: str
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


INTERNAL = ErrorSpec(500, "server_error", "internal_error")

ERROR_SPECS: Mapping[type[GatewayError], ErrorSpec] = {
    InvalidRequest: ErrorSpec(400, "invalid_request_error"),
    InvalidKey: ErrorSpec(401, "authentication_error", "invalid_api_key", {"www-authenticate": "Bearer"}),
    ForbiddenOrigin: ErrorSpec(403, "invalid_request_error", "forbidden_origin"),
    ModelNotFound: ErrorSpec(404, "invalid_request_error", "model_not_found"),
    NoSuchRoute: ErrorSpec(404, "invalid_request_error", "not_found"),
    NoSuchObject: ErrorSpec(404, "invalid_request_error", "not_found"),
    MethodNotAllowed: ErrorSpec(405, "invalid_request_error", "method_not_allowed"),
    UnsupportedEncoding: ErrorSpec(
        415, "invalid_request_error", "unsupported_encoding", {"accept-encoding": "identity"}
    ),
    RequestTooLarge: ErrorSpec(413, "invalid_request_error", "request_too_large"),
    QuotaExceeded: ErrorSpec(429, "rate_limit_error", "rate_limit_exceeded"),
    Overloaded: ErrorSpec(429, "rate_limit_error", "overloaded", {"retry-after": "1"}),
    ClientGone: ErrorSpec(499, "invalid_request_error", "client_gone"),  # nginx's status for it
    TokenizerFailed: ErrorSpec(500, "server_error", "tokenizer_failed"),
    InferenceFailed: ErrorSpec(502, "server_error", "inference_failed"),
    NotReady: ErrorSpec(503, "server_error", "not_ready", {"retry-after": "1"}),
    DeadlineExceeded: ErrorSpec(504, "server_error", "deadline_exceeded"),
}
