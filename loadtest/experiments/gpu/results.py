"""What `make gpu` stores. The report reads it."""

from collections.abc import Callable

import msgspec

from loadtest.tools.perf_analyzer import Perf
from loadtest.tools.results import STORED
from loadtest.tools.vision_results import Vision

RESULTS = STORED / "gpu.json"

LeaveOut = Callable[[str, str], None]
"""Takes what a stage does not measure, or not as meant, and why."""


def reason(error: Exception) -> str:
    """An error in one line: of a message that ends with a log, the first line and the log's last."""
    first, *rest = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {' ... '.join([first, *rest[-1:]])}"


class Exact(msgspec.Struct, frozen=True):
    """How exact a Triton model is in one precision, on this machine's device."""

    label: str
    role: str
    precision: str
    measure: str
    worst: float
    """The largest error in any batches."""
    limit: float


class Built(msgspec.Struct, frozen=True):
    """The time that one step took for an entry."""

    model: str
    step: str
    """"export" or "compile"."""
    seconds: float
    said: str
    """The last line of its output."""


class Throughput(msgspec.Struct, frozen=True):
    """An engine in process with batches of one kind."""

    model: str
    engine: str
    lengths: str
    """Tokens of each text, or "mixed"."""
    batch: int
    """Texts that are given to the engine at once."""
    tokens_per_text: float
    texts_per_second: list[float]
    """In each round."""


class Latency(msgspec.Struct, frozen=True):
    """One text at a time, in process."""

    model: str
    engine: str
    tokens: int
    median_ms: float
    p99_ms: float


class LongRow(msgspec.Struct, frozen=True):
    """A long row, alone or in a batch with short ones."""

    model: str
    tokens: int
    short_rows: int
    ms: float
    error: float
    """1 - cosine of the long row's vector with the one that it has alone."""


class Peak(msgspec.Struct, frozen=True):
    """The largest GPU memory that a row takes while it runs, without weights."""

    model: str
    tokens: int
    mib: float


class Served(msgspec.Struct, frozen=True):
    """A server under load over HTTP, in one round."""

    server: str
    model: str
    texts_per_request: int
    clients: int
    round: int
    texts_per_second: float
    median_ms: float
    p99_ms: float


class Results(msgspec.Struct):
    """All that was measured. Each stage replaces its own part."""

    machine: dict[str, str | int | float]
    families: list[Exact] = []
    built: list[Built] = []
    verified: list[Exact] = []
    engines: dict[str, str] = {}
    """What the engine says of itself, by model."""
    throughput: list[Throughput] = []
    latency: list[Latency] = []
    long_rows: list[LongRow] = []
    peaks: list[Peak] = []
    compared: list[Throughput] = []
    """Engines side by side, in turns."""
    vision: list[Vision] = []
    """Models that read texts and images together."""
    triton: list[Perf] = []
    served: list[Served] = []
    seconds: dict[str, float] = {}
    """The time that each stage took."""
    left_out: dict[str, dict[str, str]] = {}
    """By stage: what was not measured, or not as meant, and why."""
