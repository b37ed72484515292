"""Nothing unexpected is logged: every endpoint is asked, well and badly, and each line must be one of a few."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from loadtest.tools.pictures import file, scene
from tests.serving import Server, serve

FILES = [file(scene(64, 48, seed), kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP", "GIF", "BMP"))]
IMAGES = [base64.b64encode(content).decode() for content in FILES]
BROKEN_IMAGES = [base64.b64encode(content[: len(content) // 2]).decode() for content in (b"no image", *FILES)]
REQUESTS: tuple[dict[str, Any], ...] = (
    {"model": "minilm-pictogram", "input": ["a shell", *({"image": image} for image in IMAGES)]},
    *({"model": "minilm-pictogram", "input": [{"image": image}, {"image": IMAGES[0]}]} for image in BROKEN_IMAGES),
    {"model": "minilm-pictogram", "input": [{"image": "http://127.0.0.1/"}]},
    {"model": "minilm-late-interaction", "input": "a model of another kind"},
    {"input": ["a shell " * 500, "short"]},
    {"input": [f"text {i}" for i in range(200)]},
)
"""To /v1/embeddings, beside the examples of the documentation. Most are refused."""
BROKEN = (b"", b"{", b"[]", b"null", b'{"model": "nothing"}', b"\xff")

GATEWAY = (
    ("info", "uvicorn.error", r"Started server process \[\d+\]"),
    ("info", "uvicorn.error", r"Waiting for application (startup|shutdown)\."),
    ("info", "uvicorn.error", r"Application (startup|shutdown) complete\."),
    ("info", "gateway", r"listening on http://127\.0\.0\.1:\d+, workers: 1"),
    ("info", "uvicorn.error", r"Shutting down|Finished server process \[\d+\]"),
    ("info", "gateway.request", "request"),
    ("info", "gateway.jobs.runner", "batch"),
    # While Triton starts.
    (
        "warning",
        "gateway.health",
        r"not ready: (Triton is not responding|Triton has no model that this gateway can serve)",
    ),
    ("warning", "gateway.health", r"not ready: no recent answer from [\w, -]+"),
    ("info", "gateway.health", "ready"),
    ("warning", "gateway.health", "not ready: the server is stopping"),
)
"""Level, logger and message of what the gateway logs."""
TRITON = (
    r"",
    r"[|+].*[|+]",  # tables of settings
    r"I\d{4} .*",
    # No GPU is there, or none that is used.
    r'W\d{4} .* pinned_memory_manager\.cc:\d+\] "Unable to allocate pinned system memory.*',
    r'E\d{4} .* server\.cc:\d+\] "CudaDriverHelper has not been initialized\."',
    r'W\d{4} .* metrics\.cc:\d+\] "DCGM unable to start: DCGM initialization error"',
    r"Error: Failed to initialize NVML",
    r"Signal \(15\) received\.",
)
"""Lines of Triton's log, which those of its models are among."""


def unexpected(lines: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The lines that no pattern matches."""
    known = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    return [line for line in lines if not known.fullmatch(line.rstrip())]


def is_expected(line: str) -> bool:
    """Whether a line is one of those that the gateway logs."""
    said = json.loads(line)
    is_known = any(
        (said["level"], said["logger"]) == (level, logger) and re.fullmatch(message, said["message"])
        for level, logger, message in GATEWAY
    )
    return is_known and "trace" not in said


class Names(dict[str, str]):
    """What is put in place of a path's parameters."""

    def __init__(self, client: httpx2.Client) -> None:
        super().__init__(id="all-minilm-l6-v2", model="all-minilm-l6-v2")
        self._client = client

    def __missing__(self, name: str) -> str:
        file_id: str = upload(self._client).json()["id"]
        if name == "file_id":
            return file_id
        body = {"input_file_id": file_id, "endpoint": "/v1/embeddings"}
        batch_id: str = self._client.post("/v1/batches", json=body).json()["id"]
        return batch_id


def upload(client: httpx2.Client, purpose: str = "batch") -> httpx2.Response:
    """Upload a file with enough requests that its batch is not done at once."""
    requests = (
        {"custom_id": str(i), "method": "POST", "url": "/v1/embeddings", "body": {"input": f"text {i}"}}
        for i in range(500)
    )
    content = "\n".join(map(json.dumps, requests)).encode()
    return client.post("/v1/files", files={"file": ("a.jsonl", content)}, data={"purpose": purpose})


def ask(client: httpx2.Client) -> dict[str, set[int]]:
    """Send every endpoint all that it should answer and some that it should refuse; returns the statuses by path."""
    statuses: dict[str, set[int]] = {}
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            place = path.format_map(Names(client))
            answers = [client.request(method, place), client.request("DELETE", place)]
            if "requestBody" in operation:
                answers += [client.post(place, content=body) for body in BROKEN]
                described = operation["requestBody"]["content"].get("application/json")
                example = described["example"] if described else {}
                if "input_file_id" in example:
                    example |= {"input_file_id": upload(client).json()["id"]}
                answers += [client.post(place, json=example), client.post(place, json=example | {"model": "nothing"})]
                answers += [] if described else [upload(client), upload(client, purpose="nothing")]
            statuses.setdefault(path, set()).update(answer.status_code for answer in answers)
    answers = [client.post("/v1/embeddings", json=body) for body in REQUESTS]
    statuses["/v1/embeddings"].update(answer.status_code for answer in answers)
    for path in ("/", "/docs", "/metrics", "/v1/models/nothing", "/nothing"):
        statuses[path] = {client.get(path).status_code}
    return statuses


@pytest.fixture(scope="module")
def logged(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, set[int]], list[str], list[str]]]:
    """Statuses by path, and what the foreground process and Triton have logged from start to stop."""
    batches = str(tmp_path_factory.mktemp("batches"))
    with (
        serve(repository, GATEWAY_BATCH_FOLDER=batches) as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
        ExitStack() as stack,
    ):
        triton = stack.enter_context(triton_log(server).open(errors="replace"))
        statuses = ask(client)
        stack.pop_all()
    with triton:
        yield statuses, server.lines, triton.readlines()  # which is readable after its folder is removed


def triton_log(server: Server) -> Path:
    found = re.search(r"\(log: (\S+)\)", "".join(server.lines))
    assert found is not None
    return Path(found[1])


def test_every_endpoint_was_asked_well_and_badly(logged: tuple[dict[str, set[int]], list[str], list[str]]) -> None:
    statuses, _, _ = logged
    # No classifier and no model of sparse vectors is among the default models.
    assert {path for path, found in statuses.items() if 200 not in found} == {
        "/classify",
        "/embed_sparse",
        "/predict",
        "/v1/models/nothing",
        "/nothing",
    }
    assert not [path for path, found in statuses.items() if max(found) >= 500]


def test_gateway_logs_only_what_it_should(logged: tuple[dict[str, set[int]], list[str], list[str]]) -> None:
    _, lines, _ = logged
    greeting = unexpected(lines, [r"\{.*\}"])
    assert greeting[0].startswith("starting Triton (log: ")
    assert greeting[1].startswith("ready on http://")
    assert not unexpected(greeting[2:], [r"", r"  playground: .*", r"  curl .*"])
    assert not [line for line in lines if line.startswith("{") and not is_expected(line)]


def test_triton_and_models_log_only_what_they_should(logged: tuple[dict[str, set[int]], list[str], list[str]]) -> None:
    _, _, lines = logged
    assert len(lines) > 20
    assert not unexpected(lines, TRITON)
