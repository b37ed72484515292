import itertools
from pathlib import Path
from statistics import median

import msgspec

from loadtest.experiments.bulk import AT_ONCE, BATCHES, RESULTS, Results, Run, measure
from loadtest.reports.bulk import table
from tests.serving import Server

STORED = msgspec.json.decode(RESULTS.read_bytes(), type=Results)


def test_table_shows_medians() -> None:
    runs = [
        Run(batch, at_once, rate, 0.1) for batch, at_once in itertools.product(BATCHES, AT_ONCE) for rate in (1, 90, 7)
    ]
    rows = table(Results({}, runs)).splitlines()
    assert rows[0] == "| texts/s | 1 per request | 16 per request | 64 per request | 256 per request |"
    assert rows[2:] == [f"| {at_once} concurrent | 7 | 7 | 7 | 7 |" for at_once in AT_ONCE]


def test_texts_are_sent(server: Server) -> None:
    run = measure(server.url, 4, 2, ["a text"] * 10)
    assert (run.batch, run.at_once) == (4, 2)
    assert run.texts_per_second > 0


def test_page_shows_what_is_stored() -> None:
    assert table(STORED) in Path("docs/bulk.md").read_text()


def test_client_takes_as_little_as_the_page_says() -> None:
    assert round(median(run.client_cpu_ms for run in STORED.runs if run.batch == 64), 2) == 0.06
    assert "0.06 ms of CPU time per text" in Path("docs/bulk.md").read_text()
