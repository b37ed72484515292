"""/v1/files and /v1/batches by OpenAI's own client, and what the client does not send."""

import asyncio
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from openai.types import Batch

from gateway.routes.files import Download
from tests.serving import Server, serve
from tests.waiting import eventually

KEYS = ("first", "second")
FILE_BYTES = 100_000
FINISHED = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches") / "new"


@pytest.fixture(scope="module")
def running(repository: Path, folder: Path) -> Iterator[Server]:
    settings = {
        "GATEWAY_API_KEYS": ",".join(KEYS),
        "GATEWAY_BATCH_FOLDER": str(folder),
        "GATEWAY_BATCH_FILE_BYTES": str(FILE_BYTES),
        "GATEWAY_BATCH_BYTES_PER_KEY": "3000000",
        "GATEWAY_MAX_BODY_BYTES": "20000",
    }
    with serve(repository, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def sdks(running: Server) -> Iterator[Sequence[OpenAI]]:
    """One for each key."""
    clients = [OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) for key in KEYS]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def sdk(sdks: Sequence[OpenAI]) -> OpenAI:
    return sdks[0]


@pytest.fixture(scope="module")
def plain(running: Server) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    with httpx2.Client(base_url=running.url, headers=headers, timeout=60) as client:
        yield client


def request(custom_id: str, body: object, url: str = "/v1/embeddings", method: str = "POST") -> str:
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": body})


def upload(sdk: OpenAI, *lines: str, name: str = "requests.jsonl") -> str:
    return sdk.files.create(file=(name, "\n".join(lines).encode()), purpose="batch").id


def begin(sdk: OpenAI, *lines: str, endpoint: Any = "/v1/embeddings") -> Batch:
    return sdk.batches.create(input_file_id=upload(sdk, *lines), endpoint=endpoint, completion_window="24h")


def finished(sdk: OpenAI, batch: Batch) -> Batch:
    def found() -> Batch | None:
        now = sdk.batches.retrieve(batch.id)
        return now if now.status in FINISHED else None

    return eventually(found, lambda: str(sdk.batches.retrieve(batch.id)))


def results(sdk: OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    lines = [json.loads(line) for line in sdk.files.content(file_id).text.splitlines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def test_batch_of_embeddings_equals_plain_requests(sdk: OpenAI, plain: httpx2.Client) -> None:
    texts = [f"conch number {number}" * (number + 1) for number in range(40)]
    lines = [request(f"text {i}", {"model": "all-minilm-l6-v2", "input": text}) for i, text in enumerate(texts)]
    batch = begin(sdk, *lines)
    assert (batch.object, batch.status, batch.error_file_id) == ("batch", "validating", None)
    assert batch.expires_at == batch.created_at + 24 * 3600
    done = finished(sdk, batch)
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (40, 40, 0)
    assert done.error_file_id is None
    assert done.completed_at is not None
    assert done.in_progress_at is not None
    found = results(sdk, done.output_file_id)
    assert found.keys() == {f"text {i}" for i in range(40)}
    expected = plain.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": texts}).json()["data"]
    for i, item in enumerate(expected):
        line = found[f"text {i}"]
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        assert line["id"].startswith("batch_req_")
        vector = line["response"]["body"]["data"][0]["embedding"]
        assert vector == pytest.approx(item["embedding"], abs=0.02)
        assert np.dot(vector, item["embedding"]) > 0.999
    file = sdk.files.retrieve(str(done.output_file_id))
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert file.bytes == len(sdk.files.content(file.id).content)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/rerank", {"model": "minilm-late-interaction", "query": "a shell", "documents": ["a conch", "a car"]}),
        ("/v2/rerank", {"model": "minilm-late-interaction", "query": "a shell", "documents": ["a conch", "a car"]}),
        ("/embed", {"inputs": ["a", "b"]}),
    ],
)
def test_batch_of_another_dialect(sdk: OpenAI, plain: httpx2.Client, endpoint: str, body: object) -> None:
    done = finished(sdk, begin(sdk, request("one", body, endpoint), endpoint=endpoint))
    line = results(sdk, done.output_file_id)["one"]
    expected = plain.post(endpoint, json=body).json()
    given = line["response"]["body"]
    if isinstance(expected, list):
        assert np.allclose(given, expected, atol=0.02)
    else:
        assert [one["index"] for one in given["results"]] == [one["index"] for one in expected["results"]] == [0, 1]


