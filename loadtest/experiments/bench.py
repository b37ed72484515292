"""`make bench`: Conch and infinity-emb on the same cores, in turns, and what the engine could do without a server."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from msgspec.structs import replace
from rich.console import Console

from export.manifest import load
from export.runtime.engine import Engine
from loadtest.tools import baseline, ceiling, machine, repository
from loadtest.tools.benchmark import PERCENTILES, RESULTS, SWEEP, Ceiling, Growth, Results, Run
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

console = Console(highlight=False, width=120)


def main() -> int:
    """Measure, store and print."""
    known = workloads()
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--engines", nargs="*", default=["optimum", "torch"], help="of infinity-emb; none: Conch alone")
    parser.add_argument("--workloads", nargs="*", default=list(known), choices=list(known))
    parser.add_argument("--sweep", nargs="*", default=list(SWEPT), choices=list(known), help="over clients")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.engines:
        baseline.prepare(console.print)
    repository.prepare()
    repository.export(replace(load()[EMBEDDING_MODEL], precision="int8"), INT8_REPOSITORY)
    chosen = {name: workload for name, workload in known.items() if name in arguments.workloads}
    with _servers(arguments.engines) as servers:
        runs, ceilings = _interleave(servers, chosen, arguments.rounds, arguments.seconds)
        sweep = _sweep(servers, {name: known[name] for name in arguments.sweep}, arguments.seconds / 2)
        growth = _grow(servers[0], known[GROWING])
        memory = {server.name: server.rss_mib() for server in servers}
    results = Results(
        machine=machine.describe(),
        baseline=baseline.versions() if arguments.engines else {},
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
    )
    store(results, arguments.out)
    return 0


@contextmanager
def _servers(engines: Sequence[str]) -> Iterator[list[Server]]:
    """Conch as it is, Conch in int8, and infinity-emb; all of them halted."""
    with ExitStack() as stack:
        all_models = (EMBEDDING_MODEL, RERANK_MODEL, IMAGE_MODEL)
        folders = {name: baseline.folder(name) for name in (EMBEDDING_MODEL, RERANK_MODEL)}
        starts = [
            partial(conch, REPOSITORY, FOLDER / "conch.log", all_models),
            partial(conch, INT8_REPOSITORY, FOLDER / "int8.log", (EMBEDDING_MODEL,), "conch (int8)"),
            *(partial(baseline.serve, name, folders) for name in engines),
        ]
        servers = []
        for start in starts:
            servers.append(stack.enter_context(start()))
            console.print(f"{servers[-1].name} is ready")
            servers[-1].halt()
        yield servers


def _interleave(
    servers: Sequence[Server], chosen: Mapping[str, Workload], rounds: int, seconds: float
) -> tuple[list[Run], list[Ceiling]]:
    runs: list[Run] = []
    ceilings: list[Ceiling] = []
    engine = Engine(REPOSITORY / EMBEDDING_MODEL / "1" / "model.onnx")
    for name, workload in chosen.items():
        texts = [text for body in workload.texts for text in body]
        rows = ceiling.rows(REPOSITORY / EMBEDDING_MODEL, texts, MAX_TOKENS)
        tokens = sum(len(ids) for (ids,) in rows) / max(1, len(rows))
        for number in range(rounds):
            for server in servers:
                if workload.model in server.models:
                    runs.append(_run(server, name, workload, number, workload.clients, seconds))
                    console.print(_line(runs[-1]))
            if rows:
                rate = ceiling.rows_per_second(engine, rows, seconds / 2)
                ceilings.append(Ceiling(name, number, rate, rate * tokens))
                console.print(f"{name:10} {'engine':20} {rate:8.0f} items/s")
    return runs, ceilings


def _sweep(servers: Sequence[Server], chosen: Mapping[str, Workload], seconds: float) -> list[Run]:
    runs = []
    for name, workload in chosen.items():
        for clients in SWEEP:
            for server in servers:
                if workload.model in server.models:
                    runs.append(_run(server, name, workload, 0, clients, seconds))
                    console.print(_line(runs[-1]))
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


def _run(server: Server, name: str, workload: Workload, number: int, clients: int, seconds: float) -> Run:
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


def _line(run: Run) -> str:
    return (
        f"{run.workload:10} {run.server:20} {run.clients:3} clients {run.items / run.seconds:8.0f} items/s"
        f"  p50 {run.latency_ms['p50']:7.1f} ms  p99 {run.latency_ms['p99']:7.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
