"""What `python -m loadtest.experiments.growth` stores: how throughput and memory grow with what is asked."""

import msgspec

from loadtest.tools.benchmark import Run
from loadtest.tools.results import STORED
from loadtest.tools.scaling import Pack

RESULTS = STORED / "growth.json"


class Results(msgspec.Struct, frozen=True):
    """All that was measured."""

    machine: dict[str, str | int | float]
    batches: list[Run]
    """Of more and more texts per request."""
    lengths: list[Run]
    """Of longer and longer texts."""
    tokens: dict[str, float]
    """Of a text on average, by the workloads of `lengths`."""
    workloads: dict[str, str]
    """What each workload of `cores` is, by its short name."""
    cores: dict[int, list[Run]]
    """By how many cores Conch and its clients may use."""
    packs: list[Pack]
    models_mib: dict[int, dict[str, float]]
    """Conch's memory by process, by how many copies of a model it serves."""
    rows_mib: dict[int, dict[str, float]]
    """Conch's memory by process, after requests of so many texts."""
