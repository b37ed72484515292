"""Decodes data: URIs and base64 in all its variants."""

import base64
import binascii
import re

from gateway.errors import InvalidRequest

MAX_BYTES = 10 * 2**20
"""The largest image file, whether sent or fetched."""
MAX_CHARACTERS = MAX_BYTES * 3 // 2
"""The longest base64 of an image file: a third more than MAX_BYTES, and room for line breaks."""
DATA_URI = re.compile(rb"\s*data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
"""The head of a data: URI (RFC 2397, section 3), which may contain spaces."""
URL_SAFE = bytes.maketrans(b"-_", b"+/")
SPACE = b" \t\n\r\v\f"


def decode(text: bytes, place: str) -> bytes:
    """The bytes of a data: URI, or of base64 in the standard or the URL-safe alphabet, with or without padding.

    Args:
        text: in UTF-8, at most MAX_CHARACTERS plus the head of a data: URI.
        place: the field for error messages, such as "input[3].image".

    Raises:
        InvalidRequest: the text is neither, or decodes to more than MAX_BYTES.
    """
    head = DATA_URI.match(text[:256])
    if head is not None:
        media_type, parameters = (part.lower().translate(None, SPACE) for part in head.groups())
        if not media_type.startswith(b"image/") or not parameters.endswith(b";base64"):
            raise InvalidRequest(f"{place} is a data: URI, but not of an image in base64", param=place)
        text = text[head.end() :]
    text = text.translate(URL_SAFE, SPACE).rstrip(b"=")
    try:
        file = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as exc:
        raise InvalidRequest(f"{place} must be a data: URI, an http(s) URL or base64", param=place) from exc
    if len(file) > MAX_BYTES:
        raise InvalidRequest(f"{place} exceeds {MAX_BYTES} bytes", param=place)
    return file
