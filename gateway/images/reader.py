"""Reads images as clients send them, in base64 or by URL."""

from typing import overload

from gateway.board import Board
from gateway.errors import InvalidRequest
from gateway.images.allowlist import Allowlist
from gateway.images.data_uri import MAX_BYTES, MAX_CHARACTERS
from gateway.images.fetch import Fetcher
from gateway.images.pool import DecoderPool
from gateway.images.preparation import Patches, Pixels, Preparation
from gateway.images.processors import AnyProcessor
from gateway.scheduling.turns import Account, Turns

MAX_FETCHES = 16
"""The most images that are being fetched or, once fetched, wait for a decoder. Further URLs wait; the time limit of a
fetch starts only when it does."""
SPARE = 4
"""Fetches in addition to MAX_FETCHES, for keys that have none."""
HEAD_CHARACTERS = 256
"""The longest head of a data: URI."""


class Images:
    """Reads images. Must be used in one event loop."""

    def __init__(self, max_pixels: int, allowlist: Allowlist | None, board: Board | None = None) -> None:
        """Start no decoder process yet.

        Args:
            max_pixels: the limit for one image, and for all large images decoded concurrently.
            allowlist: where images may be fetched from; None to fetch none.
            board: shared with other workers, which have the same limits together.
        """
        workers = board.workers if board else 1
        self._decoders = DecoderPool(max_pixels, board)
        self._fetcher = Fetcher(allowlist) if allowlist is not None else None
        self._fetching = Turns(max(1, MAX_FETCHES // workers), SPARE)

    async def close(self) -> None:
        await self._decoders.close()
        if self._fetcher is not None:
            await self._fetcher.close()

    @overload
    async def read(self, image: str, preparation: Preparation, place: str, account: Account) -> Pixels: ...

    @overload
    async def read(self, image: str, preparation: AnyProcessor, place: str, account: Account) -> Patches: ...

    async def read(
        self, image: str, preparation: Preparation | AnyProcessor, place: str, account: Account
    ) -> Pixels | Patches:
        """Fetch or decode an image, and preprocess it.

        Args:
            image: a data: URI, base64 in either alphabet, or an http(s) URL.
            preparation: the model's image processor.
            place: the field for error messages, such as "input[3].image".
            account: whose turns are used, and who is charged for the CPU time.

        Returns:
            The model's input: UINT8 [3, H, W], or patches.

        Raises:
            InvalidRequest: it is none of these, cannot be fetched, or is not an image within the limits.
            Overloaded: the patches of all images in flight reach their limit.
        """
        if not image[:8].lower().startswith(("http://", "https://")):
            if len(image) > MAX_CHARACTERS + HEAD_CHARACTERS:
                raise InvalidRequest(f"{place} exceeds {MAX_BYTES} bytes", param=place)
            return await self._decoders.read(image, preparation, place, account)
        if self._fetcher is None:
            raise InvalidRequest(
                f"{place} is a URL, but this server does not fetch images; send a data: URI or base64", param=place
            )
        async with self._fetching.take(account.key):
            content = await self._fetcher.fetch(image, place)
            return await self._decoders.read(content, preparation, place, account)