def test_requests_that_fail_are_in_the_error_file(sdk: OpenAI) -> None:
    done = finished(
        sdk,
        begin(
            sdk,
            request("good", {"input": "a"}),
            request("empty", {"input": ""}),
            request("wrong", {"input": 5}),
        ),
    )
    assert done.status == "completed"
    assert done.request_counts is not None
    assert (done.request_counts.completed, done.request_counts.failed) == (1, 2)
    assert results(sdk, done.output_file_id).keys() == {"good"}
    failed = results(sdk, done.error_file_id)
    assert failed.keys() == {"empty", "wrong"}
    assert failed["empty"]["response"]["status_code"] == 400
    assert failed["empty"]["response"]["body"]["error"]["param"] == "input"


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([request("a", {"input": "a"}), "{"], "invalid_json_line", 2),
        (["\x00\x01\xff"], "invalid_json_line", 1),
        (["[1]"], "invalid_request", 1),
        ([json.dumps({"custom_id": "a"})], "invalid_request", 1),
        ([request("", {"input": "a"})], "invalid_custom_id", 1),
        ([request("a", {"input": "a"}), request("a", {"input": "b"})], "duplicate_custom_id", 2),
        ([request("a", {"input": "a"}, url="/v1/chat/completions")], "invalid_url", 1),
        ([request("a", {"input": "a"}, method="GET")], "invalid_method", 1),
        ([request("a", ["a"])], "invalid_body", 1),
        ([request("a", {"input": "long " * 5000})], "line_too_long", 1),
        ([""], "empty_file", None),
        (["", " "], "empty_file", None),
    ],
)
def test_invalid_file_fails_the_batch(sdk: OpenAI, lines: Sequence[str], code: str, number: int | None) -> None:
    done = finished(sdk, begin(sdk, *lines))
    assert done.status == "failed"
    assert done.failed_at is not None
    assert done.output_file_id is None
    assert done.errors is not None
    assert done.errors.data is not None
    (error,) = done.errors.data
    assert (error.code, error.line) == (code, number)


def test_other_keys_see_nothing(sdks: Sequence[OpenAI]) -> None:
    first, second = sdks
    batch = begin(first, request("a", {"input": "a"}))
    done = finished(first, batch)
    for call in (
        lambda: second.batches.retrieve(batch.id),
        lambda: second.batches.cancel(batch.id),
        lambda: second.files.retrieve(batch.input_file_id),
        lambda: second.files.content(str(done.output_file_id)),
        lambda: second.files.delete(batch.input_file_id),
        lambda: second.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/embeddings", completion_window="24h"
        ),
    ):
        with pytest.raises(NotFoundError) as error:
            call()
        assert error.value.code == "not_found"
    assert batch.id not in [one.id for one in second.batches.list()]
    assert batch.input_file_id not in [one.id for one in second.files.list()]


def test_lists_have_pages(sdk: OpenAI) -> None:
    files = [upload(sdk, str(number)) for number in range(3)]
    newest = [file.id for file in sdk.files.list(limit=2)]  # the client follows the pages
    assert newest[:3] == files[::-1]
    page = sdk.files.list(limit=2)
    assert [file.id for file in page.data] == files[:0:-1]
    assert page.has_more
    assert [file.id for file in sdk.files.list(limit=2, after=files[0], order="asc").data] == files[1:]
    assert not [*sdk.files.list(purpose="vision")]
    batches = [begin(sdk, request("a", {"input": str(number)})) for number in range(3)]
    assert [one.id for one in sdk.batches.list(limit=1)][:3] == [one.id for one in batches[::-1]]
    for batch in batches:
        finished(sdk, batch)


def test_cancelled_batch_ends(sdk: OpenAI) -> None:
    text = "some words of a long text " * 100
    batch = begin(sdk, *(request(str(number), {"input": f"{number} {text}"}) for number in range(35)))
    assert sdk.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = finished(sdk, batch)
    assert done.status == "cancelled"
    assert done.cancelled_at is not None
    assert done.cancelling_at is not None
    assert sdk.batches.cancel(batch.id).status == "cancelled"


