"""What an engine could do at best: the same rows in process, all known beforehand, without a server."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from export.runtime.contract import Row
from export.runtime.engine import Engine

BATCH = 256
"""Rows that are known, and sorted, together."""
PAUSE_S = 0.005
"""Between single rows: about what HTTP and Triton take of a request's time."""
LAYERS, WIDTH, INNER = 6, 384, 1536
"""Of all-MiniLM-L6-v2."""
PRODUCTS_A_TOKEN = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)
"""Of weights, without attention: each a multiplication and an addition."""


def computing(engine: Engine) -> Callable[[Sequence[Row]], object]:
    """Compute rows with Conch's engine: their vectors alone."""
    wanted = [engine.outputs[0].name]
    return lambda rows: engine.run(rows, wanted)


def rows_per_second(compute: Callable[[Sequence[Row]], object], rows: Sequence[Row], seconds: float) -> float:
    """Rows that are computed in a second, when BATCH of them are given at a time."""
    compute(rows[:BATCH])
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        part = [rows[i % len(rows)] for i in range(done, done + BATCH)]
        compute(part)
        done += len(part)
    return done / (time.perf_counter() - started)


def row_ms(compute: Callable[[Sequence[Row]], object], rows: Sequence[Row], seconds: float) -> float:
    """The median milliseconds of a single row, with a pause before each: the engine's threads sleep."""
    compute(rows[:1])
    ended = time.perf_counter() + seconds
    found: list[float] = []
    while not found or time.perf_counter() < ended:
        time.sleep(PAUSE_S)
        started = time.perf_counter()
        compute([rows[len(found) % len(rows)]])
        found.append(1000 * (time.perf_counter() - started))
    return statistics.median(found)


def rows(entry: Path, texts: Sequence[str], limit: int) -> list[Row]:
    """Token ids of texts, by the tokenizer of an entry of the repository."""
    tokenizer = Tokenizer.from_file(str(entry / "tokenizer.json"))
    return [(np.array(encoding.ids[:limit], np.int64),) for encoding in tokenizer.encode_batch(texts)]
