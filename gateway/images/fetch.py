"""Fetches images by URL, from allowed hosts only, at addresses that were checked, within limits of size and time.

A host name is resolved once, its addresses are checked, and the connection goes to one of them, so DNS rebinding has no
effect. Every redirect is checked in the same way.
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
from gateway.images.allowlist import Address, AddressRule, Allowlist
from gateway.images.data_uri import MAX_BYTES

TIMEOUT_S = 5.0
"""For one fetch, including redirects."""
MAX_REDIRECTS = 3
LOOKUPS = 64
"""The most concurrent DNS lookups. A lookup may occupy its thread for many seconds after its fetch has timed out."""
FREE_CHUNKS = 1000
MIN_CHUNK_BYTES = 1024
"""The smallest average size of the chunks of a response after the first FREE_CHUNKS. Receiving a chunk blocks the
gateway's other threads for a moment."""
FETCH = "conch_fetch"
"""The request extension that holds the `_Fetch`."""
CONTENT_TYPES = frozenset(
    {"image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif", "image/bmp", "image/x-ms-bmp"}
)
HEADERS = {
    "user-agent": f"conch/{__version__}",
    "accept": "image/png, image/jpeg, image/webp, image/gif, image/bmp",
    "accept-encoding": "identity",  # a compressed response may expand to any size
}

Result = TypeVar("Result")


class RefusedError(Exception):
    """The URL must not be fetched, or the response is not an image. The message is a clause for the client."""


@dataclass
class _Fetch:
    """One fetch, including its redirects."""

    is_private: bool = False
    """Whether any request went to an address that is not public. The client is then not told why the fetch failed, so
    that it cannot probe the private network."""


class _Guard(httpx2.AsyncBaseTransport):
    """Sends requests only to addresses that it has checked."""

    def __init__(self, allowlist: Allowlist, resolve: Resolve) -> None:
        self._allowlist = allowlist
        self._resolve = resolve
        # Connections are not reused: the pool identifies them by address, which several hosts may share.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._transport = httpx2.AsyncHTTPTransport(trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise RefusedError("the URL scheme must be http or https")
        if url.port is not None and not 1 <= url.port <= 65535:
            raise RefusedError("the URL port is not valid")
        if url.userinfo:
            raise RefusedError("the URL must not contain a user name or password")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        rule = self._allowlist.rule(url.host, port)
        if rule is None:
            raise RefusedError("this server does not fetch from this host and port")
        addresses = await self._addresses(url.host, port, rule)
        if not all(map(rule.is_public, addresses)):
            request.extensions[FETCH].is_private = True
        for address in addresses[:-1]:
            try:
                return await self._send(request, url, address)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # try the next one: this host may have no route to it, as with IPv6
        return await self._send(request, url, addresses[-1])

    async def _addresses(self, host: str, port: int, rule: AddressRule) -> list[Address]:
        try:
            resolved = await self._resolve(host, port)
            addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in resolved]
        except (OSError, ValueError, UnicodeError):
            addresses = []
        # The same message for unknown and private names, so that clients cannot probe for internal names.
        if not addresses or not all(address in rule for address in addresses):
            raise RefusedError("the host has no address that this server may fetch from")
        return addresses

    async def _send(self, request: httpx2.Request, url: httpx2.URL, address: Address) -> httpx2.Response:
        request.url = url.copy_with(host=str(address))  # the Host header keeps the name
        request.extensions = {**request.extensions, "sni_hostname": url.host}
        try:
            return await self._transport.handle_async_request(request)
        finally:
            request.url = url  # the base of relative redirects

    async def aclose(self) -> None:
        await self._transport.aclose()


class Fetcher:
    """Fetches images in an event loop and thread of its own, so that many small chunks do not delay other requests."""

    def __init__(self, allowlist: Allowlist, resolve: Resolve = resolve) -> None:
        self._loop = asyncio.SelectorEventLoop()
        self._loop.set_default_executor(ThreadPoolExecutor(LOOKUPS, thread_name_prefix="resolve"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()
        self._client = httpx2.AsyncClient(
            transport=_Guard(allowlist, resolve),
            headers=HEADERS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none, since clients would share them
            timeout=TIMEOUT_S,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._in_thread(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def fetch(self, url: str, place: str) -> bytes:
        """The content of a URL.

        Args:
            url: http or https.
            place: the field for error messages.

        Raises:
            InvalidRequest: the URL must not be fetched, or gives no image within the limits.
        """
        cause: Exception
        state = _Fetch()
        try:
            return await self._in_thread(self._get(url, state))
        except TimeoutError as exc:
            problem, cause = f"the server took more than {TIMEOUT_S:g} s", exc
        except RefusedError as exc:
            problem, cause = str(exc), exc
        except httpx2.InvalidURL as exc:
            problem, cause = "the URL is not valid", exc
        except httpx2.HTTPError as exc:
            problem, cause = "the server is unreachable or closed the connection", exc
        if state.is_private:
            problem = "the server, which has a private address, returned no image"
        raise InvalidRequest(f"{place} cannot be fetched: {problem}", param=place) from cause

    async def _in_thread(self, work: Coroutine[None, None, Result]) -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _get(self, url: str, state: _Fetch) -> bytes:
        request = self._client.build_request("GET", url, extensions={FETCH: state})
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(MAX_REDIRECTS + 1):
                response = await self._client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        return await _read(response)
                    request = redirected(request, response.next_request)
                finally:
                    await response.aclose()  # the body of a redirect is not read
        raise RefusedError(f"the server redirected more than {MAX_REDIRECTS} times")


def redirected(request: httpx2.Request, next_request: httpx2.Request) -> httpx2.Request:
    """The request that follows a redirect, unless it leads from https to http. It keeps the extensions."""
    if request.url.scheme == "https" and next_request.url.scheme == "http":
        raise RefusedError("the server redirected from https to http")
    return next_request


async def _read(response: httpx2.Response) -> bytes:
    if response.status_code != httpx2.codes.OK:
        raise RefusedError(f"the server responded with status {response.status_code}")
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in CONTENT_TYPES:
        raise RefusedError("the content type is not a supported image type")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError("the response is compressed")
    size = 0
    chunks: list[bytes] = []
    async for chunk in response.aiter_raw():
        size += len(chunk)
        chunks.append(chunk)
        if size > MAX_BYTES:
            raise RefusedError(f"the file exceeds {MAX_BYTES} bytes")
        if len(chunks) > FREE_CHUNKS + size // MIN_CHUNK_BYTES:
            raise RefusedError("the server sent the file in too many small chunks")
    return b"".join(chunks)
