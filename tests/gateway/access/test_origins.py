import httpx2
import pytest

from gateway.access.origins import is_cross_site


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "127.0.0.1:8080"},
        {"host": "[::1]:8080"},
        {"host": "localhost:8080"},
        {"host": "gateway:8080"},
        {"host": "conch.internal"},
        {"host": "localhost:8080", "origin": "http://localhost:8080", "sec-fetch-site": "same-origin"},
        {"host": "localhost:8080", "sec-fetch-site": "none"},
        {"host": "localhost:8080", "origin": "app://obsidian.md"},
        {"host": "127.0.0.1:8080", "origin": "https://conch.example", "sec-fetch-site": "same-origin"},
    ],
)
def test_programs_and_own_pages_are_not_cross_site(headers: dict[str, str]) -> None:
    assert not is_cross_site(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "[::1"},
        {"host": "localhost:8080", "origin": "https://evil.example"},
        {"host": "localhost:8080", "origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
        {"host": "localhost:8080", "origin": "null"},
        {"host": "localhost:8080", "sec-fetch-site": "cross-site"},
    ],
)
def test_pages_of_other_sites_are_cross_site(headers: dict[str, str]) -> None:
    assert is_cross_site(headers)


def test_allowed_origins_are_not_cross_site_by_local_names_only() -> None:
    page = {"host": "localhost:8080", "origin": "https://app.example", "sec-fetch-site": "cross-site"}
    assert not is_cross_site(page, {"https://app.example"})
    assert is_cross_site(page, {"https://other.example", "http://app.example"})
    assert is_cross_site(page | {"host": "evil.example"}, {"https://app.example"})
    assert is_cross_site({"host": "localhost:8080", "sec-fetch-site": "cross-site"}, {"https://app.example"})
    assert not is_cross_site(page | {"origin": "null"}, {"*"})
    assert is_cross_site(page | {"host": "evil.example"}, {"*"})


def test_cross_site_requests_are_refused_without_keys(client: httpx2.Client) -> None:
    foreign = {"origin": "https://evil.example", "content-type": "text/plain"}
    for path in ("/v1/embeddings", "/v2/embed", "/embed"):
        assert client.post(path, content=b'{"input": "a"}', headers=foreign).status_code == 403
    assert client.get("/metrics", headers={"host": "evil.example"}).status_code == 403
    answer = client.get("/v1/models", headers={"host": "evil.example"})
    assert answer.json()["error"]["code"] == "forbidden_origin"


def test_requests_with_a_key_may_be_cross_site(locked: httpx2.Client) -> None:
    headers = {"origin": "https://app.example", "host": "conch.example", "authorization": "Bearer right"}
    assert locked.get("/v1/models", headers=headers).status_code == 200
