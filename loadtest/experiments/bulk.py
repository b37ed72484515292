"""Texts a second that `python -m bulk` gets embedded, by batch and by requests at a time."""

import argparse
import asyncio
import itertools
import sys
import time

import msgspec
from rich.console import Console

from bulk.client import Endpoint, embed
from bulk.job import Refusal
from loadtest.tools import machine, repository
from loadtest.tools.client import BenchmarkError
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, conch
from loadtest.tools.workloads import EMBEDDING_MODEL, workloads

RESULTS = STORED / "bulk.json"
BATCHES = (1, 16, 64, 256)
AT_ONCE = (1, 2, 4, 8)
TEXTS = 1024
"""The number of texts of 4 to 250 words in each measurement."""
REQUEST = {"truncate": True}

console = Console(highlight=False)


class Run(msgspec.Struct, frozen=True):
    """A measurement of one batch size and concurrency."""

    batch: int
    at_once: int
    texts_per_second: float
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


def main() -> int:
    """Measure and store."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.bulk", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    repository.prepare()
    texts = [text for body in workloads()["mixed-16"].texts for text in body][:TEXTS]
    runs = []
    with conch(repository.REPOSITORY, repository.REPOSITORY.with_name("bulk.log")) as server:
        url = f"http://{HOST}:{server.port}"
        measure(url, 64, 4, texts)  # warm
        for batch, at_once in [*itertools.product(BATCHES, AT_ONCE)] * rounds:
            runs.append(measure(url, batch, at_once, texts))
            console.print(runs[-1])
    store(Results(machine.describe(), runs), RESULTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
