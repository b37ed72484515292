"""Clients that ask without a pause while something happens to the servers."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

CLIENTS = 4
LOST = 0
"""Takes the place of the status if the connection broke, or there was none."""


@dataclass
class Load:
    """What clients have been answered."""

    statuses: Counter[int] = field(default_factory=Counter)
    latest: list[int] = field(default_factory=list)

    def well(self, answers: int = 50) -> bool:
        """Whether the latest answers are all good."""
        latest = self.latest[-answers:]
        return len(latest) == answers and set(latest) == {200}


@contextmanager
def load(client: httpx2.Client) -> Iterator[Load]:
    """Embed texts from several threads until the end of the block."""
    found, ended = Load(), threading.Event()

    def ask(number: int) -> None:
        count = 0
        while not ended.is_set():
            count += 1
            try:
                status = client.post("/v1/embeddings", json={"input": f"text {count} of client {number}"}).status_code
            except httpx2.TransportError:
                status = LOST
                time.sleep(0.05)
            found.statuses[status] += 1
            found.latest.append(status)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        ended.set()
        for thread in threads:
            thread.join()
