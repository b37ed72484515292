import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bulk.client import Endpoint, embed
from bulk.job import JobError, Refusal, Unavailable
from bulk.kinds import Kind, Result
from tests.bulk.conftest import Answer, Api, error, vectors


def lengths(api: Api, texts: Sequence[str | None], **changes: Any) -> list[float | str]:
    """Embed texts; of each the first number of its vector, or why it has none."""
    endpoint = replace(Endpoint(api.url, "m", {}, batch=4, at_once=2, patience_s=20), **changes)
    results = asyncio.run(embed(endpoint, texts))
    return [result.message if isinstance(result, Refusal) else dense(result)[0] for result in results]


def dense(result: Result | Refusal) -> list[float]:
    assert isinstance(result, Result)
    assert result.dense is not None
    found: list[float] = result.dense.tolist()
    return found


def after(failures: Sequence[Answer | None]) -> Callable[[list[str]], Answer | None]:
    """Answer so first, and then as one should."""
    left = list(failures)
    return lambda texts: left.pop(0) if left else vectors(texts)


def test_each_text_gets_its_own_vector(api: Api) -> None:
    assert lengths(api, ["x" * n for n in range(11)]) == list(range(11))


def test_vector_is_of_float32(api: Api) -> None:
    (result,) = asyncio.run(embed(Endpoint(api.url, "m", {}, 1, 1, 1), ["abc"]))
    assert dense(result) == [3, 1]
    assert isinstance(result, Result)
    assert result.dense is not None
    assert result.dense.dtype == np.dtype(np.float32)


def test_requests_have_the_batch_size_and_the_additional_fields(api: Api) -> None:
    lengths(api, ["a"] * 9, request={"dimensions": 2})
    assert sorted(len(body.pop("input")) for body in api.asked) == [1, 4, 4]
    assert all(body == {"model": "m", "dimensions": 2, "encoding_format": "base64"} for body in api.asked)


def test_number_of_concurrent_requests_is_limited(api: Api) -> None:
    def answer(texts: list[str]) -> Answer:
        time.sleep(0.02)
        return vectors(texts)

    api.answer = answer
    lengths(api, ["a"] * 100, at_once=3)
    assert api.most_at_once == 3


def test_key_is_sent_and_not_shown(api: Api) -> None:
    endpoint = Endpoint(api.url, "m", {}, 1, 1, 1, key="secret")
    asyncio.run(embed(endpoint, ["a"]))
    assert api.keys == {"Bearer secret"}
    assert "secret" not in repr(endpoint)


def test_null_is_not_sent(api: Api) -> None:
    assert lengths(api, ["ab", None, ""]) == [2, "the text is null or not UTF-8", 0]
    assert api.texts == ["ab", ""]


@pytest.mark.parametrize("failure", [error(429, "busy"), error(503, "not ready"), error(502, "failed"), None])
def test_failed_request_is_retried(api: Api, failure: Answer | None) -> None:
    api.answer = after([failure, failure])
    assert lengths(api, ["ab"]) == [2]
    assert len(api.asked) == 3


def test_retry_after_is_respected(api: Api) -> None:
    api.answer = after([error(429, "busy", retry_after="1")])
    started = time.monotonic()
    assert lengths(api, ["ab"]) == [2]
    assert time.monotonic() - started >= 1


def test_retry_without_retry_after_is_delayed(api: Api) -> None:
    api.answer = lambda _: error(429, "busy", retry_after="0")
    with pytest.raises(Unavailable):
        lengths(api, ["ab"], patience_s=2.0)
    assert len(api.asked) <= 3


def test_error_names_the_failure_after_the_last_retry(api: Api) -> None:
    api.answer = lambda _: error(503, "no model")
    with pytest.raises(Unavailable, match=r"503 no model; the next retry, in \d s, would exceed --patience \(0\.2 s\)"):
        lengths(api, ["ab"], patience_s=0.2)


def test_refused_connection_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"ConnectError: .*; the next retry"):
        asyncio.run(embed(Endpoint("http://127.0.0.1:1", "m", {}, 1, 1, 0.2), ["a"]))


def test_refused_text_does_not_affect_others(api: Api) -> None:
    api.answer = lambda texts: error(400, "'input' is too long") if max(map(len, texts)) > 5 else vectors(texts)
    found = lengths(api, ["x" * n for n in (1, 2, 9, 3, 4, 8, 5)])
    assert found == [1, 2, "'input' is too long", 3, 4, "'input' is too long", 5]


def test_refusal_does_not_name_the_index_in_the_request(api: Api) -> None:
    api.answer = lambda _: error(400, "input[0] has 900 tokens")
    assert lengths(api, ["a", "b"]) == ["the text has 900 tokens"] * 2


def test_progress_counts_every_text_once(api: Api) -> None:
    told: list[int] = []
    asyncio.run(embed(Endpoint(api.url, "m", {}, 2, 1, 1), ["a", None, "b", "c"], told.append))
    assert told == [1, 2, 1]


