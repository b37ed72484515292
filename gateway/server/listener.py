"""Accepts connections from sockets that all workers share.

There is one listening socket for all, not one per worker (SO_REUSEPORT): with these, the kernel gives each connection
to a worker by a hash, also to one that hangs, has died, or has more connections than the others. From a shared socket,
any worker that is well takes the next connection. One that has more connections than another lets that one go first.
"""

import asyncio
import errno
import logging
import math
import socket
from collections.abc import Callable, Sequence

from gateway.board import Board

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that may wait to be accepted; at most the kernel's net.core.somaxconn."""
NOT_HERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""Errors of an address that a name has and this machine has not, as `localhost` without IPv6."""
YIELD_S = 0.002
"""How long a worker leaves a new connection to the one with the fewest, for each that it has more."""
MAX_YIELDS = 10
RETRY_S = 1.0
"""How long to wait if the process has no file descriptor left."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host that this machine has. Child processes may inherit the sockets.

    Raises:
        OSError: the host is unknown or none of its addresses is here, or the port is taken.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening, problem = [], OSError(f"{host} has no address")
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            listening.append(_listen(socket.socket(family, kind, protocol), address))
        except OSError as exc:
            if exc.errno not in NOT_HERE:
                raise
            problem = exc
    if not listening:
        raise problem
    return listening


def _listen(one: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(BACKLOG)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


class Listener:
    """One worker's share in the listening sockets. Must be used in one event loop."""

    def __init__(self, sockets: Sequence[socket.socket], board: Board) -> None:
        """Accept nothing yet."""
        self._sockets = sockets
        self._board = board
        self._row = board.row("connections")
        self._tasks: set[asyncio.Task[object]] = set()
        self._timers: dict[socket.socket, asyncio.TimerHandle] = {}
        self._servers: list[asyncio.Server] = []
        self.is_open = False

    async def open(self, protocol: Callable[[], asyncio.Protocol], count: Callable[[], int]) -> None:
        """Begin to accept connections.

        Args:
            protocol: makes the protocol of a connection.
            count: the number of connections that this worker has.
        """
        self.is_open = True
        self._protocol = protocol
        self._count = count
        self.update()
        for one in self._sockets:
            if self._board.workers == 1:  # there is nobody to leave a connection to; this saves 0.06 ms for each
                loop = asyncio.get_running_loop()
                self._servers.append(await loop.create_server(protocol, sock=one, backlog=BACKLOG))
            else:
                self._wait(one)

    def close(self) -> None:
        """Accept no more. Other workers may go on; if there are none, the port is closed."""
        if not self.is_open:
            return
        self.is_open = False
        self._board.own[self._row] = math.nan  # no other worker leaves connections to this one any more
        for server in self._servers:
            server.close()
        for timer in self._timers.values():
            timer.cancel()
        for one in self._sockets:
            if not self._servers:
                asyncio.get_running_loop().remove_reader(one)
            one.close()

    def update(self) -> int:
        """Tell the other workers how many connections this one has."""
        count = self._count() + len(self._tasks)
        self._board.own[self._row] = count
        return count

    def _more(self) -> int:
        """How many connections this worker has more than the one with the fewest."""
        return self.update() - round(min(self._board.values(self._row)))

    def _wait(self, one: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(one, self._arrived, one)

    def _arrived(self, one: socket.socket) -> None:
        if more := self._more():
            self._pause(one, min(more, MAX_YIELDS) * YIELD_S)
        else:
            self._accept(one)

    def _pause(self, one: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(one)
        self._timers[one] = loop.call_later(seconds, self._go_on, one)

    def _go_on(self, one: socket.socket) -> None:
        """Take what the others have left: half as many at once as this worker has more than another, because a worker
        that hangs takes none, and those behind must not wait for each other."""
        self._wait(one)
        for _ in range(max(1, self._more() // 2)):
            if not self._accept(one):
                break

    def _accept(self, one: socket.socket) -> bool:
        """Whether there was a connection to accept."""
        try:
            connection, _ = one.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another worker was faster, or the client has gone
        except OSError as exc:
            log.warning("cannot accept connections: %s", exc)
            self._pause(one, RETRY_S)
            return False
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True
