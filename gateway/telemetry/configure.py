"""Turns tracing on or off by OpenTelemetry's own environment variables."""

from collections.abc import Mapping

from gateway.telemetry.spans import NO_SPANS, Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether OTEL_SDK_DISABLED turns tracing off. It takes precedence over all other variables."""
    return environ.get("OTEL_SDK_DISABLED", "").lower() == "true"


def configure_spans(environ: Mapping[str, str]) -> Spans:
    """Spans that are exported if the environment names a collector, otherwise NO_SPANS. The variables are described at
    opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables."""
    if is_disabled(environ) or not any(environ.get(name) for name in ENDPOINTS):
        return NO_SPANS
    from gateway.telemetry.otel import Traced  # noqa: PLC0415 - importing it costs 0.3 s and 15 MiB

    return Traced()
