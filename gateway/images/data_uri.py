"""Files in text: data: URIs, and base64 in all its spellings."""

import base64
import binascii
import re

from gateway.errors import InvalidRequest

MAX_BYTES = 10 * 2**20
"""Of an image's file, however it comes."""
MAX_CHARACTERS = MAX_BYTES * 3 // 2
"""Of it in text: a third more than the bytes, and room for line breaks."""
DATA_URI = re.compile(rb"\s*data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
"""RFC 2397, section 3, with blanks as people leave them."""
URL_SAFE = bytes.maketrans(b"-_", b"+/")
SPACE = b" \t\n\r\v\f"


def decode(text: bytes, place: str) -> bytes:
    """The bytes of a data: URI, or of base64 in the standard or the URL-safe alphabet, padded or not.

    Args:
        text: in UTF-8, at most MAX_CHARACTERS and the head of a data: URI.
        place: what error messages call it, such as "input[3].image".

    Raises:
        InvalidRequest: it is neither, or over MAX_BYTES.
    """
    head = DATA_URI.match(text[:256])
    if head is not None:
        media_type, parameters = (part.lower().translate(None, SPACE) for part in head.groups())
        if not media_type.startswith(b"image/") or not parameters.endswith(b";base64"):
            raise InvalidRequest(f"{place} is not a data: URI of an image in base64", param=place)
        text = text[head.end() :]
    text = text.translate(URL_SAFE, SPACE).rstrip(b"=")
    try:
        file = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise InvalidRequest(f"{place} is neither a data: URI, nor an http(s) URL, nor base64", param=place) from exc
    if len(file) > MAX_BYTES:
        raise InvalidRequest(f"{place} is over {MAX_BYTES} bytes", param=place)
    return file
