"""How fast a vision-language model is on CPUs: the engine alone, next to sentence-transformers, and served.

The model has the geometry of Qwen3-VL 2B (the embedder and the reranker) but few layers, random weights and a small
vocabulary. A whole one would take ten times as long; the report says how long by the number of products.
"""

import argparse
import base64
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
import torch
from rich.console import Console

from export.manifest import ModelSpec
from export.repository import build
from export.runtime.torch_engine import Engine
from export.tasks.chat import Content
from loadtest.tools import machine, tiny_vision, vision_engines
from loadtest.tools.load import load_with
from loadtest.tools.pictures import file
from loadtest.tools.products import peak_flops
from loadtest.tools.results import store
from loadtest.tools.servers import Server, conch
from loadtest.tools.vision_models import PUBLISHED, whole
from loadtest.tools.vision_results import RESULTS, Results, Served, Vision
from loadtest.tools.workloads import Workload

GEOMETRY = "Qwen3-VL 2B"
NAME = "vision"
PHOTOS = ((224, 224), (320, 240), (240, 320), (448, 336), (360, 480), (400, 304), (480, 480), (512, 384))
"""Width and height: 196 to 900 patches."""
WORDS = (4, 6, 8, 12, 16, 20, 28, 40)
MOST_TOKENS, LARGEST = 384, 480 * 480
CLIENTS = (1, 8)
PACKAGES = ("torch", "transformers", "sentence-transformers", "nvidia-pytriton", "uvicorn", "numpy")

console = Console(highlight=False, width=120)


def main() -> int:
    """Measure, store and print."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.experiments.vision", description=__doc__)
    parser.add_argument("--text-layers", type=int, default=2)
    parser.add_argument("--vision-layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement of the server")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    published = PUBLISHED[GEOMETRY]
    sizes = published.sizes(arguments.text_layers, arguments.vision_layers, MOST_TOKENS, LARGEST)
    given = vision_engines.contents(PHOTOS, WORDS)
    with tempfile.TemporaryDirectory(prefix="conch-") as scratch:
        source = tiny_vision.write_embedding(Path(scratch) / "source", published.family, sizes=sizes)
        spec = ModelSpec(name=NAME, task="text-embedding", source=str(source), backend="torch", precision="fp32")
        repository = Path(scratch) / "models"
        build(spec, repository, console.print)
        here, host_s = _in_process(spec, repository, given, arguments.rounds)
        with conch(repository, Path(scratch) / "conch.log") as server:
            served = [
                _serve(server, name, items, clients, arguments.seconds)
                for name, items in given.items()
                for clients in CLIENTS
            ]
            memory = server.rss_mib()
    results = Results(machine.describe(PACKAGES), GEOMETRY, whole(published), here, 1000 * host_s, served, memory)
    store(results, arguments.out)
    return 0


def _in_process(
    spec: ModelSpec, repository: Path, given: Mapping[str, Sequence[Content]], rounds: int
) -> tuple[Vision, float]:
    """What the engine does, and the seconds in which its host lays out a photo."""
    engine = Engine(repository / NAME / "1" / "program.pt2")
    model = vision_engines.library(Path(spec.source), engine)
    items = vision_engines.read(spec, model, given)
    speeds = []
    for one in items:
        for speed in vision_engines.measure(engine, model, one, rounds):
            speeds.append(speed)
            console.print(f"{speed.items:18} {speed.way:22} {statistics.median(speed.seconds):8.3f} s")
    host_s = statistics.median(vision_engines.host_seconds(engine, items[0].rows) for _ in range(9))
    return vision_engines.vision(GEOMETRY, model, speeds, peak_flops(2, torch.float32)), host_s / len(PHOTOS)


def _serve(server: Server, name: str, items: Sequence[Content], clients: int, seconds: float) -> Served:
    bodies = [orjson.dumps({"model": NAME, "input": [_item(content)]}) for content in items]
    workload = Workload(name, "/v1/embeddings", clients, 1, bodies, [])
    before = server.work()
    answers, _ = load_with(server, workload, clients, seconds)
    work = {count: number - before[count] for count, number in server.work().items()}
    found = Served(
        name,
        clients,
        answers.per_second,
        float(np.median(answers.latencies_ms)),
        work["rows"] / max(1, work["executions"]),
    )
    console.print(f"{name:18} {clients:2} clients {found.items_per_second:7.2f} items/s, {found.median_ms:8.0f} ms")
    return found


def _item(content: Content) -> dict[str, str]:
    """An item of a request: its text, its photo as a JPEG, or both."""
    return {
        "text" if isinstance(part, str) else "image": part
        if isinstance(part, str)
        else base64.b64encode(file(part, "JPEG", quality=85)).decode()
        for part in content
    }


if __name__ == "__main__":
    sys.exit(main())
