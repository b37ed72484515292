"""Detects requests from web pages of other sites, which a browser lets reach any server on its user's machine."""

import ipaddress
from collections.abc import Mapping, Set
from functools import lru_cache
from urllib.parse import urlsplit

LOCAL = (".localhost", ".local", ".internal")
"""Suffixes of host names that cannot be registered (RFC 6761, RFC 6762, ICANN's resolution 2024.07.29.06)."""


def is_cross_site(headers: Mapping[str, str], origins: Set[str] = frozenset()) -> bool:
    """Whether the headers of a request show that a page of another site sent it.

    Args:
        headers: with names in lower case. `host` reveals DNS rebinding; `origin` and `sec-fetch-site`
            (www.w3.org/TR/fetch-metadata) reveal cross-site requests. Programs send neither of the latter two.
        origins: count as the server's own; "*" for all.
    """
    host = headers.get("host", "")
    if not _is_local(host):
        return True
    if "*" in origins or headers.get("origin") in origins:
        return False
    site = headers.get("sec-fetch-site", "")
    if site in ("same-origin", "none", "cross-site"):
        return site == "cross-site"  # pages cannot forge it; behind a proxy, origin and host may differ
    origin = headers.get("origin", "")
    scheme, _, origin_host = origin.partition("://")
    return origin == "null" or (scheme in ("http", "https") and origin_host != host)


@lru_cache(maxsize=16)
def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if "." not in name or name.endswith(LOCAL):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
