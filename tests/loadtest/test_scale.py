import asyncio
import time
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from embedded.triton import Ports
from loadtest import scale
from loadtest.client import BenchmarkError
from loadtest.scale import RESULTS, Phase, Pod, Results, address, phase, table, wait_for_call
from loadtest.steady import Tally

STORED = msgspec.json.decode(RESULTS.read_bytes(), type=Results)


def test_each_triton_has_an_address_of_its_own_on_loopback() -> None:
    addresses = {address(number) for number in range(1, 5)}
    assert len(addresses) == 4
    assert all(one.startswith("127.") for one in addresses)


def test_table_has_a_row_a_phase() -> None:
    found = table(Results({}, [Phase("three", {"1": 0.25, "2": 0.75}, 1200, 3, 80)], 0.12))
    assert "| three | 1,200 | 3 | 80 ms | 25%, 75% |" in found
    assert "0.1 s after its address" in found


def test_counting_does_not_halt_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*_: object, **__: object) -> dict[str, float]:
        time.sleep(0.2)
        return {"rows": 1.0}

    monkeypatch.setattr(scale, "counted", slowly)
    monkeypatch.setattr(scale, "PHASE_S", 0.01)
    turns = 0

    async def look() -> None:
        nonlocal turns
        looking = asyncio.create_task(phase("", {1: Pod(1, Mock(), Ports(1, 2, 3))}, Tally()))
        while not looking.done():
            turns += 1
            await asyncio.sleep(0.01)

    asyncio.run(look())
    assert turns > 10


def test_call_that_does_not_come_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "counted", lambda *_, **__: {"rows": 7.0})
    monkeypatch.setattr(scale, "START_S", 0.1)
    wait_for_call(Pod(4, Mock(), Ports(1, 2, 3)), 6)
    with pytest.raises(BenchmarkError, match=r"127\.0\.0\.14 .* no call"):
        wait_for_call(Pod(4, Mock(), Ports(1, 2, 3)), 7)


def test_page_shows_what_is_stored() -> None:
    assert table(STORED) in Path("docs/kubernetes.md").read_text()
