"""The record of one request, from which its log line, metrics, span and quota usage are read."""

from dataclasses import dataclass, field

from gateway.telemetry.timings import Timings


@dataclass(slots=True)
class RequestRecord:
    """The record of one request. The middleware opens and closes it; the routes fill it in."""

    request_id: str
    method: str
    path: str
    route: str
    """The path's template, such as "/v1/models/{id}"; "other" if the API has no such path."""
    timings: Timings = field(default_factory=Timings)
    model: str = ""
    """The public name of the model; empty until it is found."""
    inputs: int | None = None
    """The number of texts, images and documents."""
    images: int | None = None
    tokens: int | None = None
    """Tokens reported to the client in `usage`."""
    sparse_truncated: int = 0
    """Sparse vectors with as many terms as the model can return: there may have been more."""
    ignored_fields: list[str] = field(default_factory=list)
    """Unknown fields in the body."""
    error: str = ""
    """The class of the error in the response. Its message is left out, since it may quote the input."""
    status: int = 0
    """The HTTP status of the response; 0 if there was none."""
    duration_s: float = 0.0

    @property
    def computed_tokens(self) -> int:
        """Tokens reported to the client, or else tokens sent to Triton: a failed request may have used some."""
        return self.tokens if self.tokens is not None else sum(call.tokens for call in self.timings.calls)

    @property
    def cached(self) -> int | None:
        """Rows that were not computed, or once for several that are equal; None if there were none."""
        return self.timings.cache_hits or None

    def log_fields(self) -> dict[str, object]:
        """The fields of the log line. Fields that were never set are left out."""
        optional = ("model", "inputs", "tokens", "images", "cached", "ignored_fields", "error")
        return {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "duration_ms": round(self.duration_s * 1e3, 1),
            **{name: value for name in optional if (value := getattr(self, name)) not in (None, "", [])},
        }
