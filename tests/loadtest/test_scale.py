from pathlib import Path

import msgspec

from loadtest.scale import RESULTS, Phase, Results, address, table

STORED = msgspec.json.decode(RESULTS.read_bytes(), type=Results)


def test_each_triton_has_an_address_of_its_own_on_loopback() -> None:
    addresses = {address(number) for number in range(1, 5)}
    assert len(addresses) == 4
    assert all(one.startswith("127.") for one in addresses)


def test_table_has_a_row_a_phase() -> None:
    found = table(Results({}, [Phase("three", {"1": 0.25, "2": 0.75}, 1200, 3, 80)], 0.12))
    assert "| three | 1,200 | 3 | 80 ms | 25%, 75% |" in found
    assert "0.1 s after its address" in found


def test_page_shows_what_is_stored() -> None:
    assert table(STORED) in Path("docs/kubernetes.md").read_text()
