"""`python -m loadtest.perf --model NAME`: NVIDIA's perf_analyzer at Triton over gRPC, with rows of mixed lengths.

The rows are random token ids or pixels that suit the model's config. This file needs nothing but perf_analyzer and
tritonclient, so it also runs in the image of Triton's SDK: `docker compose run --rm loadtest --model NAME`.
"""

import argparse
import csv
import importlib.util
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc import model_config_pb2 as pb

MEDIAN = 48
SPREAD = 1.0
"""Of the logarithm: lengths of texts are about lognormal, a few of them far longer than most."""
SHORTEST = 3
QUERY_SHARE = 0.2
"""What a query is of a pair of query and document."""
TEXTS = 1024
IMAGES = 8
WINDOW_MS = 5000
STABILITY = 40
"""Percent by which windows of time may differ; with mixed lengths, they often do by 15."""
LOAD = ("--concurrency-range", "--request-rate-range", "--request-intervals")
"""Options of perf_analyzer that say how much load there is."""
CLIENTS = "1:64:9"
"""From 1 to 64 in steps of 9, unless one of LOAD is given."""
UNSTABLE = ("Failed to obtain stable measurement", "No valid requests recorded within time interval")
"""What perf_analyzer says when it leaves a load out of its report, sometimes with exit code 0."""
UNSTABLE_STATUS = 2
"""Its exit code at other times."""
STAGES = {
    "queue": "Server Queue",
    "input": "Server Compute Input",
    "infer": "Server Compute Infer",
    "output": "Server Compute Output",
}

KEY_HEADER = "triton-grpc-protocol-nobody"
"""The gRPC header for the key, as docker-compose.yml and kubernetes/ restrict Triton's statistics: `nobody=KEY`."""

Input = dict[str, dict[str, list[int]]]
"""Tensors of a request, as perf_analyzer reads them: {"input_ids": {"content": [101, 102], "shape": [2]}}."""


class PerfError(Exception):
    """Nothing can be measured."""


@dataclass(frozen=True)
class Measurement:
    """A line of perf_analyzer's report."""

    load: str
    """Clients, or requests a second."""
    requests_per_second: float
    latency_ms: dict[str, float]
    server_ms: dict[str, float]
    """Mean time of a request in Triton, by stage; empty if another server was measured."""


@dataclass(frozen=True)
class Report:
    """What perf_analyzer said."""

    status: int
    """perf_analyzer's exit code: 0 only if every load was measured."""
    output: str
    measurements: list[Measurement]

    @property
    def is_unstable(self) -> bool:
        """Whether some load was left out because its measurements differ too much."""
        return any(message in self.output for message in UNSTABLE)