def test_finished_batch_cannot_be_cancelled(sdk: OpenAI) -> None:
    done = finished(sdk, begin(sdk, request("a", {"input": "a"})))
    with pytest.raises(BadRequestError, match="is completed already"):
        sdk.batches.cancel(done.id)


def test_deleted_file_is_gone(sdk: OpenAI, folder: Path) -> None:
    file_id = upload(sdk, "a")
    assert sdk.files.delete(file_id).deleted
    with pytest.raises(NotFoundError):
        sdk.files.retrieve(file_id)
    assert not [*folder.rglob(f"*{file_id}*")]


def test_metadata_and_expiry(sdk: OpenAI) -> None:
    file = sdk.files.create(
        file=("a.jsonl", request("a", {"input": "a"}).encode()),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert file.expires_at == file.created_at + 3600
    batch = sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/embeddings",
        completion_window="24h",
        metadata={"of": "me"},
        output_expires_after={"anchor": "created_at", "seconds": 7200},
    )
    done = finished(sdk, batch)
    assert done.metadata == {"of": "me"}
    output = sdk.files.retrieve(str(done.output_file_id))
    assert output.expires_at == output.created_at + 7200


@pytest.mark.parametrize(
    "file_id", ["x", "..%2F..%2Fetc%2Fpasswd", "file-" + "0" * 32, "../lock", "file-..", "a" * 1000]
)
def test_ids_are_no_paths(plain: httpx2.Client, file_id: str) -> None:
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content", f"/v1/batches/{file_id}"):
        assert plain.get(path).status_code == 404, path
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert plain.post("/v1/batches", json=body).status_code == 404


