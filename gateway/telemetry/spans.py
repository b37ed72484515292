"""The spans of a trace, as the rest of the gateway sees them: there are none unless a collector is named."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

Attributes = Mapping[str, str | int]


class Spans:
    """Makes none. All but `request` is about the span that is open."""

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """The span of a request, within that of the client where it names one (www.w3.org/TR/trace-context)."""
        del name, headers
        return nullcontext()

    def child(self, name: str, attributes: Attributes) -> AbstractContextManager[object]:
        """A span within."""
        del name, attributes
        return nullcontext()

    def describe(self, route: str, line: Mapping[str, Any]) -> None:
        """Say of a request's span what its line in the log says."""

    def ids(self) -> Mapping[str, str]:
        """Its ids, by their names in the log."""
        return {}

    def outgoing(self) -> dict[str, str] | None:
        """The headers by which another service joins."""
        return None

    def close(self) -> None:
        """Send what is not sent yet."""


NO_SPANS = Spans()
