"""Times engines that run in this process, in turns, so that a slow moment of the machine affects all of them."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from export.runtime.contract import Row
from loadtest.experiments.gpu.plan import Model, Plan, rows
from loadtest.experiments.gpu.results import Latency, Throughput

SEVERAL = 4
"""Batches of different rows that are given in turns."""
WARM_UP = 20
"""Single texts before latency is measured."""


class Engine(Protocol):
    """Computes rows: vectors [N, width] in the memory of the host, in the order given."""

    name: str

    def run(self, given: Sequence[Row], /) -> NDArray[np.float32]: ...


def throughput(plan: Plan, model: Model, engines: Sequence[Engine], kind: int | str, batch: int) -> list[Throughput]:
    """Each engine with batches of texts of one kind."""
    given = rows(plan.entry(model), kind, SEVERAL * batch)
    batches = [given[first : first + batch] for first in range(0, len(given), batch)]
    for engine in engines:
        for one in batches:  # kernels are chosen, and graphs recorded, for each shape
            engine.run(one)
    found: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(plan.rounds):
        for engine in engines:
            found[engine.name].append(_per_second(engine, batches, plan.seconds))
    tokens = sum(len(ids) for (ids,) in given) / len(given)
    return [Throughput(model.name, name, str(kind), batch, tokens, rates) for name, rates in found.items()]


def _per_second(engine: Engine, batches: Sequence[Sequence[Row]], seconds: float) -> float:
    started, done, texts = time.perf_counter(), 0, 0
    while time.perf_counter() - started < seconds:
        batch = batches[done % len(batches)]
        engine.run(batch)
        done, texts = done + 1, texts + len(batch)
    return texts / (time.perf_counter() - started)


def latency(plan: Plan, model: Model, engine: Engine, tokens: int) -> Latency:
    """The time of one text after the other."""
    given = rows(plan.entry(model), tokens, WARM_UP + plan.singles)
    for row in given[:WARM_UP]:
        engine.run([row])
    times = [milliseconds(lambda row=row: engine.run([row])) for row in given[WARM_UP:]]  # type: ignore[misc]
    median, p99 = (float(np.percentile(times, place)) for place in (50, 99))
    return Latency(model.name, engine.name, tokens, median, p99)


def milliseconds(call: Callable[[], object]) -> float:
    """The time of a call."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
