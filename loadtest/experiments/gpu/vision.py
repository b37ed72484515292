"""A model of Qwen3-VL 2B's geometry in process: with few layers, and with all.

Its weights are random and its vocabulary is small. Its program is not proven: the stage `export` proves the family.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from export.manifest import ModelSpec
from export.pipeline import write_graph
from export.plans.compile import compile_programs
from export.runtime.program import TYPES
from export.runtime.torch_engine import Engine
from export.tasks import text_embedding
from loadtest.experiments.gpu.plan import Plan, Seeing
from loadtest.experiments.gpu.results import LeaveOut, Results
from loadtest.tools import tiny_vision, vision_engines
from loadtest.tools.products import peak_flops
from loadtest.tools.vision_engines import Items
from loadtest.tools.vision_models import PUBLISHED
from loadtest.tools.vision_results import Vision
from loadtest.tools.workloads import SEED

MOST_TOKENS, LARGEST = 2048, 1280 * 960
WORDS = (4, 40)
"""Of texts, at least and at most."""
PEAK_S = 0.5
"""Seconds to measure what the device does at most."""


def run(plan: Plan, results: Results, leave_out: LeaveOut) -> None:
    """Measure all sizes."""
    results.vision = []
    for seeing in plan.seeing:
        found = _measure(plan, seeing)
        results.vision.append(found)
        for speed in found.speeds:
            print(
                f"{found.model} {speed.items}, {speed.way}: {speed.per_second(speed.images):.1f} images/s,"
                f" {speed.per_second(speed.tokens):,.0f} tokens/s, {found.share(speed):.0%} of the peak"
            )
    leave_out("weights of models that read images", "random: their speed is real, their vectors mean nothing")
    if not torch.cuda.is_available():
        leave_out("compiled programs and memory of images", "they are measured on a GPU")


def _measure(plan: Plan, seeing: Seeing) -> Vision:
    sizes = (
        PUBLISHED[seeing.geometry].sizes(*seeing.layers, MOST_TOKENS, LARGEST) if seeing.geometry else tiny_vision.TINY
    )
    photos = [plan.photo_sizes[i % len(plan.photo_sizes)] for i in range(plan.photos)]
    words = np.random.default_rng(SEED).integers(*WORDS, len(photos)).tolist()
    precision = plan.precision or "bf16"
    with tempfile.TemporaryDirectory(dir=plan.folder) as scratch:
        source = tiny_vision.write_embedding(Path(scratch) / "source", sizes=sizes)
        spec = ModelSpec(
            name=seeing.name, task="text-embedding", source=str(source), backend="torch", precision=precision
        )
        (tower,) = text_embedding.load(spec, source)
        engine = Engine(write_graph(spec, tower, Path(scratch) / "1", lambda _: None), device=plan.device)
        model = vision_engines.library(source, engine)
        items = vision_engines.read(spec, model, vision_engines.contents(photos, words))
        speeds = [speed for one in items for speed in vision_engines.measure(engine, model, one, plan.rounds)]
        memory = {}
        if torch.cuda.is_available():  # pragma: needs a GPU
            compile_programs(engine, Path(scratch))
            speeds += [vision_engines.measure(engine, model, one, plan.rounds)[0] for one in items]
            memory = {one.name: _mib(engine, one) for one in items}
        peak = peak_flops(PEAK_S, TYPES[precision], plan.device, plan.matrix)
        return vision_engines.vision(seeing.name, model, speeds, peak, memory)


def _mib(engine: Engine, items: Items) -> float:  # pragma: needs a GPU
    """The GPU memory of a pack beside what is held before."""
    outputs: Sequence[str] = [engine.outputs[0].name]
    engine.run(items.rows, outputs)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    engine.run(items.rows, outputs)
    return (torch.cuda.max_memory_allocated() - before) / 2**20
