import gzip
import http.server
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.telemetry.configure import configure_spans
from gateway.telemetry.spans import NO_SPANS
from tests.serving import Server, serve
from tests.waiting import TIMEOUT_S, eventually

OURS: set[str] = set()
"""Traces that `embed_traced` began."""
CLIENT = "b7ad6b7169203331"


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str | int]


@dataclass
class Collector:
    """As much of an OpenTelemetry collector as takes what it is sent: in protobuf by the gateway, in JSON by Triton."""

    port: int = 0
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def take(self, body: bytes, kind: str) -> None:
        self.bodies.append(body)
        if "json" in kind:
            for resource in json.loads(body)["resourceSpans"]:
                for scope in resource.get("scopeSpans", []):
                    for span in scope["spans"]:
                        ids = (span["traceId"], span["spanId"], span.get("parentSpanId", ""))
                        self.spans.append(Span("triton", span["name"], *ids, {}))
            return
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            (service,) = (each.value.string_value for each in sent.resource.attributes if each.key == "service.name")
            for scoped in sent.scope_spans:
                for one in scoped.spans:
                    self.spans.append(
                        Span(
                            service,
                            one.name,
                            one.trace_id.hex(),
                            one.span_id.hex(),
                            one.parent_span_id.hex(),
                            {each.key: each.value.string_value or each.value.int_value for each in one.attributes},
                        )
                    )

    def of(self, trace: str, *names: str, timeout_s: float = TIMEOUT_S) -> dict[str, Span]:
        """A trace's spans by name, when all of these have come."""
        found: dict[str, Span] = {}

        def are_there() -> bool:
            found.update({span.name: span for span in self.spans if span.trace == trace})
            return found.keys() >= set(names)

        eventually(are_there, lambda: f"{set(names) - found.keys()} beside {found.keys()}", timeout_s)
        return found


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.take(body, self.headers["content-type"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        collector.port = listening.server_port
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield collector
        listening.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def traced(repository: Path, collector: Collector) -> Iterator[Server]:
    endpoint = f"http://127.0.0.1:{collector.port}"
    with serve(repository, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="100") as running:
        yield running


def embed(server: Server, text: str, traceparent: str, **body: str) -> httpx2.Response:
    headers = {"traceparent": traceparent}
    return httpx2.post(f"{server.url}/v1/embeddings", json={"input": text, **body}, headers=headers, timeout=30)


def embed_traced(server: Server, collector: Collector, *names: str) -> dict[str, Span]:
    """Embed until all of these spans have come of one request: Triton 2.51 now and then loses those of one."""
    for _ in range(3):
        trace = secrets.token_hex(16)
        embed(server, "a", f"00-{trace}-{CLIENT}-01").raise_for_status()
        OURS.add(trace)
        with suppress(AssertionError):
            return collector.of(trace, *names, timeout_s=30)  # Triton sends every 5 s
    raise AssertionError(collector.spans)


def test_trace_goes_from_the_client_through_the_gateway_into_triton(traced: Server, collector: Collector) -> None:
    ours = ("POST /v1/embeddings", "parse", "tokenize", "queue", "inference")
    spans = embed_traced(traced, collector, *ours, "InferRequest", "all-minilm-l6-v2", "compute")
    request = spans["POST /v1/embeddings"]
    assert (request.service, request.parent) == ("conch-gateway", CLIENT)
    assert {spans[stage].parent for stage in ("parse", "tokenize", "queue", "inference")} == {request.id}
    assert spans["InferRequest"].parent == spans["inference"].id
    assert spans["inference"].attributes == {"model": "all-minilm-l6-v2", "rows": 1, "tokens": 3}
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["conch.tokens"] == 3


def test_line_in_the_log_has_the_trace(traced: Server) -> None:
    trace = "1" * 32
    embed(traced, "a", f"00-{trace}-{CLIENT}-01")
    traced.wait_for(f'"trace_id":"{trace}"')


def test_span_of_a_failure_has_its_class_and_quotes_no_input(traced: Server, collector: Collector) -> None:
    trace = "2" * 32
    embed(traced, "what was sent", f"00-{trace}-{CLIENT}-01", model="what was meant")
    span = collector.of(trace, "POST /v1/embeddings")["POST /v1/embeddings"]
    assert (span.attributes["http.response.status_code"], span.attributes["error.type"]) == (404, "ModelNotFound")
    assert not any(b"what was" in body for body in collector.bodies)


def test_unsampled_requests_are_not_recorded(traced: Server, collector: Collector) -> None:
    trace = "3" * 32
    embed(traced, "a", f"00-{trace}-{CLIENT}-00").raise_for_status()
    embed_traced(traced, collector, "POST /v1/embeddings", "compute")
    assert not [span for span in collector.spans if span.trace == trace]


def test_probes_and_health_checks_have_no_spans(traced: Server, collector: Collector) -> None:
    for path in ("/health/ready", "/metrics"):
        httpx2.get(traced.url + path, headers={"traceparent": f"00-{'6' * 32}-{CLIENT}-01"})
    embed_traced(traced, collector, "compute")
    assert {span.trace for span in collector.spans} <= OURS | {"1" * 32, "2" * 32}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "a"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_without_a_collector_there_are_no_spans(environ: dict[str, str]) -> None:
    assert configure_spans(environ) is NO_SPANS
    assert NO_SPANS.outgoing() is None
