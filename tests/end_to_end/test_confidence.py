"""What a client sends stays between it and the server: no log, and no error, holds any of it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import Server, serve

MARK = "xyzzyplugh"
KEY = "k-4f1d7c"
IMAGE = base64.b64encode(MARK.encode() * 50).decode()


@pytest.fixture(scope="module")
def guarded(repository: Path) -> Iterator[Server]:
    """A server with a key, that fetches from a host which is not there."""
    with serve(
        repository,
        GATEWAY_API_KEYS=KEY,
        GATEWAY_IMAGE_URLS="allowlist",
        GATEWAY_IMAGE_URL_HOSTS="images.invalid",
    ) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("embeddings", {"input": [MARK, MARK * 3]}, 200),
        ("embeddings", {"input": f"{MARK} " * 400}, 400),
        ("embeddings", {"input": MARK * 10_000}, 400),
        ("embeddings", {"input": [[MARK]]}, 400),
        ("embeddings", {"input": {"text": MARK, "image": IMAGE}, "model": "minilm-pictogram"}, 400),
        ("embeddings", {"input": {"image": f"{MARK}!"}, "model": "minilm-pictogram"}, 400),
        ("embeddings", {"input": {"image": f"data:image/png;base64,{IMAGE}"}, "model": "minilm-pictogram"}, 400),
        (
            "embeddings",
            {"input": {"image": f"https://images.invalid/?token={MARK}"}, "model": "minilm-pictogram"},
            400,
        ),
        ("embeddings", {"input": {"image": f"https://{MARK}.invalid/"}, "model": "minilm-pictogram"}, 400),
        ("rerank", {"query": MARK, "documents": [MARK], "return_documents": False}, 200),
        ("rerank", {"query": f"{MARK} " * 400, "documents": [MARK]}, 400),
        ("rerank", {"query": MARK, "documents": [[MARK]]}, 400),
        ("rerank", {"query": MARK, "documents": [MARK], "top_n": MARK}, 400),
    ],
)
def test_neither_answer_nor_log_tells_what_was_sent(
    guarded: Server, path: str, body: dict[str, object], status: int
) -> None:
    answer = httpx2.post(f"{guarded.url}/v1/{path}", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    assert answer.status_code == status, answer.text
    assert MARK not in answer.text
    assert IMAGE[:40] not in answer.text
    assert not told(guarded)


@pytest.mark.parametrize("body", [f'{{"input": "{MARK}', f'{{"input": "{MARK}\\u"}}', f'{{"input": {MARK}}}'])
def test_broken_json_is_not_quoted(guarded: Server, body: str) -> None:
    answer = httpx2.post(
        f"{guarded.url}/v1/embeddings", content=body.encode(), headers={"authorization": f"Bearer {KEY}"}
    )
    assert answer.status_code == httpx2.codes.BAD_REQUEST
    assert MARK not in answer.text
    assert not told(guarded)


def test_wrong_key_is_not_quoted(guarded: Server) -> None:
    answer = httpx2.post(f"{guarded.url}/v1/embeddings", headers={"authorization": f"Bearer {MARK}"})
    assert answer.status_code == httpx2.codes.UNAUTHORIZED
    assert MARK not in answer.text
    assert not told(guarded)


def test_log_is_there_and_is_json(guarded: Server) -> None:
    """Or the others would say nothing."""
    httpx2.get(f"{guarded.url}/v1/models", headers={"authorization": f"Bearer {KEY}"})
    guarded.wait_for('"path":"/v1/models"')
    assert all(json.loads(line) for line in guarded.lines if line.startswith("{"))


def told(server: Server) -> list[str]:
    """Lines of the gateway's log and of Triton's that hold what nobody should read there."""
    (triton_log,) = (Path(line.split("log: ")[1].split(")")[0]) for line in server.lines if "(log: " in line)
    lines = [*server.lines, *triton_log.read_text().splitlines()]
    return [line for line in lines if MARK in line or KEY in line or IMAGE[:40] in line]
