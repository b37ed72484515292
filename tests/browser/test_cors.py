"""A page of another origin that uses the API, in a browser."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from loadtest.tools.servers import free_ports
from tests.browser.conftest import Visits
from tests.serving import Server, serve

ASK = """async ([url, key, body, credentials]) => {
  try {
    const answer = await fetch(url, {method: "POST", body: JSON.stringify(body), credentials,
      headers: {"content-type": "application/json", "authorization": `Bearer ${key}`}});
    return {status: answer.status, id: answer.headers.get("x-request-id"), body: await answer.json(),
      ignored: answer.headers.get("x-conch-ignored-fields"),
      remaining: answer.headers.get("x-ratelimit-remaining-requests")};
  } catch (error) {
    return {failed: error.name};
  }
}"""


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two servers of an empty page, the first of which the API allows."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text("<!doctype html><link rel=icon href=data:,><title>a page</title>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    servers = [ThreadingHTTPServer(("127.0.0.1", port), handler) for port in free_ports(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    first, second = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    yield first, second
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def api(repository: Path, origins: tuple[str, str]) -> Iterator[Server]:
    """The default models for those who have a key and come from the first origin."""
    with serve(
        repository,
        GATEWAY_API_KEYS="right",
        GATEWAY_CORS_ORIGINS=origins[0],
        GATEWAY_REQUESTS_PER_MINUTE="1000",
        GATEWAY_REQUEST_TIMEOUT="100",
    ) as running:
        yield running


def ask(page: Page, server: Server, key: str = "right", credentials: str = "include", **fields: Any) -> dict[str, Any]:
    body = {"input": "a shell", **fields}
    answer: dict[str, Any] = page.evaluate(ASK, [f"{server.url}/v1/embeddings", key, body, credentials])
    return answer


def page_of(visit: Visits, origin: str, server: Server) -> Page:
    page = visit.browser.new_context().new_page()  # not watched: it asks another server, and is refused
    page.goto(origin)
    assert page.title() == "a page"
    assert not server.url.startswith(origin)
    return page


def test_listed_origin_reads_answers_and_errors(visit: Visits, api: Server, origins: tuple[str, str]) -> None:
    page = page_of(visit, origins[0], api)
    for credentials in ("include", "omit"):
        answer = ask(page, api, credentials=credentials, drop_params=True)
        assert (answer["status"], len(answer["body"]["data"][0]["embedding"])) == (200, 384)
        assert answer["ignored"] == "drop_params"
        assert len(answer["id"]) == 32
        assert int(answer["remaining"]) > 0
    wrong = ask(page, api, key="wrong")
    assert (wrong["status"], wrong["body"]["error"]["code"]) == (401, "invalid_api_key")
    assert ask(page, api, model="x")["body"]["error"]["code"] == "model_not_found"
    assert ask(page, api, dimensions="many")["status"] == 400


def test_other_origins_read_nothing(visit: Visits, api: Server, origins: tuple[str, str]) -> None:
    page = page_of(visit, origins[1], api)
    assert ask(page, api) == {"failed": "TypeError"}
    assert ask(page, api, key="wrong") == {"failed": "TypeError"}
