import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import gateway_client

FOLDER = Path("gateway/pages")
PAGES = {"/": FOLDER / "index.html", "/docs": FOLDER / "docs.html"}
NAMED = re.compile(r"""(?:href|src|from)[= ]["']([^"']+\.(?:css|js|svg))["']""")


def files_named_in_pages() -> Iterator[str]:
    """Paths of what the pages load, and the modules that those import, in turn."""
    waiting = [name for file in PAGES.values() for name in NAMED.findall(file.read_text())]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            yield name
            file = Path("gateway") / name
            if file.suffix == ".js" and "swagger-ui" not in name:
                folder = Path(name).parent
                waiting += [str(folder / imported.removeprefix("./")) for imported in NAMED.findall(file.read_text())]


@pytest.fixture(scope="module")
def closed(repository: Path) -> Iterator[httpx2.Client]:
    """A gateway without pages; whether Triton is there does not matter."""
    with gateway_client(repository, GATEWAY_PAGES="off") as client:
        yield client


@pytest.mark.parametrize(("path", "file"), PAGES.items())
def test_pages_are_html(client: httpx2.Client, path: str, file: Path) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == file.read_text()


def test_every_file_that_a_page_names_is_served(client: httpx2.Client) -> None:
    names = list(files_named_in_pages())
    assert {"pages/common.css", "pages/playground/vectors.js", "pages/swagger-ui/swagger-ui-bundle.js"} <= set(names)
    for name in names:
        assert client.get(f"/{name}").status_code == 200, name


def test_pages_load_nothing_from_other_servers() -> None:
    for file in FOLDER.rglob("*"):
        if file.suffix in {".html", ".css", ".js"} and "swagger-ui" not in file.parts:
            assert "//" not in re.sub(r"(/\*.*?\*/|(?<!:)//.*?$)", "", file.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", ["/", "/docs", "/pages/common.css", "/pages/docs.js", "/pages/icon.svg"])
def test_security_headers_are_sent_with_every_file(client: httpx2.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(directive.strip().split(" ", 1) for directive in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]


def test_scripts_of_the_playground_cannot_write_html(client: httpx2.Client) -> None:
    assert "require-trusted-types-for 'script'" in client.get("/").headers["content-security-policy"]


def test_cached_files_are_not_sent_again(client: httpx2.Client) -> None:
    first = client.get("/pages/common.css")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/pages/common.css", headers={"if-none-match": f'"other", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    changed = client.get("/pages/common.css", headers={"if-none-match": '"other"'})
    assert changed.status_code == 200


def test_files_are_gzipped_for_clients_that_accept_it(client: httpx2.Client) -> None:
    zipped = client.get("/pages/swagger-ui/swagger-ui-bundle.js", headers={"accept-encoding": "gzip"})
    plain = client.get("/pages/swagger-ui/swagger-ui-bundle.js", headers={"accept-encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert zipped.content == plain.content
    assert int(zipped.headers["content-length"]) < 500_000
    assert zipped.headers["vary"] == "accept-encoding"


def test_head_is_answered_without_a_body(client: httpx2.Client) -> None:
    response = client.head("/")
    assert (response.status_code, response.content) == (200, b"")


def test_other_methods_are_405(client: httpx2.Client) -> None:
    response = client.put("/")
    assert response.status_code == 405
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    ["/pages/", "/pages/nothing.js", "/pages/index.html", "/pages/swagger-ui/LICENSE", "/pages/..%2froutes%2fpages.py"],
)
def test_unknown_page_is_404_in_the_common_body(client: httpx2.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


def test_pages_can_be_switched_off(closed: httpx2.Client) -> None:
    for path in ("/docs", "/pages/common.css", "/pages/swagger-ui/swagger-ui-bundle.js"):
        assert closed.get(path).status_code == 404
    assert closed.get("/openapi.json").status_code == 200


def test_root_answers_probes_with_and_without_pages(client: httpx2.Client, closed: httpx2.Client) -> None:
    assert closed.get("/").text == "Conch is running"
    assert closed.delete("/").status_code == 405
    for server in (client, closed):
        assert server.head("/").status_code == 200


def test_licences_of_third_party_files_are_included() -> None:
    assert "Apache License" in (FOLDER / "swagger-ui/LICENSE").read_text()
    assert "DOMPurify" in (FOLDER / "swagger-ui/swagger-ui-bundle.js.LICENSE.txt").read_text()
