"""`make bench`: Conch and infinity-emb on the same cores, in turns, and what the engine could do without a server."""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from rich.console import Console

from export.entry import build, is_built
from export.manifest import ModelSpec, load
from export.runtime.engine import Engine
from loadtest import ceiling, machine, peer
from loadtest.client import Answers, send
from loadtest.servers import HOST, Server, conch, infinity
from loadtest.workloads import EMBEDDING_MODEL, IMAGE_MODEL, RERANK_MODEL, Workload, workloads

RESULTS = Path(__file__).parent / "results" / "bench.json"
REPOSITORY = peer.FOLDER / "repository"
INT8_REPOSITORY = peer.FOLDER / "repository-int8"
PERCENTILES = (*range(1, 100), 99.5, 99.9)
SWEEP = (1, 2, 4, 8, 16, 32, 64)
"""Clients."""
SWEPT = ("short-16", "mixed-16")
MAX_TOKENS = 256
GROWING = "mixed-16"
GROWING_REQUESTS = 20_000
GROWING_STEPS = 20
WARM_UP_S = 1.0

console = Console(highlight=False, width=120)


class Run(msgspec.Struct, frozen=True):
    """A server under a workload for a while."""

    workload: str
    server: str
    round: int
    clients: int
    seconds: float
    requests: int
    items: int
    latency_ms: dict[str, float]
    """By percentile."""
    cpu_s: dict[str, float]
    """Used in this time, by role, and by the clients."""
    work: dict[str, float]
    """What Triton has counted: rows, executions, tokens and padding, in tokens. Of Conch only."""


class Ceiling(msgspec.Struct, frozen=True):
    """The engine with a workload's rows, in one round."""

    workload: str
    round: int
    items_a_second: float
    tokens_a_second: float


class Growth(msgspec.Struct, frozen=True):
    """Conch's memory after so many requests."""

    requests: int
    rss_mib: dict[str, float]


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    peer: dict[str, str]
    workloads: dict[str, str]
    """What each is, by its short name."""
    runs: list[Run]
    sweep: list[Run]
    ceilings: list[Ceiling]
    peak_gflops: dict[str, float]
    """Of large matrix products, by type of number."""
    rss_mib: dict[str, dict[str, float]]
    """At the end, by server and process."""
    growth: list[Growth]


def main() -> int:
    """Measure, store and print."""
    known = workloads()
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--engines", nargs="*", default=["optimum", "torch"], help="of infinity-emb; none: Conch alone")
    parser.add_argument("--workloads", nargs="*", default=list(known), choices=list(known))
    parser.add_argument("--sweep", nargs="*", default=list(SWEPT), choices=list(known), help="over clients")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.engines:
        peer.prepare(console.print)
    prepare()
    _export(replace(load()[EMBEDDING_MODEL], precision="int8"), INT8_REPOSITORY)
    chosen = {name: workload for name, workload in known.items() if name in arguments.workloads}
    with _servers(arguments.engines) as servers:
        runs, ceilings = _interleave(servers, chosen, arguments.rounds, arguments.seconds)
        sweep = _sweep(servers, {name: known[name] for name in arguments.sweep}, arguments.seconds / 2)
        growth = _grow(servers[0], known[GROWING])
        memory = {server.name: server.rss_mib() for server in servers}
    results = Results(
        machine=machine.describe(),
        peer=peer.versions() if arguments.engines else {},
        workloads={name: workload.name for name, workload in chosen.items()},
        runs=runs,
        sweep=sweep,
        ceilings=ceilings,
        peak_gflops={
            str(dtype).removeprefix("torch."): ceiling.peak_flops(arguments.seconds / 4, dtype) / 1e9
            for dtype in (torch.float32, torch.bfloat16)
        },
        rss_mib=memory,
        growth=growth,
    )
    store(results, arguments.out)
    return 0


def store(results: msgspec.Struct, out: Path) -> None:
    """Write results to a file."""
    out.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    console.print(f"stored in {out}")


def prepare() -> None:
    """Export what Conch serves."""
    for spec in (load()[EMBEDDING_MODEL], load()[IMAGE_MODEL], peer.cross_encoder()):
        _export(spec, REPOSITORY)


def _export(spec: ModelSpec, repository: Path) -> None:
    if not is_built(spec, repository):
        console.print(f"export {spec.name} to {repository}")
        build(spec, repository, progress=lambda _: None)


@contextmanager
def _servers(engines: Sequence[str]) -> Iterator[list[Server]]:
    """Conch as it is, Conch in int8, and infinity-emb; all of them halted."""
    with ExitStack() as stack:
        all_models = (EMBEDDING_MODEL, RERANK_MODEL, IMAGE_MODEL)
        folders = {name: peer.folder(name) for name in (EMBEDDING_MODEL, RERANK_MODEL)}
        starts = [
            partial(conch, REPOSITORY, peer.FOLDER / "conch.log", all_models),
            partial(conch, INT8_REPOSITORY, peer.FOLDER / "int8.log", (EMBEDDING_MODEL,), "conch (int8)"),
            *(partial(infinity, peer.PYTHON, name, folders, peer.FOLDER / f"{name}.log") for name in engines),
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
                rate = ceiling.rows_a_second(engine, rows, seconds / 2)
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
    rate = load_with(server, workload, workload.clients, WARM_UP_S)[0].a_second
    while done < GROWING_REQUESTS:
        step = GROWING_REQUESTS / GROWING_STEPS / rate
        answers = send(HOST, server.port, workload.path, workload.bodies, workload.clients, step)
        done, rate = done + len(answers.latencies_ms), answers.a_second
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


def load_with(server: Server, workload: Workload, clients: int, seconds: float) -> tuple[Answers, dict[str, float]]:
    """Send a workload's requests for a while, when the server is warm.

    Returns:
        The answers, and the CPU seconds used meanwhile by the server's roles and by the clients.
    """
    send(HOST, server.port, workload.path, workload.bodies, clients, WARM_UP_S)
    before, own = server.cpu_s(), time.process_time()
    answers = send(HOST, server.port, workload.path, workload.bodies, clients, seconds)
    roles = {role: used - before.get(role, 0) for role, used in server.cpu_s().items()}
    return answers, {"clients": time.process_time() - own} | roles


def _line(run: Run) -> str:
    return (
        f"{run.workload:10} {run.server:20} {run.clients:3} clients {run.items / run.seconds:8.0f} items/s"
        f"  p50 {run.latency_ms['p50']:7.1f} ms  p99 {run.latency_ms['p99']:7.1f} ms"
    )


if __name__ == "__main__":
    sys.exit(main())
