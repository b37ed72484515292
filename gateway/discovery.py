"""Discovery of Triton servers, by fixed address or by a DNS name whose addresses change."""

import asyncio
import logging
from collections.abc import Sequence

from gateway.dns import Resolve, resolve

log = logging.getLogger(__name__)

DNS = "dns:///"
"""Prefix of a name each of whose addresses is a server, such as a headless Kubernetes Service."""
LOOKUP_WAIT_S = 0.5
"""Maximum time to wait for DNS. A silent name server must not delay the use of known servers."""
MAX_ADDRESSES = 256
"""Maximum number of addresses used for one name: each has a connection and a health check per second."""


class Servers:
    """The current addresses of all servers."""

    def __init__(self, urls: Sequence[str], resolve: Resolve = resolve) -> None:
        """Start with the fixed addresses.

        Args:
            urls: host:port of a server, or dns:///name:port.
            resolve: looks up host names.
        """
        self._known: dict[str, tuple[str, ...]] = {url: () if url.startswith(DNS) else (url,) for url in urls}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._crowded: set[str] = set()
        """URLs already reported for having more than MAX_ADDRESSES."""
        self._resolve = resolve

    def known(self) -> list[str]:
        """host:port of each server, without duplicates."""
        return list(dict.fromkeys(server for servers in self._known.values() for server in servers))

    async def refresh(self) -> None:
        """Look up all names. A name that has no addresses, or whose lookup fails, keeps its previous ones."""
        for url in self._known:
            if url.startswith(DNS) and url not in self._lookups:
                self._lookups[url] = asyncio.create_task(self._look_up(url))
        if self._lookups:
            await asyncio.wait(self._lookups.values(), timeout=LOOKUP_WAIT_S)

    async def _look_up(self, url: str) -> None:
        host, _, port = url.removeprefix(DNS).rpartition(":")
        try:
            found = await self._resolve(host, int(port))
        except OSError:
            found = []
        finally:
            del self._lookups[url]
        if len(found) > MAX_ADDRESSES and url not in self._crowded:
            self._crowded.add(url)
            log.warning("%s has %d addresses; only the first %d are used", url, len(found), MAX_ADDRESSES)
        if found:
            taken = sorted(found)[:MAX_ADDRESSES]
            self._known[url] = tuple(f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in taken)
