"""A vision-language model in process: the engine with packs and row by row, and sentence-transformers' own call.

All of them get the same rows, whose texts are tokenized and whose images are resized beforehand.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from export.manifest import ModelSpec
from export.plans.measures import Vectors, cosine_errors
from export.runtime.contract import EMBEDDING, Row
from export.runtime.inputs import Layout, Pack
from export.runtime.program import TYPES
from export.runtime.torch_engine import Engine
from export.tasks import chat
from export.tasks.chat import Content
from export.tasks.vision_rows import VisionRows
from loadtest.tools.pictures import scene
from loadtest.tools.vision_models import weights
from loadtest.tools.vision_results import COMPILED, LIBRARY, PACKED, SINGLY, Speed, Vision
from loadtest.tools.workloads import SEED, texts


@dataclass(frozen=True, slots=True)
class Items:
    """Items of one kind."""

    name: str
    rows: Sequence[Row]
    features: Mapping[str, Any]
    """The same as sentence-transformers hands them to its model: texts padded to the longest."""

    @property
    def images(self) -> int:
        """Of all items."""
        return sum(len(row[2]) for row in self.rows)

    @property
    def patches(self) -> int:
        """Of all images."""
        return sum(len(row[1]) for row in self.rows)

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(len(row[0]) for row in self.rows)


def contents(photos: Sequence[tuple[int, int]], words: Sequence[int]) -> Mapping[str, Sequence[Content]]:
    """Items to measure with: photos alone, texts alone, and a photo with a text each.

    Args:
        photos: width and height of each, in pixels.
        words: of each text.
    """
    seen: list[Image.Image] = [scene(width, height, seed) for seed, (width, height) in enumerate(photos)]
    written = texts(np.random.default_rng(SEED), np.array(words))
    return {
        "photos": [[photo] for photo in seen],
        "texts": [[text] for text in written],
        "photos with texts": [[text, photo] for text, photo in zip(written, seen, strict=False)],
    }


def read(spec: ModelSpec, model: SentenceTransformer, given: Mapping[str, Sequence[Content]]) -> list[Items]:
    """Make rows of items, and what sentence-transformers makes of the same."""
    first: Any = model[0]
    rows, template = VisionRows.of(spec, first, first.max_seq_length), chat.of_messages(spec, first)
    found = []
    for name, items in given.items():
        seen = [rows.read(item) for item in items]
        features = model.preprocess([chat.message(item) for item in items])
        found.append(Items(name, [rows.row(template.render(one), one) for one in seen], features))
    return found


@torch.inference_mode()
def measure(engine: Engine, model: SentenceTransformer, items: Items, rounds: int) -> list[Speed]:
    """Compute items in each way, in turns, so that a slow moment of the machine affects all ways.

    Args:
        engine: of a program.
        model: the same of sentence-transformers, on the same device and in the same precision.
        items: to compute.
        rounds: how often; one more before does not count.
    """
    packed = PACKED if engine.uncompiled is not None else COMPILED
    ways: dict[str, Callable[[], Vectors]] = {
        packed: lambda: _vectors(engine, items.rows),
        SINGLY: lambda: np.concatenate([_vectors(engine, [row]) for row in items.rows]),
        LIBRARY: lambda: _library_vectors(model, items.features),
    }
    made = {way: compute() for way, compute in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            began = time.perf_counter()
            ways[way]()
            seconds[way].append(time.perf_counter() - began)
    return [
        Speed(
            items.name,
            way,
            len(items.rows),
            items.images,
            items.patches,
            items.tokens,
            taken,
            float(cosine_errors(made[LIBRARY], made[way]).max()),
        )
        for way, taken in seconds.items()
    ]


def _library_vectors(model: SentenceTransformer, given: Mapping[str, Any]) -> Vectors:
    def placed(value: torch.Tensor) -> torch.Tensor:
        return value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)

    features = {name: placed(value) if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    vectors: Vectors = model(features)["sentence_embedding"].float().cpu().numpy()
    return vectors


def _vectors(engine: Engine, rows: Sequence[Row]) -> Vectors:
    return np.asarray(engine.run(rows, [EMBEDDING])[EMBEDDING], np.float32)


def host_seconds(engine: Engine, rows: Sequence[Row]) -> float:
    """The time that a host takes to lay out rows, and to make what a program needs to know of grids."""
    began = time.perf_counter()
    pack = Pack(engine.spec.fields, rows, engine.spec.expansion, engine.spec.vision)
    layout = Layout(engine.spec.inputs_of(images=pack.has_images), pack.sizes, more=pack.shapes)
    pack.write(layout.views(np.empty(layout.size, np.int32)), pack.sizes)
    return time.perf_counter() - began


def library(folder: Path, engine: Engine) -> SentenceTransformer:
    """The model of sentence-transformers, on the device of an engine and in its precision."""
    model = SentenceTransformer(str(folder), device=str(engine.device)).eval()
    return model.to(TYPES[engine.precision])


def vision(
    name: str,
    model: SentenceTransformer,
    speeds: list[Speed],
    peak_flops: float,
    mib: Mapping[str, float] | None = None,
) -> Vision:
    """What was measured of a model.

    Args:
        name: its own.
        model: of sentence-transformers.
        speeds: in process.
        peak_flops: of large matrix products.
        mib: GPU memory of a pack, by its items.
    """
    inside: Any = model[0]
    config = inside.auto_model.config
    layers = config.text_config.num_hidden_layers, config.vision_config.depth
    return Vision(
        name, layers, len(model.tokenizer), weights(inside.auto_model), speeds, peak_flops / 1e9, dict(mib or {})
    )
