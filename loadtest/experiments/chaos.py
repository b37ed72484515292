"""`make chaos`: what becomes of requests when something breaks behind the gateway, or when far too many come."""

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
import uvloop

from loadtest.experiments.faults import add_slow_model, faults, replicas, workers
from loadtest.experiments.overload import Overload, overload
from loadtest.tools import machine
from loadtest.tools.results import STORED, store
from loadtest.tools.servers import HOST, REPOSITORY, conch
from loadtest.tools.steady import SETTINGS, Case, known
from loadtest.tools.workloads import EMBEDDING_MODEL, workloads

SCRATCH = Path(".chaos")
"""Logs."""
RESULTS = STORED / "chaos.json"


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    cases: list[Case]
    overload: Overload | None


def main() -> int:
    """Play all cases, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.chaos", description=__doc__)
    parser.add_argument("--only", nargs="*", help="faults, by their names; without any, none")
    parser.add_argument("--seconds", type=float, default=60, help="of overload; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "repository"
        shutil.copytree(REPOSITORY / EMBEDDING_MODEL, repository / EMBEDDING_MODEL)
        add_slow_model(repository)
        cases: list[Case] = []
        result: Overload | None = None
        if arguments.only != []:
            with conch(repository, SCRATCH / "first.log", **SETTINGS) as first:
                what = asyncio.run(known(f"http://{HOST}:{first.port}"))
                cases += asyncio.run(faults(first, repository, what, arguments.only))
                with conch(repository, SCRATCH / "second.log", **SETTINGS) as second:
                    cases += asyncio.run(replicas(first, second, what, SCRATCH / "gateway.log", arguments.only))
            with conch(repository, SCRATCH / "workers.log", GATEWAY_WORKERS="4", **SETTINGS) as server:
                cases += asyncio.run(workers(server, what, arguments.only))
        if arguments.seconds:
            with conch(repository, SCRATCH / "overload.log", **SETTINGS) as server:
                result = uvloop.run(overload(server, workloads()["mixed-16"], arguments.seconds))
    store(Results(machine.describe(), cases, result), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