@pytest.mark.parametrize("status", [413, 504])
def test_request_that_is_too_large_is_halved(api: Api, status: int) -> None:
    api.answer = lambda texts: error(status, "too much") if len(texts) > 2 else vectors(texts)
    assert lengths(api, ["a", "ab", "abc", "abcd"]) == [1, 2, 3, 4]


@pytest.mark.parametrize(("status", "message"), [(401, "wrong key"), (403, "not yours"), (404, "no such model")])
def test_error_for_all_texts_ends_the_job(api: Api, status: int, message: str) -> None:
    api.answer = lambda _: error(status, message)
    with pytest.raises(JobError, match=f"{status} {message}"):
        lengths(api, ["a"] * 50)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"index": 0, "embedding": [1.5]}]}',
        b'{"data": [{"index": 0, "embedding": ""}]}',
        b'{"data": [{"index": 0, "embedding": "AADAfw=="}]}',
        b'{"data": [{"index": 1, "embedding": "AACAPw=="}]}',
        b'{"data": [{"index": 0, "embedding": "!AACAPw=="}]}',
        b'{"data": [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "AACAPw=="}]}',
        b"[" * 200_000,
        bytes(2**20 + 2**16 + 1),
    ],
)
def test_response_of_another_server_ends_the_job(api: Api, content: bytes) -> None:
    api.answer = lambda _: (200, {}, content)
    with pytest.raises(JobError, match="is not that of an embedding API"):
        lengths(api, ["a"])


def test_message_has_no_control_characters_and_is_shortened(api: Api) -> None:
    api.answer = lambda _: error(400, "\x1b[2J\x07" + "a" * 10_000)
    assert lengths(api, ["a"]) == [" [2J " + "a" * 495]


def test_error_in_another_format_is_kept(api: Api) -> None:
    api.answer = lambda _: (400, {}, b"no")
    assert lengths(api, ["a"]) == ["no"]


EVERY: tuple[Kind, ...] = ("dense", "sparse", "multi_vector")
ONE = "AACAPw=="
"""1.0 in base64."""


def answered(embedding: Any) -> Answer:
    return 200, {}, json.dumps({"data": [{"index": 0, "embedding": embedding}]}).encode()


def test_kinds_are_requested_together_and_dense_vectors_alone_as_everywhere(api: Api) -> None:
    terms = {"indices": [3, 7], "values": [0.5, 2]}
    api.answer = lambda _: answered({"base64": ONE, "sparse": terms, "multi_vector": [ONE, ONE]})
    (result,) = asyncio.run(embed(Endpoint(api.url, "m", {}, 1, 1, 1, kinds=EVERY), ["abc"]))
    assert dense(result) == [1]
    assert isinstance(result, Result)
    assert result.sparse is not None
    assert (result.sparse.indices.tolist(), result.sparse.values.tolist()) == ([3, 7], [0.5, 2])
    assert result.multi_vector is not None
    assert result.multi_vector.tolist() == [[1], [1]]
    types = {"embedding_type": ["base64", "sparse", "multi_vector"], "multi_vector_type": "base64"}
    assert api.asked == [{**types, "model": "m", "input": ["abc"]}]


def test_labels_come_from_their_own_path_best_first(api: Api) -> None:
    found = [{"label": "b", "score": 0.75}, {"label": "a", "score": 0.25}]
    api.answer = lambda _: (200, {}, json.dumps({"data": [found]}).encode())
    endpoint = Endpoint(api.url, "m", {"truncate": True}, 1, 1, 1, kinds=("labels",))
    (result,) = asyncio.run(embed(endpoint, ["abc"]))
    assert isinstance(result, Result)
    assert [*(result.labels or {}).items()] == [("b", 0.75), ("a", 0.25)]
    assert api.asked == [{"raw_scores": False, "truncate": True, "model": "m", "input": ["abc"]}]
    assert api.paths == {"/classify"}


def test_labels_of_one_name_end_the_job(api: Api) -> None:
    found = [{"label": "a", "score": 0.75}, {"label": "a", "score": 0.25}]
    api.answer = lambda _: (200, {}, json.dumps({"data": [found]}).encode())
    with pytest.raises(JobError, match="two labels have the same name"):
        asyncio.run(embed(Endpoint(api.url, "m", {}, 1, 1, 1, kinds=("labels",)), ["abc"]))


@pytest.mark.parametrize(
    ("kinds", "embedding"),
    [
        (("sparse",), ONE),
        (("sparse",), {"multi_vector": [ONE]}),
        (("sparse",), {"sparse": {"indices": [1, 2], "values": [1]}}),
        (("sparse",), {"sparse": {"indices": [2**31], "values": [1]}}),
        (("multi_vector",), {"multi_vector": [ONE, ONE + ONE]}),
        (("multi_vector",), {"multi_vector": [ONE, "AACAPwAAgD8="]}),
        (("multi_vector",), {"multi_vector": ["AADAfw=="]}),
        (("labels",), ONE),
    ],
)
def test_response_without_what_was_requested_ends_the_job(api: Api, kinds: tuple[Kind, ...], embedding: Any) -> None:
    api.answer = lambda _: answered(embedding)
    with pytest.raises(JobError, match="is not that of an embedding API"):
        lengths(api, ["a"], kinds=kinds)
