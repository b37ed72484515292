"""The engine of the torch backend in process, without Triton: throughput, latency, long rows and memory."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from export.plans.measures import cosine_errors
from export.runtime import torch_engine
from export.runtime.contract import Row
from loadtest.experiments.gpu.plan import Model, Plan, rows
from loadtest.experiments.gpu.rates import latency, milliseconds, throughput
from loadtest.experiments.gpu.results import LeaveOut, LongRow, Peak, Results

LATENCY_TOKENS = (16, 128)
SHORT_ROWS = 63
SHORT_TOKENS = 16
REPEATS = 3


class Conch:
    """The program of an entry, compiled if `python -m export.plans` has compiled it."""

    name = "conch"

    def __init__(self, plan: Plan, entry: Path) -> None:
        self.engine = torch_engine.Engine(entry / "1" / "program.pt2", device=plan.device)

    def run(self, given: Sequence[Row]) -> NDArray[np.float32]:
        name = self.engine.outputs[0].name
        return np.asarray(self.engine.run(given, [name])[name], np.float32)


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Measure all models."""
    results.throughput, results.latency, results.long_rows, results.peaks = [], [], [], []
    for model in plan.models:
        engine = Conch(plan, plan.entry(model))
        results.engines[model.name] = engine.engine.description
        print(f"{model.name}: {engine.engine.description}")
        for kind in model.lengths:
            for batch in plan.batches:
                for found in throughput(plan, model, [engine], kind, batch):
                    results.throughput.append(found)
                    print(
                        f"{model.name} {kind:>5} tokens, {batch:4} texts: {max(found.texts_per_second):9,.0f} texts/s"
                    )
        for tokens in LATENCY_TOKENS:
            results.latency.append(latency(plan, model, engine, tokens))
            one = results.latency[-1]
            print(f"{model.name} one text of {tokens} tokens: {one.median_ms:.3f} ms, p99 {one.p99_ms:.3f} ms")
        results.long_rows += _long_rows(plan, model, engine)
        if torch.cuda.is_available():  # pragma: needs a GPU
            engine.engine.prepare(())  # the memory of recorded executions is held beforehand
            results.peaks += [_peak(plan, model, engine, tokens) for tokens in model.long]
    if not torch.cuda.is_available():
        leave_out("memory of long rows", "it is measured on a GPU")


def _long_rows(plan: Plan, model: Model, engine: Conch) -> list[LongRow]:
    """The model's longest row alone, and in the middle of short ones."""
    if not model.long:
        return []
    (row,) = rows(plan.entry(model), model.long[-1], 1)
    short = rows(plan.entry(model), SHORT_TOKENS, SHORT_ROWS)
    middle = len(short) // 2
    alone = engine.run([row])
    found = []
    for batch, place in (([row], 0), ([*short[:middle], row, *short[middle:]], middle)):
        vectors = engine.run(batch)
        if not np.isfinite(vectors).all():
            raise RuntimeError(f"{model.name}: a row of {model.long[-1]} tokens makes vectors that are not finite")
        error = float(cosine_errors(alone, vectors[[place]])[0])
        ms = min(milliseconds(lambda batch=batch: engine.run(batch)) for _ in range(REPEATS))  # type: ignore[misc]
        found.append(LongRow(model.name, model.long[-1], len(batch) - 1, ms, error))
        print(f"{model.name} {model.long[-1]} tokens with {len(batch) - 1} short rows: {ms:.1f} ms, error {error:.1g}")
    return found


def _peak(plan: Plan, model: Model, engine: Conch, tokens: int) -> Peak:  # pragma: needs a GPU
    """The memory of one row, beside what is held before."""
    given = rows(plan.entry(model), tokens, 1)
    engine.run(given)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine.run(given)
    found = Peak(model.name, tokens, (torch.cuda.max_memory_allocated() - before) / 2**20)
    print(f"{model.name} {found.tokens} tokens: {found.mib:.0f} MiB")
    return found
