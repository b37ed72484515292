"""OpenTelemetry spans. Imported only if tracing is on."""

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
"""The default service name; OTEL_SERVICE_NAME overrides it."""
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
"""Attributes of a request's span, each with the log field that it is read from. The names follow
opentelemetry.io/docs/specs/semconv/http."""


class Traced(Spans):
    """Spans that a background thread exports. They hold no input text and no error messages, which may quote it."""

    def __init__(self) -> None:
        """Start the export thread. The environment says where to send spans."""
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # its warnings quote the client
        resource = Resource({SERVICE_NAME: SERVICE}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._propagator = TraceContextTextMapPropagator()

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        return self._tracer.start_as_current_span(
            name,
            self._propagator.extract(headers),
            trace.SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        )

    def child(self, name: str, attributes: Attributes) -> AbstractContextManager[object]:
        return self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        )

    def describe(self, route: str, line: Mapping[str, Any]) -> None:
        span = trace.get_current_span()
        for name, key in ATTRIBUTES.items():
            if key in line:
                span.set_attribute(name, line[key])
        span.set_attribute("http.route", route)
        if not 0 < line["status"] < 500:
            span.set_status(trace.StatusCode.ERROR)

    def ids(self) -> Mapping[str, str]:
        context = trace.get_current_span().get_span_context()
        return {"trace_id": trace.format_trace_id(context.trace_id)}

    def outgoing(self) -> dict[str, str] | None:
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return None  # Triton 2.51 would record unsampled spans too
        headers: dict[str, str] = {}
        self._propagator.inject(headers)
        return {"traceparent": headers["traceparent"]}  # tracestate may be longer than gRPC allows

    def close(self) -> None:
        self._provider.shutdown()
