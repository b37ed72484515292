"""Escapes of half a surrogate pair in JSON: parsers refuse them, though some clients send them."""

import re

SURROGATE = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
"""The first and the second half of a pair."""
ESCAPE = re.compile(rb"(?P<pair>%s%s)|(?P<lone>%s|%s)|\\." % (*SURROGATE, *SURROGATE), re.DOTALL)


def without_lone_surrogates(piece: bytes | bytearray) -> bytes | bytearray:
    """The same JSON, with U+FFFD for each half without the other."""
    return ESCAPE.sub(lambda found: rb"\ufffd" if found["lone"] else found[0], piece)
