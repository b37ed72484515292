"""The HTTP service on top of Triton, and other servers with the same weights where they are installed, in turns."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from loadtest.experiments.gpu.plan import MIXED, Model, Plan, lengths, source
from loadtest.experiments.gpu.results import LeaveOut, Results, Served, reason
from loadtest.tools import servers
from loadtest.tools.client import BenchmarkError
from loadtest.tools.load import load_with
from loadtest.tools.servers import Server, conch, free_ports
from loadtest.tools.workloads import SEED, Workload, embedding, texts

SECONDS = 8
"""Of one measurement, in times of the plan's seconds: clients over HTTP need longer to settle than an engine."""
TEXTS = 8192
BATCH = 256
BATCH_CLIENTS = 8
TOKENS_PER_WORD = 1.3

OTHERS: Mapping[str, Callable[[Path, str, int], Sequence[str]]] = {
    "text-embeddings-inference": lambda folder, _, port: (
        *("text-embeddings-router", "--model-id", str(folder), "--port", str(port), "--dtype", "float16"),
        *("--max-client-batch-size", str(BATCH), "--max-concurrent-requests", "1024"),
    ),
    "vLLM": lambda folder, name, port: (
        *("vllm", "serve", str(folder), "--runner", "pooling", "--dtype", "float16", "--port", str(port)),
        *("--served-model-name", name, "--gpu-memory-utilization", "0.3"),
    ),
}
"""The command of each, from the folder of a model, its name and a port. Both answer at /v1/embeddings and /health."""
ENVIRONMENT = {"AUTO_TRUNCATE": "true"}
"""Of text-embeddings-inference, some of whose versions take the option with a value and some without."""


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Single texts and batches, from 1 client to many."""
    results.served = []
    model = plan.models[0]
    with _servers(plan, model, leave_out) as started:
        for workload in _workloads(plan, model):
            for number in range(plan.rounds):
                for server in started:
                    found = _served(server, workload, number, SECONDS * plan.seconds)
                    results.served.append(found)
                    print(
                        f"{found.server:26} {found.clients:3} clients, {found.texts_per_request:3} texts per request:"
                        f" {found.texts_per_second:9,.0f} texts/s, p50 {found.median_ms:7.2f} ms,"
                        f" p99 {found.p99_ms:7.2f} ms"
                    )


def _workloads(plan: Plan, model: Model) -> Iterator[Workload]:
    words = np.maximum(1, np.array(lengths(MIXED, TEXTS)) / TOKENS_PER_WORD).astype(np.int64)
    given = texts(np.random.default_rng(SEED), words)
    for clients in plan.clients:
        yield embedding("single texts", clients, given, 1, model.name)
    yield embedding("batches", min(BATCH_CLIENTS, plan.clients[-1]), given, BATCH, model.name)


@contextmanager
def _servers(plan: Plan, model: Model, leave_out: LeaveOut) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        started = [stack.enter_context(conch(plan.repository, plan.folder / "conch.log"))]
        for name, command in OTHERS.items():
            (port,) = free_ports(1)
            arguments = command(source(plan, model), model.name, port)
            if shutil.which(arguments[0]) is None:
                leave_out(name, f"{arguments[0]} is not installed")
                continue
            log = plan.folder / f"{arguments[0]}.log"
            try:
                server = stack.enter_context(servers.run(name, arguments, port, "/health", log, ENVIRONMENT, {}))
            except BenchmarkError as exc:
                leave_out(name, reason(exc))
            else:
                started.append(server)
        yield started


def _served(server: Server, workload: Workload, number: int, seconds: float) -> Served:
    answers, _ = load_with(server, workload, workload.clients, seconds)
    median, p99 = (float(np.percentile(answers.latencies_ms, place)) for place in (50, 99))
    rate = answers.per_second * workload.items
    return Served(server.name, workload.model, workload.items, workload.clients, number, rate, median, p99)
