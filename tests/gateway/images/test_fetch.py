"""Against real servers on loopback addresses, which names are resolved to here as a test likes."""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx2
import pytest

from gateway.errors import InvalidRequest
from gateway.images import fetch
from gateway.images.allowlist import Address, AddressRule, Allowlist, is_global
from gateway.images.data_uri import MAX_BYTES
from gateway.images.fetch import Fetcher
from loadtest.tools.pictures import file, scene

IMAGE = file(scene(20, 30, 1), "PNG")

Allowing = Callable[[int], Allowlist]
"""Where images are fetched, given the server's port."""
Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Answers a request, of which it is given the head."""


def reply(body: bytes = IMAGE, kind: str = "image/png", status: str = "200 OK", **headers: str) -> Handler:
    lines = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"

    async def handle(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head.encode() + body)

    return handle


def redirect(location: str) -> Handler:
    """To a URL in which PORT stands for the server's."""

    async def handle(head: bytes, writer: asyncio.StreamWriter) -> None:
        port = re.findall(rb"^Host: [^\r]*:(\d+)\r$", head, re.MULTILINE | re.IGNORECASE)[0].decode()
        await reply(b"", status="302 Found", Location=location.replace("PORT", port))(head, writer)

    return handle


async def drip(_: bytes, writer: asyncio.StreamWriter) -> None:
    """A byte now and then, for ever, so that no single read takes long."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.2)


async def flood(_: bytes, writer: asyncio.StreamWriter) -> None:
    """As much as is taken, without saying how much."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 2**20)
        await writer.drain()


async def silence(_: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)
    writer.close()


@dataclass
class World:
    """Servers, names for their addresses, and what was asked of them."""

    names: Mapping[str, Sequence[str]]
    port: int = 0
    resolved: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    """The addresses that connections came to."""

    async def resolve(self, host: str, _: int) -> Sequence[str]:
        self.resolved.append(host)
        if host[:4] == "127." and host not in self.names:
            return [host]
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return self.names[host]


def run(
    url: str,
    routes: Mapping[str, Handler],
    allowed: Allowing,
    names: Mapping[str, Sequence[str]] | None = None,
    fetches: int = 1,
) -> tuple[bytes | str, World]:
    """Fetch a URL, in which PORT stands for the server's; returns the body or the refusal."""
    world = World(names or {})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        world.heads.append(head.decode())
        world.reached.append(writer.get_extra_info("sockname")[0])
        try:
            path = head.split()[1].decode()
            await routes[path](head, writer)
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def use() -> bytes | str:
        server = await asyncio.start_server(serve, "0.0.0.0", 0)
        world.port = server.sockets[0].getsockname()[1]
        fetcher = Fetcher(allowed(world.port), world.resolve)
        found: bytes | str = ""
        try:
            for _ in range(fetches):
                found = await fetcher.fetch(url.replace("PORT", str(world.port)), "input[0].image")
        except InvalidRequest as exc:
            found = exc.message.removeprefix("input[0].image cannot be fetched: ")
        finally:
            await fetcher.close()
            server.close()
        return found

    return asyncio.run(use()), world


class LoopbackIsPublic(Allowlist):
    """Loopback addresses stand for public ones."""

    def rule(self, host: str, port: int) -> AddressRule | None:
        found = Allowlist.rule(self, host, port)
        return None if found is None else PublicLoopback(found.networks)


class PublicLoopback(AddressRule):
    def is_public(self, address: Address) -> bool:
        return address.is_loopback or is_global(address)


def listed(*entries: str, kind: type[Allowlist] = Allowlist) -> Allowing:
    """A list of hosts, in which PORT stands for the server's."""
    return lambda port: kind.parse(entry.replace("PORT", str(port)) for entry in entries)


HOSTS = ("127.0.0.0/8:PORT", "here.example:PORT=127.0.0.0/8", "*.here.example:PORT=127.0.0.0/8")
LOOPBACK = listed(*HOSTS)
"""As an operator would allow an image host in a network of his own."""
PUBLIC = listed(*HOSTS, kind=LoopbackIsPublic)
INSIDE = "the server, which has a private address, returned no image"


def anybody(_: int) -> Allowlist:
    return Allowlist(any_public=True)


def test_image_is_fetched() -> None:
    found, world = run("http://127.0.0.1:PORT/a", {"/a": reply()}, LOOPBACK)
    assert found == IMAGE
    (head,) = world.heads
    assert "accept-encoding: identity" in head.lower()


