"""Which spans a gateway makes, by OpenTelemetry's own environment variables."""

from collections.abc import Mapping

from gateway.telemetry.spans import NO_SPANS, Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether an environment switches OpenTelemetry off, whatever else it says."""
    return environ.get("OTEL_SDK_DISABLED", "").lower() == "true"


def configure_spans(environ: Mapping[str, str]) -> Spans:
    """Spans that are sent, where an environment names a collector: in OpenTelemetry's own variables, which say how too
    (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables)."""
    if is_disabled(environ) or not any(environ.get(name) for name in ENDPOINTS):
        return NO_SPANS
    from gateway.telemetry.otel import Traced  # noqa: PLC0415 - takes a third of a second and 15 MiB

    return Traced()
