"""`python -m loadtest.bulk`: texts a second that `python -m bulk` gets embedded, by batch and by requests at a time."""

import argparse
import asyncio
import itertools
import sys
import time
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console

from bulk.client import Endpoint, embed
from bulk.job import Refusal
from loadtest import bench, machine, page
from loadtest.client import BenchmarkError
from loadtest.servers import HOST, conch
from loadtest.workloads import EMBEDDING_MODEL, workloads

RESULTS = Path(__file__).parent / "results" / "bulk.json"
PAGE = Path("docs/bulk.md")
BATCHES = (1, 16, 64, 256)
AT_ONCE = (1, 2, 4, 8)
TEXTS = 1024
"""Of 4 to 250 words, sent in each measurement."""
REQUEST = {"truncate": True}

console = Console(highlight=False)


class Run(msgspec.Struct, frozen=True):
    """The same texts, sent in one way."""

    batch: int
    at_once: int
    texts_a_second: float
    client_cpu_ms: float
    """A text."""


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    runs: list[Run]


def measure(url: str, batch: int, at_once: int, texts: list[str]) -> Run:
    """Send the texts once.

    Raises:
        BenchmarkError: one was refused.
    """
    endpoint = Endpoint(url, EMBEDDING_MODEL, REQUEST, batch, at_once, patience_s=60)
    started, used = time.perf_counter(), time.process_time()
    results = asyncio.run(embed(endpoint, texts))
    seconds, used = time.perf_counter() - started, time.process_time() - used
    for result in results:
        if isinstance(result, Refusal):
            raise BenchmarkError(result.message)
    return Run(batch, at_once, round(len(texts) / seconds, 1), round(1000 * used / len(texts), 3))


def table(results: Results) -> str:
    """Medians: a row for each number of requests at a time, a column for each batch."""
    rates = {
        (batch, at_once): median(
            run.texts_a_second for run in results.runs if (run.batch, run.at_once) == (batch, at_once)
        )
        for batch, at_once in itertools.product(BATCHES, AT_ONCE)
    }
    lines = [
        "| texts a second | " + " | ".join(f"{batch} a request" for batch in BATCHES) + " |",
        "|---|" + "---|" * len(BATCHES),
        *(
            f"| {at_once} at once | " + " | ".join(f"{rates[batch, at_once]:.0f}" for batch in BATCHES) + " |"
            for at_once in AT_ONCE
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, store and publish."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bulk", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    bench.prepare()
    texts = [text for body in workloads()["mixed-16"].texts for text in body][:TEXTS]
    runs = []
    with conch(bench.REPOSITORY, bench.REPOSITORY.with_name("bulk.log")) as server:
        url = f"http://{HOST}:{server.port}"
        measure(url, 64, 4, texts)  # warm
        for batch, at_once in [*itertools.product(BATCHES, AT_ONCE)] * rounds:
            runs.append(measure(url, batch, at_once, texts))
            console.print(runs[-1])
    results = Results(machine.describe(), runs)
    bench.store(results, RESULTS)
    page.fill(PAGE, {"bulk": table(results)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