def main() -> int:
    """Measure and print a table. The exit code is that of perf_analyzer, or 1 if it could not be started."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.perf",
        description="Measure a model of a running Triton with perf_analyzer, which gets all further options.",
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--model", required=True, help="its name in Triton")
    parser.add_argument("-u", "--url", default="localhost:8001", help="Triton's gRPC address (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=MEDIAN, help="median length of a text (default: %(default)s)")
    parser.add_argument(
        "--spread",
        type=float,
        default=SPREAD,
        help="standard deviation of the logarithm of the lengths; 0 for equal lengths (default: %(default)s)",
    )
    parser.add_argument("--admin-key-file", type=Path, help="with the key that Triton wants for statistics")
    arguments, options = parser.parse_known_args()
    try:
        if arguments.admin_key_file is not None:
            options += ["-H", f"{KEY_HEADER}:{arguments.admin_key_file.read_text().strip()}"]
        rows = inputs(fetch_config(arguments.url, arguments.model), arguments.tokens, arguments.spread)
        if not any(option.split("=")[0] in LOAD for option in options):
            options += ["--concurrency-range", CLIENTS]
        with tempfile.TemporaryDirectory() as scratch:
            command = [find_program(), "-m", arguments.model, "-u", arguments.url, "-i", "grpc", "--async"]
            # Of an option given twice, perf_analyzer takes the last.
            command += [f"--measurement-interval={WINDOW_MS}", f"--stability-percentage={STABILITY}", *options]
            report = measure(command, rows, Path(scratch), echo=True)
    except (OSError, PerfError) as exc:
        print(f"perf: {exc}", file=sys.stderr)
        return 1
    if report.measurements:
        print(f"\n{describe(arguments.model, rows)}\n\n{table(report.measurements)}")
    if report.status:
        print(f"perf: perf_analyzer failed with exit code {report.status}", file=sys.stderr)
    return report.status


def find_program() -> str:
    """perf_analyzer itself: the command of its Python package exits with 0 whatever happens.

    Raises:
        PerfError: it is not installed.
    """
    package = importlib.util.find_spec("perf_analyzer")
    for folder in (package.submodule_search_locations or []) if package else []:
        if (binary := Path(folder, "bin", "perf_analyzer")).is_file():
            return str(binary)
    found = shutil.which("perf_analyzer")
    if found is None:
        raise PerfError("perf_analyzer is not installed: run this in the image of Triton's SDK")
    return found


def fetch_config(url: str, model: str) -> "pb.ModelConfig":
    """The config of a model, as Triton has it.

    Raises:
        PerfError: Triton's client is not installed, Triton cannot be reached, or it has no such model.
    """
    try:
        # Imported here, so that their absence can be told.
        from tritonclient.grpc import InferenceServerClient  # noqa: PLC0415
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise PerfError("tritonclient[grpc] is not installed: run this in the image of Triton's SDK") from exc
    try:
        with InferenceServerClient(url) as client:
            return client.get_model_config(model, client_timeout=10).config
    except InferenceServerException as exc:
        raise PerfError(f"{url} gave no config of the model {model!r}: {exc.message()}") from exc


def inputs(
    config: "pb.ModelConfig", median: int = MEDIAN, spread: float = SPREAD, count: int = TEXTS, seed: int = 0
) -> list[Input]:
    """Rows for a model: docs/repository-entry.md has its tensors and parameters.

    Args:
        config: the model's config.
        median: tokens of a row, of which half the rows have more.
        spread: standard deviation of the logarithm of the lengths.
        count: rows, if they are texts.
        seed: equal seeds give equal rows.

    Raises:
        PerfError: the model is not one that the gateway serves.
    """
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    names = {each.name for each in config.input}
    chance = random.Random(seed)  # noqa: S311 - no secret
    if "pixels" in names:
        shape = [3, int(parameters["image_height"]), int(parameters["image_width"])]
        size = shape[0] * shape[1] * shape[2]
        return [{"pixels": {"content": list(chance.randbytes(size)), "shape": shape}} for _ in range(IMAGES)]
    if not {"max_tokens", "vocabulary_size"} <= parameters.keys():
        raise PerfError(f"the model {config.name!r} has no parameters max_tokens and vocabulary_size")
    longest = int(parameters["max_tokens"])
    longest_query = min(longest, int(parameters.get("max_query_tokens", longest)))
    vocabulary = int(parameters["vocabulary_size"])
    buckets = [int(each) for each in parameters.get("length_buckets", "").split(",") if each]
    rows = []
    for _ in range(count):
        length = _length(chance, median, spread, longest)
        query = _length(chance, round(median * QUERY_SHARE), spread, longest_query)
        row: Input = {}
        for name in sorted(names):
            if name.endswith("_ids"):
                size = query if name == "query_ids" else length
                ids = [chance.randrange(vocabulary) for _ in range(size)]
                ids += [0] * (min((each for each in buckets if each >= size), default=size) - size)
                row[name] = {"content": ids, "shape": [len(ids)]}
            else:
                known = {"query_length": query, "first_length": min(query, length), "prompt_length": 0}
                row[name] = {"content": [known.get(name, length)], "shape": [1]}
        rows.append(row)
    return rows


def _length(chance: random.Random, median: int, spread: float, longest: int) -> int:
    drawn = round(median * chance.lognormvariate(0, spread))
    return min(max(drawn, SHORTEST), longest)


def measure(
    command: Sequence[str],
    rows: Sequence[Mapping[str, object]],
    scratch: Path,
    environment: Mapping[str, str] | None = None,
    *,
    echo: bool = False,
) -> Report:
    """Run perf_analyzer with rows, and read its report.

    Args:
        command: perf_analyzer and its options, without those of files.
        rows: what it sends, in turns.
        scratch: a folder for its files.
        environment: of the process, if not this one's.
        echo: print what it prints.
    """
    given, table = scratch / "rows.json", scratch / "table.csv"
    given.write_text(json.dumps({"data": rows}))
    table.unlink(missing_ok=True)
    full = [*command, "--input-data", str(given), "-f", str(table), "--verbose-csv"]
    output = ""
    with subprocess.Popen(  # noqa: S603 - our own command
        full, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            output += line
            if echo:
                print(line, end="", flush=True)
    report = Report(process.returncode, output, read(table) if table.exists() else [])
    return replace(report, status=UNSTABLE_STATUS) if report.is_unstable and not report.status else report


def read(table: Path) -> list[Measurement]:
    """The lines of perf_analyzer's verbose CSV, by load."""
    with table.open() as lines:
        return sorted(map(_read, csv.DictReader(lines)), key=lambda one: float(one.load.split()[0]))


def _read(row: Mapping[str, str]) -> Measurement:
    return Measurement(
        load=f"{row['Concurrency']} clients" if "Concurrency" in row else f"{float(row['Request Rate']):.0f} req/s",
        requests_per_second=float(row["Inferences/Second"]),
        latency_ms={place: float(row[f"{place} latency"]) / 1000 for place in ("p50", "p90", "p95", "p99")},
        server_ms={stage: float(row[column]) / 1000 for stage, column in STAGES.items() if row.get(column)},
    )


def describe(model: str, rows: Sequence[Input]) -> str:
    """What was sent, in one line."""
    lengths = sorted(sum(len(each["content"]) for name, each in row.items() if name.endswith("_ids")) for row in rows)
    if not lengths[-1]:
        return f"{model}, images"
    median, mean = lengths[len(lengths) // 2], sum(lengths) / len(lengths)
    return f"{model}, rows of {lengths[0]} to {lengths[-1]} tokens, median {median}, mean {mean:.0f}"


def table(measurements: Sequence[Measurement]) -> str:
    """Lines of equal width."""
    heads = ("load", "req/s", "p50 ms", "p90 ms", "p99 ms", "queue ms", "infer ms")
    lines = [f"{heads[0]:>12}" + "".join(f"{head:>10}" for head in heads[1:])]
    for one in measurements:
        numbers = [one.requests_per_second, *(one.latency_ms[place] for place in ("p50", "p90", "p99"))]
        stages = (f"{one.server_ms[stage]:10.1f}" if one.server_ms else f"{'-':>10}" for stage in ("queue", "infer"))
        lines.append(f"{one.load:>12}" + "".join(f"{number:10.1f}" for number in numbers) + "".join(stages))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
