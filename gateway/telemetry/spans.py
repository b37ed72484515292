"""The tracing interface of the gateway. The spans here do nothing; gateway.telemetry.otel exports them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Attributes = Mapping[str, str | int]
NOTHING: AbstractContextManager[object] = nullcontext()


class Spans:
    """Spans that do nothing. All methods except `request` act on the current span."""

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """Open the span of a request, as a child of the client's span if the headers name one
        (www.w3.org/TR/trace-context)."""
        del name, headers
        return NOTHING

    def child(self, name: str, attributes: Attributes) -> AbstractContextManager[object]:
        """Open a child span."""
        del name, attributes
        return NOTHING

    def describe(self, route: str, line: Mapping[str, Any]) -> None:
        """Set the fields of a request's log line as attributes of its span."""

    def ids(self) -> Mapping[str, str]:
        """The trace id, by its name in the log."""
        return {}

    def outgoing(self) -> dict[str, str] | None:
        """The headers that let another service continue the trace; None to start no trace there."""
        return None

    def close(self) -> None:
        """Export the remaining spans."""


NO_SPANS = Spans()
