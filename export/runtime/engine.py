"""Runs a graph on OpenVINO: rows of any length in, one vector or score a row out.

Copied into each entry beside `model.py`, and used by the export to verify what it copies.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

Array = NDArray[np.generic]
Ids = NDArray[np.int64]
Row = tuple[Array, ...]
"""What one row of a batch holds, a value for each field of the graph: token ids 1-D and without padding, a number 0-D,
or the pixels of an image."""

PACK_TOKENS = 512
"""Tokens in one execution. On two AVX-512 cores 384 to 512 gave the most tokens/s; beyond that the activations outgrow
the caches."""
KERNELS = 1000
"""That are kept of all that were compiled for the sizes of packs. By default 5000 are, some 200 MiB more, by which no
workload gets faster; with 500, some are slower by a twentieth."""
PACK_COST = 20
"""What an execution takes beside its rows, in the time of so many tokens. This and the next are of all-MiniLM-L6-v2 in
bf16 on two cores; they are lower and higher for larger models, for which it matters less where packs are cut."""
CELLS_A_TOKEN = 900
"""Cells of attention, a token seeing a token or padding, that take as long as the rest of the work on a token."""
IMAGE_TOKENS = 128
"""What an image counts for in a pack."""


class InvalidTensorsError(ValueError):
    """The tensors of one request do not fit the contract."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model takes."""

    max_tokens: int = 0
    """The most that one run of token ids may hold."""
    vocabulary_size: int = 0
    """Ids are below this."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One run of token ids a row: three inputs of the graph."""

    ids: str
    """INT64 [b, L] at Triton, flattened in the graph."""
    length: str
    """INT32 [b, 1], the real tokens of each row."""
    stride: str
    """INT32 [b], the stored length of each row. Only the graph has it: Triton or the engine fills it in."""

    @property
    def name(self) -> str:
        """The graph's input by which it is recognised."""
        return self.ids

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors of a request."""
        return (self.ids, self.length)

    def cost(self, value: Array) -> int:
        """Tokens that a row's value counts for in a pack."""
        return len(value)

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        """The graph's inputs for a pack of rows."""
        length = np.fromiter(map(len, values), np.int32, len(values))
        return {self.ids: np.concatenate(values), self.stride: length, self.length: length[:, None]}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:
        """Take each row's ids out of a request's tensors, without their padding."""
        ids, length = tensors[self.ids], tensors[self.length]
        limit = min(ids.shape[1], limits.max_tokens)
        _check_range(self.length, length, 1, limit)
        rows: list[Array] = [row[:n] for row, n in zip(ids, length[:, 0].tolist(), strict=True)]
        for row in rows:
            _check_range(self.ids, row, 0, limits.vocabulary_size - 1)
        return rows


@dataclass(frozen=True, slots=True)
class Prefix:
    """How many tokens at the front of a row stand apart, INT32 [b, 1]."""

    name: str
    of: str
    """The length of the whole row."""
    least: int

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def cost(self, value: Array) -> int:  # noqa: ARG002
        return 0

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        return {self.name: np.array(values, np.int32)[:, None]}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:  # noqa: ARG002
        lengths = tensors[self.name]
        if np.less(tensors[self.of], lengths).any():
            raise InvalidTensorsError(f"{self.name} must not exceed {self.of}")
        _check_range(self.name, lengths, self.least, None)
        return list(lengths[:, 0])


@dataclass(frozen=True, slots=True)
class Pixels:
    """One image a row, UINT8 [b, 3, H, W]."""

    name: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.name,)

    def cost(self, value: Array) -> int:  # noqa: ARG002
        return IMAGE_TOKENS

    def feed(self, values: Sequence[Array]) -> dict[str, Array]:
        return {self.name: np.stack(values)}

    def read(self, tensors: Mapping[str, Array], limits: Limits) -> list[Array]:  # noqa: ARG002
        return list(tensors[self.name])


Field = Tokens | Prefix | Pixels

FIELDS: tuple[Field, ...] = (
    Tokens("input_ids", "length", "row_stride"),
    Prefix("first_length", "length", least=1),  # the first segment, which has segment embeddings of its own
    Prefix("prompt_length", "length", least=0),  # the prompt, which is not pooled
    Tokens("query_ids", "query_length", "query_stride"),
    Tokens("document_ids", "document_length", "document_stride"),
    Pixels("pixels"),
)
"""All that a graph may take. Which of them one does, its inputs tell."""


