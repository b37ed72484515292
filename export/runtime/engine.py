"""Runs a packed graph on OpenVINO: rows of any length in, one vector or score a row out.

Copied into each entry beside `model.py`, and used by the export to verify what it copies.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Row = tuple[Ids, ...]
"""What one row of a batch holds: the token ids of each of its segments, 1-D and without padding."""

PACK_TOKENS = 512
"""Tokens in one execution. On two AVX-512 cores 384 to 512 gave the most tokens/s; beyond that the activations outgrow
the caches."""


@dataclass(frozen=True, slots=True)
class Segment:
    """The three inputs of a graph that make up one run of token ids a row."""

    ids: str
    """INT64 [b, L] at Triton, flattened in the graph."""
    length: str
    """INT32 [b, 1], the real tokens of each row."""
    stride: str
    """INT32 [b], the stored length of each row. Only the graph has it: Triton or the engine fills it in."""


SEGMENTS = (
    Segment("input_ids", "length", "row_stride"),
    Segment("query_ids", "query_length", "query_stride"),
    Segment("document_ids", "document_length", "document_stride"),
)


class InvalidTensorsError(ValueError):
    """The tensors of one request do not fit the contract."""


class Engine:
    """A compiled graph. Not thread-safe: one a Triton instance."""

    def __init__(self, graph: Path, precision: str | None = None) -> None:
        """Compile the ONNX file `graph`.

        Args:
            graph: a packed graph as the export writes them.
            precision: "f32" or "bf16"; by default bf16 where the processor computes in it, else f32.
        """
        settings: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            # By default OpenVINO counts physical cores, and takes a virtual machine's two CPUs for one.
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
        }
        if precision is not None:
            settings["INFERENCE_PRECISION_HINT"] = precision
        compiled = ov.Core().compile_model(graph, "CPU", settings)
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        names = {name for port in compiled.inputs for name in port.names}
        self.segments = tuple(segment for segment in SEGMENTS if segment.ids in names)
        self.width = compiled.outputs[0].partial_shape[1].get_length()
        self._request = compiled.create_infer_request()

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Compute every row, [N, width], in the order given."""
        results = np.empty((len(rows), self.width), np.float32)
        costs = [sum(len(ids) for ids in row) for row in rows]
        for pack in packs(costs, PACK_TOKENS):
            results[pack] = self._execute([rows[i] for i in pack])
        return results

    def _execute(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        feed: dict[str, NDArray[np.generic]] = {}
        for segment, ids in zip(self.segments, zip(*rows, strict=True), strict=True):
            length = np.fromiter(map(len, ids), np.int32, len(ids))
            feed[segment.ids] = np.concatenate(ids)
            feed[segment.stride] = length
            feed[segment.length] = length[:, None]
        result: NDArray[np.float32] = self._request.infer(feed, share_inputs=True, share_outputs=True)[0]
        return result


def packs(costs: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut rows into packs of similar cost, each within the budget unless one row alone exceeds it.

    Args:
        costs: tokens of each row.
        budget: tokens a pack may hold.

    Yields:
        The indices of each pack's rows; together every row exactly once.
    """
    pack: list[int] = []
    total = 0
    for row in sorted(range(len(costs)), key=costs.__getitem__):
        if pack and total + costs[row] > budget:
            yield pack
            pack, total = [], 0
        pack.append(row)
        total += costs[row]
    if pack:
        yield pack


def read_rows(
    tensors: Mapping[str, NDArray[np.generic]], segments: Sequence[Segment], max_tokens: int, vocabulary_size: int
) -> list[Row]:
    """Take the rows of one request out of its tensors, without their padding.

    Args:
        tensors: by name, the ids INT64 [b, L] and lengths INT32 [b, 1] of every segment.
        segments: of the graph.
        max_tokens: the most that one segment of a row may hold.
        vocabulary_size: ids are below this.

    Raises:
        InvalidTensorsError: a length is not in 1..min(L, max_tokens), an id is not in the vocabulary, or the
            segments differ in rows. Checked here since the graph would answer garbage for the neighbours as well.
    """
    columns: list[list[Ids]] = []
    for segment in segments:
        ids, length = tensors[segment.ids], tensors[segment.length]
        limit = min(ids.shape[1], max_tokens)
        if len(ids) != len(length) or len(ids) != len(tensors[segments[0].ids]):
            raise InvalidTensorsError(f"{segment.ids} and {segment.length} must have as many rows as each other input")
        if length.min() < 1 or length.max() > limit:
            raise InvalidTensorsError(f"{segment.length} must be in 1..{limit}")
        column = [row[:n] for row, n in zip(ids, length[:, 0].tolist(), strict=True)]
        if any(row.min() < 0 or row.max() >= vocabulary_size for row in column):
            raise InvalidTensorsError(f"{segment.ids} must be in 0..{vocabulary_size - 1}")
        columns.append(column)
    return list(zip(*columns, strict=True))