def test_name_is_resolved_once_and_the_checked_address_is_used() -> None:
    found, world = run("http://here.example:PORT/a", {"/a": reply()}, LOOPBACK, {"here.example": ["127.0.0.5"]})
    assert found == IMAGE
    assert (world.resolved, world.reached) == (["here.example"], ["127.0.0.5"])
    assert f"Host: here.example:{world.port}" in world.heads[0]


def test_rebound_name_is_checked_at_its_new_address_too() -> None:
    """A name that meant an allowed address the first time, and another the second."""

    class Rebinding(Mapping[str, Sequence[str]]):
        answers = iter((["127.0.0.5"], ["10.0.0.1"], ["127.0.0.5"]))

        def __getitem__(self, _: str) -> Sequence[str]:
            return next(self.answers, ["10.0.0.1"])

        def __iter__(self) -> Iterator[str]:
            return iter(())

        def __len__(self) -> int:
            return 1

        def __contains__(self, _: object) -> bool:
            return True

    routes = {"/a": redirect("http://here.example:PORT/b"), "/b": reply()}
    found, world = run("http://here.example:PORT/a", routes, PUBLIC, Rebinding())
    assert found == "the host has no address that this server may fetch from"
    assert world.reached == ["127.0.0.5"]


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["127.0.0.1", "1.1.1.1"], ["::ffff:127.0.0.1"], ["fe80::1%eth0"], []],
)
def test_name_of_which_any_address_is_not_public_is_refused(addresses: list[str]) -> None:
    routes = {"/a": reply()}
    found, world = run("http://evil.example/a", routes, anybody, {"evil.example": addresses})
    assert (found, world.reached) == ("the host has no address that this server may fetch from", [])


def test_unknown_name_is_refused_in_the_same_words() -> None:
    found, _ = run("http://nowhere.example/a", {}, anybody)
    assert found == "the host has no address that this server may fetch from"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
    ],
)
def test_every_way_to_write_loopback_is_refused(host: str) -> None:
    """With the system's own resolver."""

    async def use() -> str:
        fetcher = Fetcher(Allowlist(any_public=True))
        try:
            with pytest.raises(InvalidRequest) as caught:
                await fetcher.fetch(f"http://{host}/a", "image")
        finally:
            await fetcher.close()
        return caught.value.message

    assert asyncio.run(use()).endswith("the host has no address that this server may fetch from")


@pytest.mark.parametrize(
    ("location", "refusal"),
    [
        ("http://10.0.0.1/b", "this server does not fetch from this host and port"),
        ("http://169.254.169.254/latest/meta-data", "this server does not fetch from this host and port"),
        ("http://elsewhere.example:PORT/b", "this server does not fetch from this host and port"),
        ("http://private.here.example:PORT/b", "the host has no address that this server may fetch from"),
        ("http://user:secret@127.0.0.1:PORT/b", "the URL must not contain a user name or password"),
        ("file:///etc/passwd", "the URL scheme must be http or https"),
        ("gopher://127.0.0.1:PORT/b", "the URL scheme must be http or https"),
    ],
)
def test_redirect_is_checked_like_the_url_itself(location: str, refusal: str) -> None:
    routes = {"/a": redirect(location), "/b": reply()}
    found, world = run("http://127.0.0.1:PORT/a", routes, PUBLIC, {"private.here.example": ["10.0.0.1"]})
    assert found == refusal
    assert len(world.heads) == 1


async def redirect_and_flood(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Encoding: gzip\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 2**20)
        await writer.drain()


def test_body_of_a_redirect_is_not_read() -> None:
    started = time.monotonic()
    found, _ = run("http://127.0.0.1:PORT/a", {"/a": redirect_and_flood, "/b": reply()}, LOOPBACK)
    assert found == IMAGE
    assert time.monotonic() - started < fetch.TIMEOUT_S


