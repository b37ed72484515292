"""The tasks a text tower can be exported for: inputs, output and head of each, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from export.errors import SourceError
from export.heads import POOLINGS, LateInteraction, TextEmbedding
from export.packed import PackedTower
from export.runtime.engine import SEGMENTS, Segment
from export.tower import TextTower


@dataclass(frozen=True, slots=True)
class TaskGraph:
    """The shape of one task's graph."""

    segments: tuple[Segment, ...]
    output: str
    width: Callable[[TextTower], int]
    """The output is FP32 [b, width]."""
    head: Callable[[TextTower], torch.nn.Module]


def _embedding(tower: TextTower) -> torch.nn.Module:
    if tower.pooling not in POOLINGS:
        raise SourceError(f"[{tower.name}] source: pooling {tower.pooling!r} is not one of {', '.join(POOLINGS)}")
    return TextEmbedding(PackedTower(tower.model), POOLINGS[tower.pooling])


def _late_interaction(tower: TextTower) -> torch.nn.Module:
    return LateInteraction(PackedTower(tower.model))


_SEGMENT = {segment.ids: segment for segment in SEGMENTS}

TASKS: Mapping[str, TaskGraph] = {
    "text-embedding": TaskGraph(
        segments=(_SEGMENT["input_ids"],),
        output="embedding",
        width=lambda tower: tower.width,
        head=_embedding,
    ),
    "late-interaction": TaskGraph(
        segments=(_SEGMENT["query_ids"], _SEGMENT["document_ids"]),
        output="score",
        width=lambda _: 1,
        head=_late_interaction,
    ),
}