def test_name_of_a_file_is_no_path(sdk: OpenAI, folder: Path) -> None:
    name = "../../\u00e9vil\r\nx: y.jsonl"
    file = sdk.files.create(file=(name, b"{}"), purpose="batch")
    answer = sdk.files.content(file.id)
    assert answer.content == b"{}"
    assert "x" not in answer.response.headers
    assert len([*folder.rglob("*.jsonl")]) == len([*folder.glob("*/files/*.jsonl")])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"endpoint": "/v1/batches"}, "endpoint"),
        ({"completion_window": "tomorrow"}, "completion_window"),
        ({"completion_window": "31d"}, "completion_window"),
        ({"metadata": {"a": "b" * 513}}, "metadata[...]"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
def test_invalid_batch_is_refused(plain: httpx2.Client, sdk: OpenAI, change: dict[str, Any], field: str) -> None:
    body = {"input_file_id": upload(sdk, "a"), "endpoint": "/v1/embeddings", "completion_window": "24h"} | change
    answer = plain.post("/v1/batches", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_invalid_query_is_refused(plain: httpx2.Client) -> None:
    answer = plain.get("/v1/files", params={"limit": "0"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
    assert plain.get("/v1/batches", params={"limit": "many"}).status_code == 400
    assert plain.get("/v1/batches", params={"unknown": "a"}).status_code == 200
    answer = plain.get("/v1/files", params={"after": "unknown"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    head = b"--b\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
    return b"".join(head % (disposition.encode(), value) for disposition, value in parts) + end


FILE = ('name="file"; filename="a"', b"content")
PURPOSE = ('name="purpose"', b"batch")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (form(FILE, PURPOSE), 200),
        (form(PURPOSE, FILE), 200),
        (form(PURPOSE), 400),
        (form(FILE), 400),
        (form(FILE, ('name="purpose"', b"fine-tune")), 400),
        (form(FILE, FILE, PURPOSE), 400),
        (form(FILE, PURPOSE, end=b""), 400),
        (form(FILE, ('name="purpose"', b"batch" * 20_000)), 413),
        (form(FILE, *[PURPOSE] * 40), 413),
        (form(PURPOSE, ('name="file"; filename="a"', b"x" * (FILE_BYTES + 1))), 413),
        (form(PURPOSE, ('name="file"; filename="a"', b"x" * FILE_BYTES)), 200),
        (form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"soon")), 400),
        (form(FILE, PURPOSE, ('name="expires_after[seconds]"', b"9" * 5000)), 400),
        (form(FILE, PURPOSE, ('name="expires_after[anchor]"', b"now")), 400),
        (form(FILE, PURPOSE, ('name="expires_after"', b'{"seconds": 7200}')), 400),
        (b"--b\r\nno header\r\n\r\n", 400),
        (b"", 400),
    ],
)
def test_forms(plain: httpx2.Client, folder: Path, body: bytes, status: int) -> None:
    before = {*folder.rglob("*")}
    answer = plain.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == status, answer.text
    if status == 200:
        assert plain.delete(f"/v1/files/{answer.json()['id']}").json()["deleted"]
    assert {*folder.rglob("*")} - before <= {folder, *folder.glob("*"), *folder.glob("*/*")}  # no file is left


def test_body_that_is_no_form_is_refused(plain: httpx2.Client) -> None:
    for kind in ("application/json", "multipart/form-data", f"multipart/form-data; boundary={'b' * 1000}"):
        assert plain.post("/v1/files", content=b"{}", headers={"content-type": kind}).status_code == 400


def test_compressed_form_is_refused(plain: httpx2.Client) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}
    assert plain.post("/v1/files", content=form(FILE, PURPOSE), headers=headers).status_code == 415


def test_unknown_fields_of_a_form_are_told(plain: httpx2.Client) -> None:
    content, kind = form(FILE, PURPOSE, ('name="other"', b"a")), "multipart/form-data; boundary=b"
    answer = plain.post("/v1/files", content=content, headers={"content-type": kind})
    assert answer.headers["x-conch-ignored-fields"] == "other"
    plain.delete(f"/v1/files/{answer.json()['id']}")


def test_unknown_input_is_named(plain: httpx2.Client) -> None:
    answer = plain.post("/v1/batches", json={"input_file_id": "file-a", "endpoint": "/v1/embeddings"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "input_file_id")


def test_file_that_is_deleted_meanwhile_is_sent_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    descriptor = os.open(path, os.O_RDONLY)
    response = Download(descriptor, "name")
    path.unlink()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()  # the client stays

    asyncio.run(response({"type": "http", "method": "GET", "headers": []}, receive, send))
    assert sent[0]["status"] == 200
    assert b"".join(message["body"] for message in sent[1:]) == b"content"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_bytes_of_a_key_are_limited(sdks: Sequence[OpenAI], plain: httpx2.Client) -> None:
    _, second = sdks
    content = b"x" * FILE_BYTES
    kept = []
    with pytest.raises(APIStatusError, match="reached their limit") as error:  # noqa: PT012 - until it is refused
        for _ in range(31):
            kept.append(second.files.create(file=("a", content), purpose="batch").id)  # noqa: PERF401 - it fails
    assert error.value.status_code == 413
    assert len(kept) == 29  # the descriptions take some bytes, too
    assert plain.post(
        "/v1/files", content=form(FILE, PURPOSE), headers={"content-type": "multipart/form-data; boundary=b"}
    ).is_success
    for file_id in kept:
        second.files.delete(file_id)


def test_server_without_a_folder_says_what_to_set(client: httpx2.Client) -> None:
    for answer in (client.get("/v1/files"), client.get("/v1/batches"), client.post("/v1/batches", json={})):
        assert answer.status_code == 404
        assert "GATEWAY_BATCH_FOLDER" in answer.json()["error"]["message"]


def test_metrics_count_requests_of_batches(sdk: OpenAI, plain: httpx2.Client) -> None:
    finished(sdk, begin(sdk, request("a", {"input": "a"})))
    lines = plain.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("conch_batch_requests_total{") and 'status="200"' in line]
    assert any('path="/v1/embeddings"' in line and 'model="all-minilm-l6-v2"' in line for line in counted)
    assert any(line.startswith("conch_batches_running ") for line in lines)


def test_example_of_the_api_page_runs(running: Server) -> None:
    section = Path("docs/api.md").read_text().partition("\n## POST /v1/batches\n")[2]
    example = section.partition("```python\n")[2].partition("```")[0]
    given = example.replace("http://127.0.0.1:8080", running.url).replace('"unused"', repr(KEYS[0]))
    assert given.count(running.url) == 1
    variables: dict[str, Any] = {}
    exec(compile(given, "docs/api.md", "exec"), variables)  # noqa: S102 - it is ours
    variables["client"].close()
    vectors = variables["vectors"]
    assert {name: len(vector) for name, vector in vectors.items()} == {f"text-{number}": 384 for number in range(3)}
    assert np.dot(vectors["text-0"], vectors["text-1"]) > np.dot(vectors["text-0"], vectors["text-2"])
