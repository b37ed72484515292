import asyncio
import base64

import pytest
from PIL.Image import Resampling

from gateway.errors import InvalidRequest
from gateway.images.allowlist import Allowlist
from gateway.images.data_uri import MAX_CHARACTERS
from gateway.images.preparation import Preparation
from gateway.images.reader import MAX_FETCHES, Images
from gateway.scheduling.turns import Account
from loadtest.tools.pictures import file, scene

CONTENT = file(scene(20, 30, 1), "PNG")
PREPARATION = Preparation(8, 9, (8, 9), Resampling.BILINEAR)
STANDARD = base64.b64encode(CONTENT).decode()


def read(text: str) -> tuple[int, ...]:
    async def run() -> tuple[int, ...]:
        images = Images(10**6, None)
        try:
            return (await images.read(text, PREPARATION, "image", Account())).shape
        finally:
            await images.close()

    return asyncio.run(run())


def test_file_becomes_pixels() -> None:
    assert read(STANDARD) == (3, 8, 9)


@pytest.mark.parametrize("url", ["http://example.com/a.png", "HTTPS://example.com/a.png"])
def test_url_is_refused_where_none_is_fetched(url: str) -> None:
    with pytest.raises(InvalidRequest, match="is a URL, but this server does not fetch images"):
        read(url)


def test_text_that_is_far_too_long_is_not_even_decoded() -> None:
    with pytest.raises(InvalidRequest, match=r"^image exceeds 10485760 bytes$"):
        read("A" * (MAX_CHARACTERS + 257))


def test_no_more_files_are_fetched_than_may_wait_for_a_decoder() -> None:
    now = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        await reader.readuntil(b"\r\n\r\n")
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.1)
        now -= 1
        head = f"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
        writer.write(head.encode() + CONTENT)
        await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        images = Images(10**6, Allowlist.parse([url.removeprefix("http://").rstrip("/")]))
        try:
            await asyncio.gather(
                *(images.read(url, PREPARATION, f"image {i}", Account()) for i in range(2 * MAX_FETCHES))
            )
        finally:
            await images.close()
            server.close()

    asyncio.run(run())
    assert most == MAX_FETCHES
