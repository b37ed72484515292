"""`python -m loadtest.experiments.capacity`: how many replicas a load takes, from a stored benchmark.

A replica is a machine as the benchmark's, with a gateway and a Triton. What an execution costs is fitted to the
benchmark's runs: some time for each execution, each row and each token. Replicas are then tried in a simulated queue.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from loadtest.tools.benchmark import RESULTS, Results, Run
from loadtest.tools.queueing import MOST_REPLICAS, PERCENTILES, Cost, Demand, TooManyError, alone_s, fewest, plan

SERVER = "conch"
SINGLE_ARRIVAL_FACTOR = 1.15
"""The factor on the cost in the benchmark. Its clients send their next requests together when an execution ends. The
gateway takes more CPU time for requests that come alone. Chosen by the first runs of `--check`."""
BENCHMARK_CLIENTS = (8, 32)
"""The range of client counts that keep a server busy and whose requests all fit into two executions."""


def fit(runs: Sequence[Run]) -> Cost:
    """Fit the cost of an execution, by non-negative least squares of relative errors over runs that kept a server busy.

    Of clients that wait for answers, half would be in each execution if nothing took time but executions, so that each
    request took two of them. By Little's law it takes clients / rows of them. What is over two is the share of requests
    that miss an execution, and with it the time of replies and of the clients.
    """
    seen = [run for run in runs if run.server == SERVER and run.work.get("executions") and run.items == run.requests]
    rows = np.array([run.work["rows"] / run.work["executions"] for run in seen])
    tokens = np.array([run.work["tokens"] / run.work["executions"] for run in seen])
    took = rows * [run.seconds / run.items for run in seen]  # a row is a request
    per = np.stack([np.ones(len(seen)), rows, tokens], 1)
    costs, _ = nnls(per / took[:, None], np.ones(len(took)))
    least, most = BENCHMARK_CLIENTS
    over = [run.clients / row - 2 for run, row in zip(seen, rows, strict=True) if least <= run.clients <= most]
    execution_s, row_s, token_s = map(float, SINGLE_ARRIVAL_FACTOR * costs)
    return Cost(execution_s, row_s, token_s, max(0.0, float(np.median(over))) if over else 0.0)


def histogram(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read `16:3,64:2,200:1`: lengths in tokens, and how many texts have each.

    Raises:
        ValueError: it is none.
    """
    pairs = [part.partition(":")[::2] for part in text.split(",")]
    lengths = np.array([int(length) for length, _ in pairs])
    weights = np.array([float(weight) for _, weight in pairs])
    if (lengths < 1).any() or (weights < 0).any() or not 0 < weights.sum() < math.inf:
        raise ValueError("lengths must be 1 or more, and their weights finite, not negative, nor all 0")
    return lengths, weights / weights.sum()


def main(given: Sequence[str] | None = None) -> int:
    """Print the estimate; the exit code is 1 if no number of replicas meets the target."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.capacity", description=__doc__)
    parser.add_argument("--rate", type=_positive, default=100, help="requests per second (default: %(default)s)")
    parser.add_argument("--texts", type=_count, default=1, help="texts per request (default: %(default)s)")
    parser.add_argument("--lengths", default="16:6,64:3,200:1", help="tokens:weight,... (default: %(default)s)")
    parser.add_argument(
        "--within", type=_positive, default=200, metavar="MS", help="latency target (default: %(default)s)"
    )
    parser.add_argument(
        "--percentile",
        type=int,
        default=95,
        choices=PERCENTILES,
        help="percentile of requests that must meet the target (default: %(default)s)",
    )
    parser.add_argument(
        "--cost",
        type=_cost,
        metavar="A:R:B",
        help="cost of an execution, a row and a token in milliseconds, instead of the benchmark's",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="results of `make bench` (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="compare the simulation with a real server")
    arguments = parser.parse_args(given)
    if arguments.cost is None:
        results = msgspec.json.decode(arguments.results.read_bytes(), type=Results)
        cost = fit([*results.runs, *results.sweep])
        source = f"{arguments.results}: {results.machine['cores']} cores of an {results.machine['cpu']} a replica"
    else:
        cost, source = arguments.cost, "--cost"
    costs_ms = {"execution": 1000 * cost.execution_s, "row": 1000 * cost.row_s, "token": 1000 * cost.token_s}
    cost_ms = {name: round(value, 4) for name, value in costs_ms.items()}
    if arguments.check:
        from loadtest.experiments import capacity_check  # noqa: PLC0415 - it needs export and psutil

        capacity_check.run(cost, cost_ms)
        return 0
    try:
        demand = Demand(arguments.rate, arguments.texts, *histogram(arguments.lengths))
    except ValueError as exc:
        parser.error(f"--lengths {arguments.lengths}: {exc}")
    costs = ", ".join(f"{value:g} per {name}" for name, value in cost_ms.items())
    print(f"costs from {source}, in milliseconds: {costs}")
    try:
        found = plan(cost, demand, arguments.within / 1000, arguments.percentile)
    except TooManyError:
        print(f"more than {MOST_REPLICAS:,} replicas")
        return 1
    if found is None:
        print(f"no number of replicas answers {arguments.percentile} % within {arguments.within:g} ms")
        return 1
    latencies = ", ".join(f"p{one} {1000 * seconds:.0f} ms" for one, seconds in found.latency_s.items())
    print(f"replicas: {found.replicas}, each busy at least {found.busy:.0%} of the time; {latencies}")
    print(f"replicas for the throughput alone, without a latency target: {fewest(cost, demand)}")
    print(f"one request alone takes {1000 * alone_s(cost, demand):.0f} ms")
    print("add one replica, for when one fails or is replaced")
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be over 0, and finite")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _cost(text: str) -> Cost:
    costs = [float(cost) / 1000 for cost in text.split(":")]
    if len(costs) != 3 or min(costs) < 0 or not 0 < sum(costs) < math.inf:
        raise argparse.ArgumentTypeError("must be three numbers, finite, not negative, nor all 0")
    execution_s, row_s, token_s = costs
    return Cost(execution_s, row_s, token_s, handover=0)


if __name__ == "__main__":
    sys.exit(main())
