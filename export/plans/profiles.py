"""The specification of a TensorRT plan: optimization profiles, the tolerance of its outputs, and the cache key.

Read in the serving image too: standard library and numpy only.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from export.errors import ExportError
from export.plans.measures import Limit, Tolerance

BUCKETS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens to which a batch's rows are padded. A row is less than twice as long as it need be."""
OPTIMAL_TOKENS = 8192
"""Tokens of the execution that kernels are tuned for. This many keep a GPU busy, and more only wait longer; the largest
batch is allowed, but not tuned for."""
QUERY_TOKENS = 32
"""Tokens that the queries of pairs are tuned for: they are short."""
IMAGE_TOKENS = 256
"""Patches of one picture, for `OPTIMAL_TOKENS`: 224 pixels in patches of 16 or 14 make 196 or 256."""

Shape = tuple[int, ...]


class Shapes(NamedTuple):
    """The shapes of one input."""

    min: Shape
    opt: Shape
    max: Shape

    def admits(self, shape: Shape) -> bool:
        """Whether a tensor of this shape may be fed."""
        return len(shape) == len(self.min) and all(
            low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """Ranges of shapes that share their kernels."""

    inputs: Mapping[str, Shapes]
    """All inputs of the graph by name."""

    def admits(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether these inputs may be fed."""
        return shapes.keys() == self.inputs.keys() and all(self.inputs[name].admits(shapes[name]) for name in shapes)


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """plan.json: how to build an entry's plan and when to trust it."""

    profiles: tuple[Profile, ...]
    limits: Mapping[str, Limit]
    """The measures and tolerances of what is compared of its outputs."""
    workspace_mib: int = 4096
    """GPU memory that a kernel may use as scratch space."""


def length_buckets(max_tokens: int) -> tuple[int, ...]:
    """The buckets of a model that takes rows of 1 to `max_tokens` tokens, ascending; the last is its limit."""
    return (*(bucket for bucket in BUCKETS if bucket < max_tokens), max_tokens)


def text_profiles(
    ids: Sequence[str], columns: Sequence[str], buckets: Sequence[int], max_batch: int
) -> tuple[Profile, ...]:
    """One profile a bucket, for rows longer than the bucket before it.

    All reach to `max_batch` rows: Triton merges so many whatever their bucket, and a batch that fits no profile fails.

    Args:
        ids: the inputs [b, L]. Of two, queries and documents, the documents are in buckets and the queries in one
            range up to the last bucket: a profile for every pair of buckets would build for hours, and queries are few
            tokens next to their documents.
        columns: the inputs [b, 1].
        buckets: ascending.
        max_batch: rows in one execution.
    """
    *queries, documents = ids
    profiles = []
    for below, bucket in pairwise((0, *buckets)):
        rows = _rows(bucket, max_batch)
        longest = buckets[-1]
        inputs = {name: Shapes((1, 1), (rows, min(QUERY_TOKENS, longest)), (max_batch, longest)) for name in queries}
        inputs[documents] = Shapes((1, below + 1), (rows, bucket), (max_batch, bucket))
        inputs |= {name: Shapes((1, 1), (rows, 1), (max_batch, 1)) for name in columns}
        profiles.append(Profile(inputs))
    return tuple(profiles)


def image_profiles(height: int, width: int, max_batch: int, name: str = "pixels") -> tuple[Profile, ...]:
    """The one profile of a graph that takes [b, 3, height, width]."""
    rows = _rows(IMAGE_TOKENS, max_batch)
    pixels = (3, height, width)
    return (Profile({name: Shapes((1, *pixels), (rows, *pixels), (max_batch, *pixels))}),)


def _rows(tokens: int, max_batch: int) -> int:
    return min(max_batch, max(1, OPTIMAL_TOKENS // tokens))


def write_spec(spec: PlanSpec, path: Path) -> None:
    """Write plan.json."""
    path.write_text(json.dumps(asdict(spec), indent=2) + "\n")


def read_spec(path: Path) -> PlanSpec:
    """Read what `write_spec` wrote.

    Raises:
        FileNotFoundError: there is no plan.json.
        ExportError: another version of the export wrote it.
    """
    content = json.loads(path.read_text())
    try:
        profiles = tuple(
            Profile({name: Shapes(*map(tuple, shapes)) for name, shapes in profile["inputs"].items()})
            for profile in content.pop("profiles")
        )
        limits = {
            output: Limit(limit["measure"], Tolerance(**limit["tolerance"]))
            for output, limit in content.pop("limits").items()
        }
        return PlanSpec(profiles, limits, **content)
    except (KeyError, TypeError) as exc:
        raise ExportError(f"read: another version of the export wrote {path.name}; export the entry again") from exc


def graph_hash(path: Path) -> str:
    """SHA-256, in hex, of a graph's file and of the weights in `<name>.data` beside it, if there are any."""
    digest = hashlib.sha256()
    weights = path.with_name(f"{path.name}.data")
    for file in (path, weights) if weights.is_file() else (path,):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
