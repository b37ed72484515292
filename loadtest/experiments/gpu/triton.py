"""The embedded Triton with the measured entries, driven by perf_analyzer over gRPC."""

import tempfile
from pathlib import Path

from loadtest.experiments.gpu.plan import MIXED, Plan, rows
from loadtest.experiments.gpu.results import LeaveOut, Results
from loadtest.tools.client import BenchmarkError
from loadtest.tools.perf_analyzer import Analyzer
from loadtest.tools.servers import conch

INTERVAL_MS = 1500
TRIALS = 8
STABILITY = 100
"""Percent: a figure that is not quite stable tells more than none."""
TEXTS = 4096
BATCH_TOKENS = 32
BATCH_CLIENTS = 8


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Single texts of mixed length from 1 client to many, then whole batches of texts of one length."""
    results.triton = []
    model, batch = plan.models[0], plan.batches[1]
    with (
        conch(plan.repository, plan.folder / "conch.log") as server,
        tempfile.TemporaryDirectory() as scratch,
    ):
        try:
            analyzer = Analyzer(server, Path(scratch), INTERVAL_MS, TRIALS, STABILITY)
        except BenchmarkError as exc:
            leave_out("Triton by perf_analyzer", str(exc))
            return
        single = rows(plan.entry(model), MIXED, TEXTS)
        for clients in (*plan.clients, 4 * plan.clients[-1]):
            load = ["--concurrency-range", str(clients)]
            found = analyzer.triton("single texts, mixed", single, load, model=model.name)
            results.triton += found
            if not found:
                leave_out(f"Triton with {clients} clients", "perf_analyzer found no stable figure")
        equal = rows(plan.entry(model), BATCH_TOKENS, TEXTS)
        load = ["-b", str(batch), "--concurrency-range", str(BATCH_CLIENTS)]
        name = f"{batch} texts per request, {BATCH_TOKENS} tokens"
        results.triton += analyzer.triton(name, equal, load, model=model.name)
