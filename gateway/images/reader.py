"""Images as clients send them, in base64 or by URL, to pixels."""

from gateway.errors import InvalidRequest
from gateway.images.allowlist import Allowed
from gateway.images.data_uri import MAX_BYTES, MAX_CHARACTERS
from gateway.images.fetch import Fetcher
from gateway.images.pool import Decoders, Pixels
from gateway.images.preparation import Preparation
from gateway.scheduling.turns import Account, Turns

FETCHED = 16
"""Files that are fetched or wait for a decoder; for others, URLs wait, and their time does not count yet."""
SPARE = 4
"""More of them, for keys that have none."""
HEAD_CHARACTERS = 256
"""Of a data: URI, beside the file."""


class Images:
    """Reads images. Belongs to the event loop it is used in."""

    def __init__(self, max_pixels: int, allowed: Allowed | None) -> None:
        """Start no decoder yet.

        Args:
            max_pixels: an image may have, and all large ones that are decoded at a time.
            allowed: where images may be fetched from; None fetches none.
        """
        self._decoders = Decoders(max_pixels)
        self._fetcher = Fetcher(allowed) if allowed is not None else None
        self._fetching = Turns(FETCHED, SPARE)

    async def close(self) -> None:
        """Close connections and end processes."""
        await self._decoders.close()
        if self._fetcher is not None:
            await self._fetcher.close()

    async def read(self, image: str, preparation: Preparation, place: str, account: Account) -> Pixels:
        """The pixels that a model sees of an image.

        Args:
            image: a data: URI, base64 in either alphabet, or an http(s) URL.
            preparation: of the model.
            place: what error messages call it, such as "input[3].image".
            account: whose turns it takes, and who is charged.

        Raises:
            InvalidRequest: it is none of these, cannot be fetched, or is not an image within the limits.
        """
        if not image[:8].lower().startswith(("http://", "https://")):
            if len(image) > MAX_CHARACTERS + HEAD_CHARACTERS:
                raise InvalidRequest(f"{place} is over {MAX_BYTES} bytes", param=place)
            return await self._decoders.read(image, preparation, place, account)
        if self._fetcher is None:
            raise InvalidRequest(
                f"{place} is a URL, and this server fetches none: send the image as a data: URI or in base64",
                param=place,
            )
        async with self._fetching.take(account.key):
            content = await self._fetcher.fetch(image, place)
            return await self._decoders.read(content, preparation, place, account)
