"""What `make bench` stores. The capacity model and the reports read it."""

import msgspec

from loadtest.tools.results import STORED

RESULTS = STORED / "bench.json"
AVX2_RESULTS = STORED / "bench-avx2.json"
"""From a processor that does not compute in bf16, so that all servers compute in fp32."""
CONCH = "conch"
INT8 = "conch (int8)"
LLAMA_CPP = "llama.cpp"
ONNX_RUNTIME = "ONNX Runtime"
PERCENTILES = (*range(1, 100), 99.5, 99.9)
SWEEP = (1, 2, 4, 8, 16, 32, 64)
"""Clients."""


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
    """An engine with a workload's rows in process, in one round."""

    workload: str
    round: int
    items_per_second: float
    tokens_per_second: float
    engine: str = CONCH
    """CONCH or ONNX_RUNTIME."""
    setting: str = ""
    """The one that was the fastest of several, in words."""
    row_ms: float | None = None
    """The median time of one row after a pause. Where there is one client, and of Conch's engine, only."""


class Growth(msgspec.Struct, frozen=True):
    """Conch's memory after so many requests."""

    requests: int
    rss_mib: dict[str, float]


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    baseline: dict[str, str]
    """Versions of what the compared servers are made of."""
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
    cosines: dict[str, float] = {}
    """The lowest cosine of a text's vector with Conch's, by what is compared."""
