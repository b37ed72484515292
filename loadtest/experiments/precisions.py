"""`make precisions`: what each precision of the python backend costs in quality and gives in speed, on STSb.

Exports the default embedding model in each, and runs the graph on the engine that serves it, without a server.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from scipy.stats import spearmanr
from tokenizers import Tokenizer

from export.manifest import PRECISIONS, Precision, load
from export.repository import build
from export.runtime.contract import EMBEDDING
from export.runtime.engine import HINTS, Engine
from loadtest.tools.machine import cpu

MODEL = "all-minilm-l6-v2"
BATCH = 64
"""Rows given to the engine at a time, as Triton does."""

Vectors = NDArray[np.float32]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stsb", type=Path, default=Path("../shared/data/stsb-en-dev.csv"), help="stsb-en-dev.csv")
    parser.add_argument("--out", type=Path, help="a file to write the figures to")
    arguments = parser.parse_args()
    if not arguments.stsb.is_file():
        parser.error(f"{arguments.stsb} is not there; get it of github.com/PhilipMay/stsb-multi-mt")
    run: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu(),
        "precisions": measure(arguments.stsb),
        "auto": auto(),
        "export": export_cost(),
    }
    print(json.dumps(run, indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(run, indent=2) + "\n")


def measure(stsb: Path, rounds: int = 3) -> dict[Precision, dict[str, float]]:
    """Measure, by precision: Spearman correlation with human judgements, cosines with fp32, and tokens per second."""
    with stsb.open(encoding="utf8") as lines:
        first, second, scores = zip(*csv.reader(lines), strict=True)
    labels = [float(score) for score in scores]
    with tempfile.TemporaryDirectory() as scratch:
        engines = {precision: _engine(precision, Path(scratch)) for precision in sorted(PRECISIONS["python"])}
        tokenizer = Tokenizer.from_file(f"{scratch}/fp32/{MODEL}/tokenizer.json")
        rows = [np.array(encoding.ids, np.int64) for encoding in tokenizer.encode_batch([*first, *second])]
        speeds: dict[Precision, list[float]] = {precision: [] for precision in engines}
        vectors: dict[Precision, Vectors] = {}
        for _ in range(rounds):  # in turns, since machines are noisy
            for precision, engine in engines.items():
                started = time.perf_counter()
                vectors[precision] = _embed(engine, rows)
                speeds[precision].append(sum(map(len, rows)) / (time.perf_counter() - started))
    figures = {}
    for precision, found in vectors.items():
        cosines = (found * vectors["fp32"]).sum(1)
        figures[precision] = {
            "stsb_spearman": float(spearmanr((found[: len(labels)] * found[len(labels) :]).sum(1), labels).statistic),
            "mean_cosine_to_fp32": float(cosines.mean()),
            "min_cosine_to_fp32": float(cosines.min()),
            "tokens_per_second": float(np.median(speeds[precision])),
        }
    return figures


def auto() -> dict[str, object]:
    """What `precision = "auto"` takes on this processor, and what it has measured."""
    with tempfile.TemporaryDirectory() as scratch:
        (entry,) = build(replace(load()[MODEL], precision="auto"), Path(scratch) / "auto", progress=lambda _: None)
    return {"precision": entry.proof["precision"], **entry.proof["trial"]}


def _engine(precision: Precision, scratch: Path) -> Engine:
    (entry,) = build(replace(load()[MODEL], precision=precision), scratch / precision, progress=lambda _: None)
    return Engine(entry.folder / "1" / entry.proof["files"][0], HINTS[precision])


def _embed(engine: Engine, rows: Sequence[NDArray[np.int64]]) -> Vectors:
    raw = np.concatenate([_run(engine, rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)])
    vectors: Vectors = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return vectors


def _run(engine: Engine, rows: Sequence[NDArray[np.int64]]) -> Vectors:
    return np.asarray(engine.run([(ids,) for ids in rows], [EMBEDDING])[EMBEDDING], np.float32)


def export_cost() -> dict[str, float]:
    """Seconds and MiB that `python -m export` takes for the model, its imports and verification included."""
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        command = [sys.executable, "-m", "export", MODEL, "--repository", f"{scratch}/repository"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": round(seconds, 1), "peak_mib": round(peak)}


if __name__ == "__main__":
    main()
