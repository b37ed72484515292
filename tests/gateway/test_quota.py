from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gateway.errors import QuotaExceeded
from gateway.quota import Quotas
from tests.serving import start


def test_quota_is_of_each_key() -> None:
    quotas = Quotas({"requests": 2, "tokens": None})
    for _ in range(2):
        quotas.check("a")
        quotas.count("a", "requests", 1)
    with pytest.raises(QuotaExceeded, match="this key may ask for 2 requests a minute") as caught:
        quotas.check("a")
    assert 1 <= int(caught.value.headers["retry-after"]) <= 60
    quotas.check("b")


def test_what_goes_over_is_counted_too() -> None:
    quotas = Quotas({"requests": None, "tokens": 10})
    quotas.count("a", "tokens", 300)
    assert quotas.headers("a")["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(QuotaExceeded, match="10 tokens a minute"):
        quotas.check("a")


def test_without_limits_nothing_is_said() -> None:
    quotas = Quotas({"requests": None, "tokens": None})
    quotas.count("a", "tokens", 10**9)
    quotas.check("a")
    assert quotas.headers("a") == {}


@pytest.fixture(scope="module")
def limited(repository: Path) -> Iterator[httpx2.Client]:
    with start(repository, GATEWAY_TOKENS_PER_MINUTE="10", GATEWAY_REQUESTS_PER_MINUTE="1000") as running:
        running.wait_for("ready on")
        with httpx2.Client(base_url=running.url) as client:
            yield client


def test_answers_say_what_is_left_until_nothing_is(limited: httpx2.Client) -> None:
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
