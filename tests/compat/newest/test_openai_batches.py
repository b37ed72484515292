"""OpenAI's SDK for batches."""

import json
from typing import Any, Final

import openai
import pytest
from openai import OpenAI

from tests.compat.plain import MODEL, QUERY, RERANKER, TEXTS, Plain, assert_ranked, assert_same
from tests.waiting import eventually

pytestmark = pytest.mark.client("openai", '`base_url="URL/v1"`')
ENDED = {"completed", "failed", "expired", "cancelled"}
EMBEDDINGS: Final = "/v1/embeddings"


@pytest.fixture
def sdk(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


def upload(sdk: OpenAI, endpoint: str, bodies: list[dict[str, Any]]) -> Any:
    """The file of requests `0`, `1`, ..."""
    lines = [{"custom_id": str(i), "method": "POST", "url": endpoint, "body": body} for i, body in enumerate(bodies)]
    content = "\n".join(map(json.dumps, lines)).encode()
    return sdk.files.create(file=("requests.jsonl", content), purpose="batch")


def ended(sdk: OpenAI, batch: Any) -> Any:
    """The batch when it has ended."""
    return eventually(lambda: found if (found := sdk.batches.retrieve(batch.id)).status in ENDED else None)


def results(sdk: OpenAI, file_id: str) -> dict[int, Any]:
    """The responses of a file by the number of the request."""
    lines = [json.loads(line) for line in sdk.files.content(file_id).text.splitlines()]
    return {int(one["custom_id"]): one["response"] for one in lines}


@pytest.mark.call("`files.create`, `batches.create`, `batches.retrieve`, `files.content`, of embeddings")
def test_embeddings(sdk: OpenAI, plain: Plain) -> None:
    texts = [f"text {i}" for i in range(300)]
    file = upload(sdk, EMBEDDINGS, [{"model": MODEL, "input": text} for text in texts])
    batch = sdk.batches.create(input_file_id=file.id, endpoint=EMBEDDINGS, completion_window="24h")
    assert batch.status in {"validating", "in_progress"}
    batch = ended(sdk, batch)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 300, 0)
    found = results(sdk, batch.output_file_id)
    vectors = [found[i]["body"]["data"][0]["embedding"] for i in range(300)]
    assert_same(vectors, plain.embed(texts))


@pytest.mark.call("batches of `/v1/rerank`, with failures in the file of errors")
def test_rankings_and_errors(sdk: OpenAI, plain: Plain) -> None:
    body = {"model": RERANKER, "query": QUERY, "documents": TEXTS}
    file = upload(sdk, "/v1/rerank", [body, body | {"model": "x"}])
    batch = sdk.batches.create(input_file_id=file.id, endpoint="/v1/rerank", completion_window="24h")  # type: ignore[arg-type]
    batch = ended(sdk, batch)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    (ranking,) = results(sdk, batch.output_file_id).values()
    found = [(one["index"], one["relevance_score"]) for one in ranking["body"]["results"]]
    assert_ranked(found, plain.rank())
    assert results(sdk, batch.error_file_id)[1]["status_code"] == 404


@pytest.mark.call("`batches.cancel`, `batches.list`, `files.list`, `files.retrieve`, `files.delete`; errors")
def test_files_and_errors(sdk: OpenAI) -> None:
    file = upload(sdk, EMBEDDINGS, [{"model": MODEL, "input": f"text {i}"} for i in range(2000)])
    batch = sdk.batches.create(input_file_id=file.id, endpoint=EMBEDDINGS, completion_window="24h")
    assert batch.id in [one.id for one in sdk.batches.list()]
    assert sdk.batches.cancel(batch.id).status in {"cancelling", "cancelled", "completed"}
    assert ended(sdk, batch).status in {"cancelled", "completed"}
    assert file.id in [one.id for one in sdk.files.list()]
    assert sdk.files.retrieve(file.id).bytes == file.bytes
    assert sdk.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        sdk.batches.retrieve("batch_x")
