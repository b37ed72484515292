from gateway.telemetry.otel import ATTRIBUTES
from gateway.telemetry.record import RequestRecord
from gateway.telemetry.timings import Timings, TritonCall

FULL = RequestRecord(
    "id",
    "POST",
    "/v1/embeddings",
    "/v1/embeddings",
    model="m",
    inputs=2,
    images=1,
    tokens=7,
    ignored_fields=["a"],
    error="Overloaded",
    status=429,
    duration_s=0.0123,
)


def test_log_line_has_all_that_is_known() -> None:
    assert FULL.log_fields() == {
        "request_id": "id",
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 429,
        "duration_ms": 12.3,
        "model": "m",
        "inputs": 2,
        "tokens": 7,
        "images": 1,
        "ignored_fields": ["a"],
        "error": "Overloaded",
    }


def test_log_line_leaves_out_what_was_never_set() -> None:
    fields = RequestRecord("id", "GET", "/info", "/info", tokens=0).log_fields()
    assert fields.keys() == {"request_id", "method", "path", "status", "duration_ms", "tokens"}


def test_log_line_tells_which_rows_were_cached() -> None:
    for hits in (0, 3):
        record = RequestRecord("id", "POST", "/", "/", Timings(cache_hits=hits, cache_misses=2))
        assert record.log_fields().get("cached", 0) == hits


def test_spans_read_fields_that_the_log_line_has() -> None:
    assert set(ATTRIBUTES.values()) <= FULL.log_fields().keys()


def test_failed_request_costs_the_tokens_that_were_sent_to_triton() -> None:
    timings = Timings(calls=[TritonCall("m", 1, 30), TritonCall("m", 1, 12)])
    record = RequestRecord("id", "POST", "/embed", "/embed", timings)
    assert record.computed_tokens == 42
    record.tokens = 40
    assert record.computed_tokens == 40
