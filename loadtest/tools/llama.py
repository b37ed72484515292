"""llama.cpp's server, which is compared with: built from source for this processor, with the same weights as Conch."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from export.sources.isolation import Progress
from loadtest.tools import baseline
from loadtest.tools.benchmark import LLAMA_CPP
from loadtest.tools.repository import FOLDER, source
from loadtest.tools.servers import HOST, Server, free_ports, run
from loadtest.tools.workloads import EMBEDDING_MODEL

INSTALLED = FOLDER / "llama"
"""Where `make bench` puts the source and the server."""
WEIGHTS = FOLDER / "models" / f"{EMBEDDING_MODEL}.gguf"
SLOTS = 64
"""Texts that are computed together: as many as the workload of most clients sends. Its default is 4."""
CONTEXT = 512
"""Tokens of a slot: all that the model takes."""
BATCH_TOKENS = 512
"""Tokens of an execution, its default. Each attends to all others, whatever text they are of, so more cost more."""


def prepare(progress: Progress) -> None:
    """Convert the weights, in fp32 as they are, by llama.cpp's own converter, in infinity-emb's environment."""
    if not WEIGHTS.exists():
        progress(f"convert {EMBEDDING_MODEL} for {LLAMA_CPP}")
        WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
        converter = INSTALLED / "llama.cpp" / "convert_hf_to_gguf.py"
        files: list[str | Path] = [baseline.PYTHON, converter, source(EMBEDDING_MODEL)]
        command = [*files, "--outtype", "f32", "--outfile", WEIGHTS]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command


@contextmanager
def serve() -> Iterator[Server]:
    """Serve the embedding model at /v1/embeddings."""
    (port,) = free_ports(1)
    threads = len(os.sched_getaffinity(0))
    options = {
        "model": WEIGHTS,
        "host": HOST,
        "port": port,
        "pooling": "mean",
        "threads": threads,
        "threads-batch": threads,
        "parallel": SLOTS,
        "ctx-size": SLOTS * CONTEXT,
        "batch-size": BATCH_TOKENS,
        "ubatch-size": BATCH_TOKENS,
        "cache-ram": 0,  # of prompts, which an encoder has no use for
    }
    command = [str(INSTALLED / "build" / "bin" / "llama-server"), "--embeddings"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with run(LLAMA_CPP, command, port, "/health", FOLDER / "llama.log", {}, {"port": port}) as server:
        yield replace(server, models=frozenset({EMBEDDING_MODEL}))


def version() -> str:
    """Of the package that has the source."""
    lines = (INSTALLED / "PKG-INFO").read_text().splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("Version: "))
