"""What is known of one request: its log line, its metrics, its span and its key's quota are all read from this."""

from dataclasses import dataclass, field

from gateway.telemetry.timings import Timings


@dataclass(slots=True)
class RequestRecord:
    """One request. The middleware opens and closes it, the routes fill it in."""

    request_id: str
    method: str
    path: str
    route: str
    """The path's template, such as "/v1/models/{id}"; "other" if the API has no such path."""
    timings: Timings = field(default_factory=Timings)
    model: str = ""
    """The name of the model that answers; empty until it is found."""
    inputs: int | None = None
    """Texts, images and documents."""
    images: int | None = None
    tokens: int | None = None
    """Tokens reported to the client in `usage`."""
    ignored_fields: list[str] = field(default_factory=list)
    """Unknown fields of the body."""
    error: str = ""
    """The class of the error that was answered. Its message is left out: it may quote the client."""
    status: int = 0
    """The answer's HTTP status; 0 if there was no answer."""
    duration_s: float = 0.0

    @property
    def computed_tokens(self) -> int:
        """Tokens reported to the client, or else sent to Triton: a request that failed may have cost some."""
        return self.tokens if self.tokens is not None else sum(call.tokens for call in self.timings.calls)

    def log_fields(self) -> dict[str, object]:
        """The fields of its log line. Fields that were never set are left out."""
        optional = ("model", "inputs", "tokens", "images", "ignored_fields", "error")
        return {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "duration_ms": round(self.duration_s * 1e3, 1),
            **{name: value for name in optional if (value := getattr(self, name)) not in (None, "", [])},
        }
