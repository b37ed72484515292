import asyncio
import logging
import socket
import time
from collections.abc import Sequence

import pytest

from gateway.discovery import LOOKUP_WAIT_S, MAX_ADDRESSES, Servers
from gateway.dns import resolve

NAME = "dns:///triton.example:8001"


class NameServer:
    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.seconds = 0.0
        self.asked = 0

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("triton.example", 8001)
        self.asked += 1
        await asyncio.sleep(self.seconds)
        if not self.addresses:
            raise socket.gaierror
        return self.addresses


def test_fixed_servers_need_no_lookup() -> None:
    assert Servers(["a:1", "b:2", "a:1", NAME]).known() == ["a:1", "b:2"]


def test_every_address_of_a_name_is_a_server() -> None:
    async def use() -> None:
        servers = Servers(["a:1", NAME], NameServer("10.0.0.2", "10.0.0.1", "fd00::1").resolve)
        await servers.refresh()
        assert servers.known() == ["a:1", "10.0.0.1:8001", "10.0.0.2:8001", "[fd00::1]:8001"]

    asyncio.run(use())


def test_servers_come_and_go_with_the_addresses() -> None:
    async def use() -> None:
        names = NameServer("10.0.0.1")
        servers = Servers([NAME], names.resolve)
        await servers.refresh()
        names.addresses = ["10.0.0.2", "10.0.0.3"]
        await servers.refresh()
        assert servers.known() == ["10.0.0.2:8001", "10.0.0.3:8001"]

    asyncio.run(use())


def test_addresses_over_the_limit_are_ignored_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "gateway.discovery")  # whatever other tests have left behind
    addresses = sorted(f"10.0.{i // 250}.{i % 250}" for i in range(MAX_ADDRESSES + 1))

    async def use() -> None:
        names = NameServer(*addresses)
        servers = Servers([NAME], names.resolve)
        await servers.refresh()
        names.addresses = addresses[::-1]
        await servers.refresh()
        assert servers.known() == [f"{address}:8001" for address in addresses[:MAX_ADDRESSES]]

    asyncio.run(use())
    assert [record.getMessage() for record in caplog.records] == [
        f"{NAME} has {MAX_ADDRESSES + 1} addresses; only the first {MAX_ADDRESSES} are used"
    ]


def test_name_without_addresses_keeps_the_previous_ones() -> None:
    async def use() -> None:
        names = NameServer("10.0.0.1")
        servers = Servers([NAME], names.resolve)
        await servers.refresh()
        names.addresses = ()
        await servers.refresh()
        assert servers.known() == ["10.0.0.1:8001"]

    asyncio.run(use())


def test_silent_name_server_is_asked_once_without_blocking() -> None:
    async def use() -> None:
        names = NameServer("10.0.0.1")
        names.seconds = 3 * LOOKUP_WAIT_S
        servers = Servers([NAME], names.resolve)
        began = time.monotonic()
        await servers.refresh()
        await servers.refresh()
        assert time.monotonic() - began < names.seconds
        assert (names.asked, servers.known()) == (1, [])
        await asyncio.sleep(names.seconds)
        assert servers.known() == ["10.0.0.1:8001"]

    asyncio.run(use())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_system_resolver_is_the_default(host: str) -> None:
    assert "127.0.0.1" in asyncio.run(resolve(host, 80))
