"""What the engine could do at best: the same rows in process, all known beforehand, without a server."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from export.runtime.contract import Row
from export.runtime.engine import Engine

BATCH = 256
"""Rows that are sorted and packed together."""
LAYERS, WIDTH, INNER = 6, 384, 1536
"""Of all-MiniLM-L6-v2."""
PRODUCTS_A_TOKEN = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)
"""Of weights, without attention: each a multiplication and an addition."""


def rows_per_second(engine: Engine, rows: Sequence[Row], seconds: float) -> float:
    """Rows that the engine computes in a second, best batching."""
    wanted = [engine.outputs[0].name]
    engine.run(rows[:BATCH], wanted)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        part = [rows[i % len(rows)] for i in range(done, done + BATCH)]
        engine.run(part, wanted)
        done += len(part)
    return done / (time.perf_counter() - started)


def rows(entry: Path, texts: Sequence[str], limit: int) -> list[Row]:
    """Token ids of texts, by the tokenizer of an entry of the repository."""
    tokenizer = Tokenizer.from_file(str(entry / "tokenizer.json"))
    return [(np.array(encoding.ids[:limit], np.int64),) for encoding in tokenizer.encode_batch(texts)]
