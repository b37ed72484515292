"""The spans of a trace, as the rest of the gateway sees them: there are none unless a collector is named."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

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


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether an environment switches OpenTelemetry off, whatever else it says."""
    return environ.get("OTEL_SDK_DISABLED", "").lower() == "true"


def configured(environ: Mapping[str, str]) -> Spans:
    """Spans that are sent, where an environment names a collector: in OpenTelemetry's own variables, which say how too
    (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables)."""
    if is_disabled(environ) or not any(environ.get(name) for name in ENDPOINTS):
        return NO_SPANS
    from gateway.telemetry.otel import Traced  # noqa: PLC0415 - takes a third of a second and 15 MiB

    return Traced()
