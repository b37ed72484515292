"""Measures how many tokens and rows a torch program should compute at once on its device."""

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch

from export.runtime.contract import Row
from export.runtime.execution import SHARE, Execution
from export.runtime.torch_engine import GRAPH_TOKENS, Engine

TOKENS = (2048, 4096, 8192, 16384, 32768, 65536)
CPU_TOKENS = (256, 512, 1024, 2048)
"""More outgrow a CPU's caches."""
ROWS = (128, 256, 512, 1024, 2048)
USUAL_TOKENS = 512
"""Rows that tokens are measured with are no longer: most texts are not."""
GAIN = 1.03
"""More at once must be faster by this factor, since it also waits longer and takes more memory."""
ROUNDS = 3


def sweep(engine: Engine, rows: Sequence[Row], tokens: Sequence[int] = (), numbers: Sequence[int] = ROWS) -> Execution:
    """Find the limits of a pack, and leave the engine with them.

    Args:
        engine: on the device that will serve.
        rows: some rows of the model, of several lengths.
        tokens: to try, ascending; by default those that fit the device.
        numbers: of rows, to try.
    """
    by_cost = sorted(rows, key=engine.cost)
    usual = [row for row in by_cost if engine.cost(row) <= USUAL_TOKENS] or by_cost[:1]
    engine.execution = Execution(rows=numbers[-1])
    tokens = tokens or (TOKENS if engine.device.type == "cuda" else CPU_TOKENS)
    per_token = _bytes_per_token(engine, usual)
    room = [each for each in tokens if each * per_token * SHARE <= _free(engine)] or tokens[:1]
    found = _fastest(engine, usual, [replace(engine.execution, tokens=each) for each in room])
    found = _fastest(engine, by_cost[:1], [replace(found, rows=each) for each in numbers])
    engine.execution = replace(found, bytes_per_token=per_token)
    return engine.execution


def _fastest(engine: Engine, rows: Sequence[Row], limits: Sequence[Execution]) -> Execution:
    """The first limits that no later ones are faster than."""
    best, time_best = limits[0], float("inf")
    for one in limits:
        engine.execution = one
        seconds = _seconds_per_row(engine, rows)
        if seconds * GAIN < time_best:
            best, time_best = one, seconds
    return best


def _seconds_per_row(engine: Engine, rows: Sequence[Row]) -> float:
    batch, wanted = _batch(engine, rows, engine.execution.tokens), _main(engine)
    engine.run(batch, wanted)  # memory is taken, and kernels are loaded

    def once() -> float:
        start = time.perf_counter()
        engine.run(batch, wanted)
        return time.perf_counter() - start

    return min(once() for _ in range(ROUNDS)) / len(batch)


def _main(engine: Engine) -> list[str]:
    """The output that is asked for most."""
    return [engine.outputs[0].name]


def _batch(engine: Engine, rows: Sequence[Row], tokens: int) -> list[Row]:
    """Rows, over and over, of so many tokens together."""
    mean = sum(map(engine.cost, rows)) / len(rows)
    return list(islice(cycle(rows), max(1, int(tokens / mean))))


def _free(engine: Engine) -> int:
    if engine.device.type == "cpu":
        return 1 << 62
    return torch.cuda.mem_get_info(engine.device)[0]  # pragma: needs a GPU


def _bytes_per_token(engine: Engine, rows: Sequence[Row]) -> int:
    """Memory that a pack takes while it is computed; 0 where it is not measured."""
    if engine.device.type == "cpu":
        return 0
    batch = _batch(engine, rows, GRAPH_TOKENS[-1] * 5 // 4)  # pragma: needs a GPU
    engine.run(batch, _main(engine))  # pragma: needs a GPU
    torch.cuda.reset_peak_memory_stats(engine.device)  # pragma: needs a GPU
    before = torch.cuda.memory_allocated(engine.device)  # pragma: needs a GPU
    engine.run(batch, _main(engine))  # pragma: needs a GPU
    peak = torch.cuda.max_memory_allocated(engine.device)  # pragma: needs a GPU
    return max(1, (peak - before) // max(1, sum(map(engine.cost, batch))))  # pragma: needs a GPU
