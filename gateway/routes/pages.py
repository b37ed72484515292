"""GET / (the playground) and /docs (Swagger UI), and the files under /pages/ that they load."""

import gzip
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

FOLDER = Path(__file__).parent.parent / "pages"
PLACES = {"index.html": "/", "docs.html": "/docs"}
"""The paths of the pages; every other file is served under /pages/ by its path in the folder."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""The files that are served, by suffix; others, such as licences, are not."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TRUSTED_TYPES = "; require-trusted-types-for 'script'; trusted-types 'none'"
"""Prevents scripts from writing HTML. For the playground, which shows pasted text; Swagger UI at /docs writes HTML."""
HEADERS = {
    "cache-control": "no-cache",  # revalidated by ETag each time, so that an update is visible immediately
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class Page:
    """A static file and its headers."""

    content: bytes
    zipped: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Self:
        content = file.read_bytes()
        policy = POLICY + TRUSTED_TYPES if file.name == "index.html" else POLICY
        return cls(
            content,
            gzip.compress(content, mtime=0),
            {
                **HEADERS,
                "content-security-policy": policy,
                "content-type": f"{TYPES[file.suffix]}; charset=utf-8",
                "etag": f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',  # weak: the gzipped bytes have the same one
            },
        )

    async def show(self, request: Request) -> Response:
        """Answer GET or HEAD, with 304 if the client has the current version."""
        if self.headers["etag"] in {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}:
            return Response(status_code=304, headers=self.headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.zipped, headers={**self.headers, "content-encoding": "gzip"})
        return Response(self.content, headers=self.headers)


async def running(_: Request) -> Response:
    """Answer GET / and HEAD / where there are no pages, for clients of Ollama, which probe a server by them."""
    return Response("Conch is running", media_type="text/plain")


def routes() -> Iterator[BaseRoute]:
    """A route for each file in the folder that is served."""
    for file in sorted(FOLDER.rglob("*")):
        if file.suffix in TYPES:
            name = file.relative_to(FOLDER).as_posix()
            yield Route(PLACES.get(name, f"/pages/{name}"), Page.read(file).show)