async def crumbs(_: bytes, writer: asyncio.StreamWriter) -> None:
    """A byte at a time, as fast as they are taken."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1\r\nx\r\n" * 1000)
        await writer.drain()


def test_too_many_small_chunks_are_refused() -> None:
    found, _ = run("http://127.0.0.1:PORT/a", {"/a": crumbs}, PUBLIC)
    assert found == "the server sent the file in too many small chunks"


@pytest.mark.parametrize(("hops", "expected"), [(3, IMAGE), (4, "the server redirected more than 3 times")])
def test_three_redirects_are_followed(hops: int, expected: bytes | str) -> None:
    routes = {f"/{i}": redirect(f"/{i + 1}") for i in range(hops)} | {f"/{hops}": reply()}
    assert run("http://127.0.0.1:PORT/0", routes, PUBLIC)[0] == expected


@pytest.mark.parametrize(
    ("handler", "refusal"),
    [
        (reply(status="404 Not Found"), "the server responded with status 404"),
        (reply(status="500 Oops"), "the server responded with status 500"),
        (reply(kind="text/html"), "the content type is not a supported image type"),
        (reply(kind="image/svg+xml"), "the content type is not a supported image type"),
        (reply(kind=""), "the content type is not a supported image type"),
        (reply(Content_Encoding="gzip"), "the response is compressed"),
        (reply(Content_Length=str(len(IMAGE) + 1)), "the server is unreachable or closed the connection"),
        (reply(bytes(MAX_BYTES + 1)), f"the file exceeds {MAX_BYTES} bytes"),
        (flood, f"the file exceeds {MAX_BYTES} bytes"),
    ],
)
def test_response_without_an_image_within_the_limits_is_refused(handler: Handler, refusal: str) -> None:
    assert run("http://127.0.0.1:PORT/a", {"/a": handler}, PUBLIC)[0] == refusal


@pytest.mark.slow  # it waits for as long as is allowed
@pytest.mark.parametrize("handler", [drip, silence])
def test_slow_server_times_out(handler: Handler) -> None:
    started = time.monotonic()
    found, _ = run("http://127.0.0.1:PORT/a", {"/a": handler}, PUBLIC)
    assert found in ("the server took more than 5 s", "the server is unreachable or closed the connection")
    assert time.monotonic() - started < 2 * fetch.TIMEOUT_S


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a b/", "http://127.0.0.1:99999/", "http://" + "a" * 70_000]
)
def test_invalid_url_is_refused(url: str) -> None:
    assert isinstance(run(url, {}, LOOPBACK)[0], str)


def test_cookies_are_not_kept_between_fetches() -> None:
    routes = {"/a": reply(Set_Cookie="session=secret; Path=/")}
    _, world = run("http://127.0.0.1:PORT/a", routes, LOOPBACK, fetches=2)
    assert len(world.heads) == 2
    assert "cookie" not in world.heads[1].lower()


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert run("http://127.0.0.1:PORT/a", {"/a": reply()}, LOOPBACK)[0] == IMAGE


def test_name_with_an_address_that_does_not_answer_is_reached_at_its_next() -> None:
    # Nothing listens on ::1 here, which is listed too.
    allowed = listed("here.example:PORT=127.0.0.0/8", "here.example:PORT=::1")
    found, world = run("http://here.example:PORT/a", {"/a": reply()}, allowed, {"here.example": ["::1", "127.0.0.1"]})
    assert (found, world.reached) == (IMAGE, ["127.0.0.1"])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a",
        *(f"http://127.0.0.1:PORT/{way}" for way in ("missing", "page", "large", "away", "inside")),
    ],
)
def test_errors_of_private_addresses_reveal_nothing(url: str) -> None:
    routes = {
        "/missing": reply(status="404 Not Found"),
        "/page": reply(kind="text/html"),
        "/large": flood,
        "/away": redirect("http://1.1.1.1/"),
        "/inside": redirect("http://127.0.0.1:1/"),
    }
    assert run(url, routes, listed("127.0.0.1:PORT", "127.0.0.1:1"))[0] == INSIDE


@pytest.mark.parametrize("allowed", [listed("127.0.0.1", "here.example=127.0.0.0/8"), anybody])
@pytest.mark.parametrize("host", ["127.0.0.1", "here.example"])
def test_other_ports_than_80_and_443_must_be_listed(allowed: Allowing, host: str) -> None:
    found, world = run(f"http://{host}:PORT/a", {"/a": reply()}, allowed, {"here.example": ["127.0.0.1"]})
    assert (found, world.resolved) == ("this server does not fetch from this host and port", [])


def test_listed_name_does_not_reach_a_network_that_is_listed_for_itself() -> None:
    allowed = listed("here.example:PORT", "127.0.0.0/8:PORT")
    found, world = run("http://here.example:PORT/a", {"/a": reply()}, allowed, {"here.example": ["127.0.0.1"]})
    assert (found, world.reached) == ("the host has no address that this server may fetch from", [])


def test_redirect_from_https_to_http_is_refused() -> None:
    requests = {scheme: httpx2.Request("GET", f"{scheme}://here.example/") for scheme in ("http", "https")}
    with pytest.raises(fetch.RefusedError, match="from https to http"):
        fetch.redirected(requests["https"], requests["http"])
    assert fetch.redirected(requests["http"], requests["https"]) is requests["https"]
