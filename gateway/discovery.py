"""Which Triton servers there are: given by address, or by a name whose addresses come and go."""

import asyncio
import logging
from collections.abc import Sequence

from gateway.dns import Resolve, resolve

log = logging.getLogger(__name__)

DNS = "dns:///"
"""Before a name of which every address is a server, as of a headless Service of Kubernetes."""
PATIENCE_S = 0.5
"""For a look. A name server that is silent must not keep anybody from what is known."""
MAX_ADDRESSES = 256
"""Of a name. Each has a connection and is asked each second, whatever a name server thinks of."""


class Servers:
    """Servers, some given by host:port and some as all that a name stands for."""

    def __init__(self, urls: Sequence[str], resolve: Resolve = resolve) -> None:
        """Begin with those that are given.

        Args:
            urls: host:port of a server, or dns:///name:port.
            resolve: how names are looked up.
        """
        self._known: dict[str, tuple[str, ...]] = {url: () if url.startswith(DNS) else (url,) for url in urls}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._crowded: set[str] = set()
        """Those that have had more addresses than are taken, which is said once."""
        self._resolve = resolve

    def known(self) -> list[str]:
        """host:port of each, once."""
        return list(dict.fromkeys(server for servers in self._known.values() for server in servers))

    async def look(self) -> None:
        """Look all names up. One that has no address now, or cannot be looked up, keeps those that it had."""
        for url in self._known:
            if url.startswith(DNS) and url not in self._lookups:
                self._lookups[url] = asyncio.create_task(self._look_up(url))
        if self._lookups:
            await asyncio.wait(self._lookups.values(), timeout=PATIENCE_S)

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
