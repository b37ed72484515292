import base64
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from gateway.access.quota import Quotas
from gateway.errors import QuotaExceeded
from loadtest.tools.pictures import file
from tests.serving import serve, start

MUCH = 10**9


def test_each_key_has_its_own_quota() -> None:
    quotas = Quotas({"requests": 2, "tokens": None})
    for _ in range(2):
        quotas.admit("a")
    with pytest.raises(QuotaExceeded, match="rate limit of 2 requests per minute exceeded") as caught:
        quotas.admit("a")
    assert 1 <= int(caught.value.headers["retry-after"]) <= 60
    quotas.admit("b")


def test_usage_over_the_limit_is_counted() -> None:
    quotas = Quotas({"requests": None, "tokens": 10})
    quotas.count_tokens("a", 300)
    assert quotas.headers("a")["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(QuotaExceeded, match="10 tokens per minute"):
        quotas.admit("a")


def test_without_limits_there_are_no_headers() -> None:
    quotas = Quotas({"requests": None, "tokens": None})
    quotas.count_tokens("a", 10**9)
    quotas.admit("a")
    assert quotas.headers("a") == {}


@pytest.fixture(scope="module")
def generous(repository: Path) -> Iterator[httpx2.Client]:
    with (
        serve(repository, GATEWAY_TOKENS_PER_MINUTE=str(MUCH)) as running,
        httpx2.Client(base_url=running.url, timeout=60) as client,
    ):
        yield client


def left(answer: httpx2.Response) -> int:
    return int(answer.headers["x-ratelimit-remaining-tokens"])


def test_tokens_of_tokenize_count(generous: httpx2.Client) -> None:
    answer = generous.post("/tokenize", json={"inputs": ["a conch", "a " * 1000]})
    assert answer.status_code == 200
    before = left(answer)
    answer = generous.post("/tokenize", json={"inputs": ["a conch", "a " * 1000]})
    assert before - left(answer) == sum(map(len, answer.json())) > 1000


def test_failed_image_counts_by_its_cpu_time(generous: httpx2.Client) -> None:
    """Its decoder has worked for a while when it sees that the file is broken."""
    broken = base64.b64encode(file(Image.new("RGB", (6000, 5000), "teal"), "PNG")[:-2000]).decode()
    before = left(generous.post("/tokenize", json={"inputs": "a"}))
    answer = generous.post("/v1/embeddings", json={"model": "minilm-pictogram", "input": [{"image": broken}]})
    assert answer.status_code == 400
    assert before - left(answer) > 50


@pytest.fixture(scope="module")
def limited(repository: Path) -> Iterator[httpx2.Client]:
    with start(repository, GATEWAY_TOKENS_PER_MINUTE="10", GATEWAY_REQUESTS_PER_MINUTE="1000") as running:
        running.wait_for("ready on")
        with httpx2.Client(base_url=running.url, timeout=60) as client:
            yield client


def test_headers_report_the_remaining_quota(limited: httpx2.Client) -> None:
    first = limited.post("/v1/embeddings", json={"input": "one two three four five"})
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-tokens"] == "10"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 10 - first.json()["usage"]["total_tokens"]
    assert first.headers["x-ratelimit-remaining-requests"] == "999"
    while (answer := limited.post("/v1/embeddings", json={"input": "one two three"})).status_code == 200:
        pass
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert answer.headers["x-ratelimit-remaining-tokens"] == "0"
    assert answer.headers["retry-after"]


def test_background_work_leaves_half_of_the_tokens_to_requests() -> None:
    now = 1000.0
    quotas = Quotas({"requests": None, "tokens": 100}, clock=lambda: now)
    assert quotas.background_delay_s("a") == 0
    quotas.count_tokens("a", 49)
    assert quotas.background_delay_s("a") == 0
    quotas.count_tokens("a", 1)
    now += 20
    assert quotas.background_delay_s("a") == 40
    quotas.admit("a")
    assert quotas.background_delay_s("b") == 0
    now += 41
    assert quotas.background_delay_s("a") == 0


def test_background_work_without_a_limit_of_tokens_never_waits() -> None:
    quotas = Quotas({"requests": 1, "tokens": None})
    quotas.count_tokens("a", 10**9)
    assert quotas.background_delay_s("a") == 0
