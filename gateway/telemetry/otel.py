"""Spans for OpenTelemetry. Imported only where traces are asked for."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.telemetry.spans import Attributes, Spans

SERVICE = "conch-gateway"
"""Unless OTEL_SERVICE_NAME has another name."""
ATTRIBUTES: Mapping[str, str] = {
    "http.request.method": "method",
    "http.response.status_code": "status",
    "error.type": "error",
    "conch.request_id": "request_id",
    "conch.model": "model",
    "conch.inputs": "inputs",
    "conch.tokens": "tokens",
    "conch.images": "images",
}
"""Of a request's span, by the fields of its line in the log; names as in opentelemetry.io/docs/specs/semconv/http."""


class Traced(Spans):
    """Makes spans, which a thread sends. No client's text is in them, nor an error's message, which may quote it."""

    def __init__(self) -> None:
        """Begin a thread that sends them where the environment says."""
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it warns in the words of the client
        resource = Resource({SERVICE_NAME: SERVICE}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """A span of its own, or within the client's."""
        return self._tracer.start_as_current_span(
            name,
            self._propagator.extract(headers),
            trace.SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        )

    def child(self, name: str, attributes: Attributes) -> AbstractContextManager[object]:
        """A span within."""
        return self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        )

    def describe(self, route: str, line: Mapping[str, Any]) -> None:
        """Say what the log says."""
        span = trace.get_current_span()
        for name, key in ATTRIBUTES.items():
            if key in line:
                span.set_attribute(name, line[key])
        span.set_attribute("http.route", route)
        if not 0 < line["status"] < 500:
            span.set_status(trace.StatusCode.ERROR)

    def ids(self) -> Mapping[str, str]:
        """The trace's."""
        context = trace.get_current_span().get_span_context()
        return {"trace_id": trace.format_trace_id(context.trace_id)}

    def outgoing(self) -> dict[str, str] | None:
        """The header traceparent."""
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return None  # Triton 2.51 would record what was not to be
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return {"traceparent": headers["traceparent"]}  # tracestate may be longer than gRPC takes

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()
