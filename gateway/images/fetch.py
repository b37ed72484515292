"""Images by URL: fetched from hosts that are allowed, at addresses that were checked, within limits.

A name is resolved once, its addresses are checked, and the connection goes to one of those: a name that means another
address a moment later gains nothing. Every redirect starts anew.
"""

import asyncio
import ipaddress
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeVar

import httpx2

from gateway import __version__
from gateway.dns import Resolve, resolve
from gateway.errors import InvalidRequest
from gateway.images.allowlist import Address, Allowed, Reach
from gateway.images.data_uri import MAX_BYTES

TIMEOUT_S = 5.0
"""For all of it, redirects included."""
MAX_REDIRECTS = 3
LOOKUPS = 64
"""Names that are resolved at a time. One that nobody waits for any more may take its thread for many seconds."""
FREE_CHUNKS = 1000
LEAST_CHUNK_BYTES = 1024
"""Of a chunk, on average, beyond those: each takes time that the gateway's other threads wait for."""
VISIT = "visit"
"""The extension of requests that holds the `_Visit`."""
CONTENT_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif", "image/bmp", "image/x-ms-bmp"}
)
HEADERS = {
    "user-agent": f"conch/{__version__}",
    "accept": "image/png, image/jpeg, image/webp, image/gif, image/bmp",
    "accept-encoding": "identity",  # what is compressed may become more than anybody has memory for
}

Result = TypeVar("Result")


class RefusedError(Exception):
    """A URL leads where the gateway must not go, or its answer is not an image. One clause, to follow "its"."""


@dataclass
class _Visit:
    """What was asked for the sake of one URL, redirects included."""

    inside: bool = False
    """Whether any of it was at an address that is not public. Then nobody learns why there is no image: not which ports
    are open, nor what listens there."""


class _Guard(httpx2.AsyncBaseTransport):
    """Sends requests to addresses that it has checked."""

    def __init__(self, allowed: Allowed, resolve: Resolve) -> None:
        self._allowed = allowed
        self._resolve = resolve
        # No connection serves twice: they are known by their addresses here, which several hosts may share.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._transport = httpx2.AsyncHTTPTransport(trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise RefusedError("scheme is neither http nor https")
        if url.port is not None and not 1 <= url.port <= 65535:
            raise RefusedError("port is not valid")
        if url.userinfo:
            raise RefusedError("user name or password is not allowed")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        reach = self._allowed.reach(url.host, port)
        if reach is None:
            raise RefusedError("host or port is not one that this server fetches from")
        addresses = await self._addresses(url.host, port, reach)
        if not all(map(reach.public, addresses)):
            request.extensions[VISIT].inside = True
        for address in addresses[:-1]:
            try:
                return await self._send(request, url, address)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # as a name may have addresses of a network that is not here
        return await self._send(request, url, addresses[-1])

    async def _addresses(self, host: str, port: int, reach: Reach) -> list[Address]:
        try:
            found = await self._resolve(host, port)
            addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in found]
        except (OSError, ValueError, UnicodeError):
            addresses = []
        # The same words whether a name is unknown or private: nobody learns here what names there are.
        if not addresses or not all(address in reach for address in addresses):
            raise RefusedError("host has no address that this server fetches from")
        return addresses

    async def _send(self, request: httpx2.Request, url: httpx2.URL, address: Address) -> httpx2.Response:
        request.url = url.copy_with(host=str(address))  # the Host header stays that of the name
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        try:
            return await self._transport.handle_async_request(request)
        finally:
            request.url = url  # which a relative redirect is relative to

    async def aclose(self) -> None:
        await self._transport.aclose()


class Fetcher:
    """Fetches images, in an event loop and a thread of its own: many small pieces must not keep others waiting."""

    def __init__(self, allowed: Allowed, resolve: Resolve = resolve) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._loop.set_default_executor(ThreadPoolExecutor(LOOKUPS, thread_name_prefix="resolve"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._client = httpx2.AsyncClient(
            transport=_Guard(allowed, resolve),
            headers=HEADERS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none: they would go from request to request
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._there(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def fetch(self, url: str, place: str) -> bytes:
        """The bytes that a URL stands for.

        Args:
            url: http or https.
            place: what error messages call it.

        Raises:
            InvalidRequest: it must not be fetched, or does not give an image within the limits.
        """
        cause: Exception
        visit = _Visit()
        try:
            return await self._there(self._get(url, visit))
        except TimeoutError as exc:
            problem, cause = f"server took more than {TIMEOUT_S:g} s", exc
        except RefusedError as exc:
            problem, cause = str(exc), exc
        except httpx2.InvalidURL as exc:
            problem, cause = "URL is not valid", exc
        except httpx2.HTTPError as exc:
            problem, cause = "server cannot be reached, or breaks off", exc
        if visit.inside:
            problem = "server, which has no public address, gives no image"
        raise InvalidRequest(f"{place} cannot be fetched: its {problem}", param=place) from cause

    async def _there(self, work: Coroutine[None, None, Result]) -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _get(self, url: str, visit: _Visit) -> bytes:
        request = self._client.build_request("GET", url, extensions={VISIT: visit})
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(MAX_REDIRECTS + 1):
                response = await self._client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        return await _read(response)
                    request = following(request, response.next_request)
                finally:
                    await response.aclose()  # what a redirect says besides is not read, however long it is
        raise RefusedError(f"server redirects more than {MAX_REDIRECTS} times")


def following(request: httpx2.Request, following: httpx2.Request) -> httpx2.Request:
    """What a redirect leads to; it has the extensions of the request before."""
    if request.url.scheme == "https" and following.url.scheme == "http":
        raise RefusedError("server redirects from https to http")
    return following


async def _read(response: httpx2.Response) -> bytes:
    if response.status_code != httpx2.codes.OK:
        raise RefusedError(f"server answers with status {response.status_code}")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in CONTENT_TYPES:
        raise RefusedError("content type is not that of an image")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError("content is compressed")
    size = 0
    chunks: list[bytes] = []
    async for chunk in response.aiter_raw():
        size += len(chunk)
        chunks.append(chunk)
        if size > MAX_BYTES:
            raise RefusedError(f"file is over {MAX_BYTES} bytes")
        if len(chunks) > FREE_CHUNKS + size // LEAST_CHUNK_BYTES:
            raise RefusedError("server sends it in too many pieces")
    return b"".join(chunks)
