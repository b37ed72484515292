"""GET / and /docs, the pages for people, and the files that they load, all under /pages/."""

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
"""Of the pages; every other file has its path in the folder."""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""What is served, by suffix; licences and the like are there for people who read the folder."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
NO_HTML_FROM_SCRIPTS = "; require-trusted-types-for 'script'; trusted-types 'none'"
"""On the playground, which shows what people paste; Swagger UI at /docs writes the HTML of descriptions."""
HEADERS = {
    "cache-control": "no-cache",  # kept, but asked for by its ETag each time: an update shows at once
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file, as it is sent."""

    content: bytes
    zipped: bytes
    headers: Mapping[str, str]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file."""
        content = file.read_bytes()
        return cls(
            content,
            gzip.compress(content, mtime=0),
            {
                **HEADERS,
                "content-security-policy": POLICY + NO_HTML_FROM_SCRIPTS * (file.name == "index.html"),
                "content-type": f"{TYPES[file.suffix]}; charset=utf-8",
                "etag": f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',  # weak: of the zipped bytes as well
            },
        )

    async def show(self, request: Request) -> Response:
        """Answer GET or HEAD, with 304 where the client has this already."""
        if self.headers["etag"] in {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}:
            return Response(status_code=304, headers=self.headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.zipped, headers={**self.headers, "content-encoding": "gzip"})
        return Response(self.content, headers=self.headers)


def routes() -> Iterator[BaseRoute]:
    """Read the folder, and make a route for each file in it that is served."""
    for file in sorted(FOLDER.rglob("*")):
        if file.suffix in TYPES:
            name = file.relative_to(FOLDER).as_posix()
            yield Route(PLACES.get(name, f"/pages/{name}"), Page.read(file).show)
