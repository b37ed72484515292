"""Whether a page of another site asks: browsers let any page send requests to a server on its reader's own machine."""

import ipaddress
from collections.abc import Mapping, Set
from functools import lru_cache
from urllib.parse import urlsplit

LOCAL = (".localhost", ".local", ".internal")
"""Ends of names that nobody can register (RFC 6761, RFC 6762, ICANN's resolution 2024.07.29.06)."""


def is_cross_site(headers: Mapping[str, str], origins: Set[str] = frozenset()) -> bool:
    """Tell by the headers of a request, names in lower case.

    Args:
        headers: `host` tells of names that somebody has pointed at this machine (DNS rebinding), `origin` and
            `sec-fetch-site` (www.w3.org/TR/fetch-metadata) of pages that send blindly. Programs send neither of these.
        origins: whose pages are no others; "*" are all.
    """
    host = headers.get("host", "")
    if not _is_local(host):
        return True
    if "*" in origins or headers.get("origin") in origins:
        return False
    site = headers.get("sec-fetch-site", "")
    if site in ("same-origin", "none", "cross-site"):
        return site == "cross-site"  # no page can say otherwise; behind a proxy, origin and host are different names
    origin = headers.get("origin", "")
    scheme, _, place = origin.partition("://")
    return origin == "null" or (scheme in ("http", "https") and place != host)


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
