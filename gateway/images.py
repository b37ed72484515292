"""Images as clients send them, in base64 or by URL, to pixels."""

import asyncio
import base64
import binascii
import os
import re
from concurrent.futures import ThreadPoolExecutor

from gateway.addresses import Allowed
from gateway.errors import InvalidRequest
from gateway.fetch import MAX_BYTES, Fetcher
from gateway.pixels import Pixels, Preparation, Reader

DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
"""RFC 2397, section 3."""
URL_SAFE = bytes.maketrans(b"-_", b"+/")
LONGEST_BASE64 = MAX_BYTES * 3 // 2
"""Characters: a third more than the bytes, and room for line breaks."""


class Images:
    """Reads images. Belongs to the event loop it is used in."""

    def __init__(self, max_pixels: int, allowed: Allowed | None) -> None:
        """Start no threads yet.

        Args:
            max_pixels: an image may have, and all that are decoded at a time.
            allowed: where images may be fetched from; None fetches none.
        """
        self._reader = Reader(max_pixels)
        self._fetcher = Fetcher(allowed) if allowed is not None else None
        # Pillow computes without the interpreter's lock. Threads of its own: a slow image must not wait in front of
        # somebody's text.
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="image")

    async def close(self) -> None:
        """Close connections; images that are being read are."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._fetcher is not None:
            await self._fetcher.close()

    async def read(self, image: str, preparation: Preparation, place: str) -> Pixels:
        """The pixels that a tower sees of an image.

        Args:
            image: a data: URI, base64 in either alphabet, or an http(s) URL.
            preparation: of the tower.
            place: what error messages call it, such as "input[3].image".

        Raises:
            InvalidRequest: it is none of these, cannot be fetched, or is not an image within the limits.
        """
        file: str | bytes = image
        if image[:8].lower().startswith(("http://", "https://")):
            if self._fetcher is None:
                raise InvalidRequest(
                    f"{place} is a URL, and this server fetches none: send the image as a data: URI or in base64",
                    param=place,
                )
            file = await self._fetcher.fetch(image, place)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, file, preparation, place)

    def _read(self, file: str | bytes, preparation: Preparation, place: str) -> Pixels:
        content = decode(file, place) if isinstance(file, str) else file
        return self._reader.read(content, preparation, place)


def decode(text: str, place: str) -> bytes:
    """The bytes of a data: URI, or of base64 in the standard or the URL-safe alphabet, padded or not.

    Raises:
        InvalidRequest: it is neither, or over MAX_BYTES.
    """
    head = DATA_URI.match(text[:256])
    if head is not None:
        media_type, parameters = head[1].lower(), head[2].lower()
        if not media_type.startswith("image/") or not parameters.endswith(";base64"):
            raise InvalidRequest(f"{place} is not a data: URI of an image in base64", param=place)
        text = text[head.end() :]
    if len(text) > LONGEST_BASE64:
        raise InvalidRequest(f"{place} is over {MAX_BYTES} bytes", param=place)
    try:
        packed = b"".join(text.encode("ascii").split()).rstrip(b"=").translate(URL_SAFE)
        file = base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        raise InvalidRequest(f"{place} is neither a data: URI, nor an http(s) URL, nor base64", param=place) from exc
    if len(file) > MAX_BYTES:
        raise InvalidRequest(f"{place} is over {MAX_BYTES} bytes", param=place)
    return file