class Engine:
    """A compiled graph. Not thread-safe: one a Triton instance."""

    def __init__(self, graph: Path, precision: str | None = None) -> None:
        """Compile a graph as the export writes them.

        Args:
            graph: an ONNX or OpenVINO file.
            precision: "f32" or "bf16"; by default bf16 where the processor computes in it, else f32.
        """
        settings: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            # By default OpenVINO counts physical cores, and takes a virtual machine's two CPUs for one.
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            # Each thread kept on a core of its own would wait there for the gateway, or for another model's.
            "ENABLE_CPU_PINNING": False,
            "CPU_RUNTIME_CACHE_CAPACITY": KERNELS,
        }
        if precision is not None:
            settings["INFERENCE_PRECISION_HINT"] = precision
        compiled = ov.Core().compile_model(graph, "CPU", settings)
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        names = {name for port in compiled.inputs for name in port.names}
        self.fields = tuple(field for field in FIELDS if field.name in names)
        self.width = compiled.outputs[0].partial_shape[1].get_length()
        self.tokens = 0
        """Computed so far."""
        self.padding = 0.0
        """Work on padding so far, in tokens. Only attention sees any: each row of a pack as long as the longest."""
        self._request = compiled.create_infer_request()

    def run(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Compute every row, [N, width], in the order given."""
        results = np.empty((len(rows), self.width), np.float32)
        costs = [sum(field.cost(value) for field, value in zip(self.fields, row, strict=True)) for row in rows]
        for pack in packs(costs, PACK_TOKENS):
            results[pack] = self._execute([rows[i] for i in pack])
            lengths = [costs[i] for i in pack]
            self.tokens += sum(lengths)
            self.padding += (len(pack) * max(lengths) ** 2 - sum(length**2 for length in lengths)) / CELLS_A_TOKEN
        return results

    def _execute(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        feed: dict[str, Array] = {}
        for field, values in zip(self.fields, zip(*rows, strict=True), strict=True):
            feed |= field.feed(values)
        result: NDArray[np.float32] = self._request.infer(feed, share_inputs=True, share_outputs=True)[0]
        return result


def packs(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into packs of similar cost, each within the budget unless one row alone exceeds it.

    Of all ways to cut the rows in order of their cost, the one that takes the least time: few packs, and little padding
    in attention, where each row of a pack is as long as the longest.

    Args:
        costs: tokens of each row.
        budget: tokens a pack may hold.

    Returns:
        The indices of each pack's rows, packs of short ones first; together every row exactly once.
    """
    order = sorted(range(len(costs)), key=costs.__getitem__)
    best = [0.0]  # the least time for so many of the first rows
    cut = [0]  # and where the last pack begins then
    for end in range(1, len(order) + 1):
        longest = costs[order[end - 1]]
        choices: list[tuple[float, int]] = []
        tokens = 0
        for start in range(end - 1, -1, -1):
            tokens += costs[order[start]]
            if tokens > budget and choices:
                break
            # The tokens themselves take the same time however they are cut.
            choices.append((best[start] + PACK_COST + (end - start) * longest**2 / CELLS_A_TOKEN, start))
        time, start = min(choices)
        best.append(time)
        cut.append(start)
    found = []
    end = len(order)
    while end:
        found.append(order[cut[end] : end])
        end = cut[end]
    return found[::-1]


def read_rows(tensors: Mapping[str, Array], fields: Sequence[Field], limits: Limits) -> list[Row]:
    """Take the rows of one request out of its tensors, without their padding.

    Args:
        tensors: the inputs of every field, by name, as Triton has them: rows first.
        fields: of the graph.
        limits: of the model.

    Raises:
        InvalidTensorsError: a length is not in 1..min(L, max_tokens), an id is not in the vocabulary, or the tensors
            differ in rows. Checked here since the graph would answer garbage for the neighbours as well.
    """
    rows = {name: len(tensors[name]) for field in fields for name in field.inputs}
    if len(set(rows.values())) > 1:
        raise InvalidTensorsError(f"the inputs must have as many rows as each other, not {rows}")
    return list(zip(*(field.read(tensors, limits) for field in fields), strict=True))


def _check_range(name: str, values: Array, low: int, high: int | None) -> None:
    if values.min() < low or (high is not None and values.max() > high):
        raise InvalidTensorsError(f"{name} must be in {low}..{'' if high is None else high}")
