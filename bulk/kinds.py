"""The kinds of results, and the Arrow columns that hold them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Kind = Literal["dense", "sparse", "multi_vector", "labels"]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sparse:
    """The terms of a text."""

    indices: NDArray[np.int32]
    """Ids of the model's vocabulary, ascending."""
    values: Floats
    """The weight of each."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the server computed of a text. A kind that was not requested is None."""

    dense: Floats | None = None
    """[dimensions]."""
    sparse: Sparse | None = None
    multi_vector: Floats | None = None
    """[tokens, dimensions]; [0, 0] if the model leaves out all tokens."""
    labels: Mapping[str, float] | None = None
    """The scores, best first."""

    @property
    def shape(self) -> "Shape":
        """What all results of a job share."""
        return Shape(
            0 if self.dense is None else len(self.dense),
            0 if self.multi_vector is None else self.multi_vector.shape[1],
            () if self.labels is None else tuple(sorted(self.labels)),
        )


class Shape(msgspec.Struct, frozen=True):
    """What all results of a job share. What was not requested is 0 or empty."""

    width: int = 0
    """Dimensions of a dense vector."""
    token_width: int = 0
    """Dimensions of a token's vector."""
    labels: tuple[str, ...] = ()
    """The names of all labels, sorted."""

    def difference(self, result: Result) -> str | None:
        """How a result differs from this shape, as the end of a sentence; None if it does not."""
        found = result.shape
        if found.width != self.width:
            return f"vectors had {self.width} dimensions when the job started, but now have {found.width}"
        if found.token_width not in {0, self.token_width}:
            return f"token vectors had {self.token_width} dimensions, but now have {found.token_width}"
        if found.labels != self.labels:
            return "the model has other labels than when the job started"
        return None


Results = Sequence[Result | None]
"""A result for each text; None if it was refused."""


def _dense(results: Results, shape: Shape) -> pa.Array:
    empty = np.zeros(shape.width, np.float32)
    rows = [empty if one is None or one.dense is None else one.dense for one in results]
    return _fixed(np.concatenate(rows), shape.width, mask=_refused(results))


def _sparse(results: Results, _: Shape) -> pa.Array:
    found = [one.sparse for one in results if one is not None and one.sparse is not None]
    ends = _offsets(results, lambda one: 0 if one.sparse is None else len(one.sparse.indices))
    indices = np.concatenate([np.zeros(0, np.int32), *(one.indices for one in found)])
    values = np.concatenate([np.zeros(0, np.float32), *(one.values for one in found)])
    lists = [pa.ListArray.from_arrays(ends, pa.array(one)) for one in (indices, values)]
    return pa.StructArray.from_arrays(lists, ["indices", "values"], mask=_refused(results))


def _multi_vector(results: Results, shape: Shape) -> pa.Array:
    found = [one.multi_vector for one in results if one is not None and one.multi_vector is not None]
    ends = _offsets(results, lambda one: 0 if one.multi_vector is None else len(one.multi_vector))
    values = np.concatenate([np.zeros(0, np.float32), *(one.reshape(-1) for one in found)])
    return pa.ListArray.from_arrays(ends, _fixed(values, shape.token_width), mask=_refused(results))


def _labels(results: Results, _: Shape) -> pa.Array:
    scored = [pair for one in results if one is not None for pair in (one.labels or {}).items()]
    names, scores = ([pair[part] for pair in scored] for part in (0, 1))
    ends = _offsets(results, lambda one: len(one.labels or {}))
    pairs = pa.StructArray.from_arrays(
        [pa.array(names, pa.string()), pa.array(scores, pa.float32())], ["label", "score"]
    )
    return pa.ListArray.from_arrays(ends, pairs, mask=_refused(results))


COLUMNS: Mapping[Kind, tuple[str, Callable[[Results, Shape], pa.Array]]] = {
    "dense": ("embedding", _dense),
    "sparse": ("sparse", _sparse),
    "multi_vector": ("multi_vector", _multi_vector),
    "labels": ("labels", _labels),
}
"""The name of each kind's column, and what makes the column."""


def columns(kinds: Sequence[Kind], results: Results, shape: Shape) -> dict[str, pa.Array]:
    """A column for each kind, null where a text was refused."""
    return {name: make(results, shape) for name, make in (COLUMNS[kind] for kind in kinds)}


def _refused(results: Results) -> pa.Array:
    return pa.array([one is None for one in results])


def _offsets(results: Results, count: Callable[[Result], int]) -> pa.Array:
    counts = [0, *(0 if one is None else count(one) for one in results)]
    return pa.array(np.cumsum(counts), pa.int32())


def _fixed(values: Floats, width: int, **options: Any) -> pa.Array:  # noqa: ANN401 - as Arrow takes them
    return pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), width, **options)
