"""DNS lookups."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Maps a host name and a port to addresses."""


async def resolve(host: str, port: int) -> list[str]:
    """Look up a host name with the system resolver; addresses are in the order in which to try them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
