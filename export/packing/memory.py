"""The memory that attention takes, and the number of rows that it leaves room for.

A row of L tokens has heads x L x L scores: 4 GiB in fp32 at 8,192 tokens and 16 heads. A graph that computes them whole
computes them for a slice of the queries at a time, and a batch, whose rows are all padded to the longest, has as many
rows as there is memory for.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from export.manifest import Backend, ModelSpec, Precision
from export.packing.encoder import RowEncoder
from export.runtime.contract import Tokens
from export.tower import Tower

MAX_BATCH_SIZE = 64
"""Rows in one execution on a CPU. The engine cuts them into packs of its own, so that more would only lengthen the wait
of the first; fewer would leave the packs uneven."""
GPU_ROWS: Mapping[Backend, int] = {"torch": 1024, "onnxruntime": 512, "tensorrt": 512}
"""Rows in one execution on a GPU, which computes hundreds of short ones in the time of one. The engine of `torch` cuts
them by tokens itself and keeps no scores; other backends execute what Triton has merged."""
GPU_IMAGES = 64
"""Pictures in one execution of a graph: each has hundreds of patches, so that these keep a GPU busy."""
PADDED_TOKENS = 65536
"""Tokens, padding included, that one execution on a GPU has memory for, beside the scores of its attention: 4 GiB, at
64 KiB each for the widest layer of an encoder of 1,024 dimensions and what lives beside it."""
SCORE_BYTES: Mapping[Precision, int] = {"fp32": 3 * 4, "fp16": 2 * 4}
"""Bytes of one score in all copies that exist at a time: the product, the masked and the softmaxed one. In a graph of
mixed precision one of them may be in fp32, as in families that cap their scores."""
SLICE_BYTES = 3 << 29
"""Bytes of the scores of one row that a graph computes at a time. More slices mean more kernels, for short rows too."""
BATCH_BYTES = 6 << 30
"""Scores of one batch, of a GPU's memory: 6 GiB."""
PROOF_BYTES = 3 << 30
"""Scores of one batch of a verification, of the memory of the machine that exports: 3 GiB."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The memory that attention takes in a tower's graph."""

    cell_bytes: int = 0
    """For a token that sees a token, or padding, in all heads; 0 where no scores are kept."""
    slices: int = 1
    """Slices that the queries of a row are cut into."""

    @classmethod
    def of(cls, spec: ModelSpec, tower: Tower) -> "Attention":
        """The attention of a tower whose graph is traced and served as its table says.

        OpenVINO and the kernels of torch fuse attention and never have its scores whole; the other backends compute
        what the graph says.
        """
        encoders = [module for module in tower.head.modules() if isinstance(module, RowEncoder)]
        if spec.backend in ("python", "torch") or tower.vocabulary is None or not encoders:
            return cls()
        # A packed graph pads queries and documents alike.
        texts = sum(isinstance(field, Tokens) for field in tower.fields) if tower.packed else 1
        cell = texts * max(encoder.heads for encoder in encoders) * SCORE_BYTES[spec.computes_in]
        row = cell * tower.vocabulary.max_tokens**2
        slices = math.ceil(row / SLICE_BYTES) if all(encoder.is_sliceable for encoder in encoders) else 1
        return cls(cell, max(1, slices))

    def rows(self, longest: int, budget: int) -> int | None:
        """Rows of up to `longest` tokens whose scores fit into a budget of bytes, at least 1; None for any number."""
        if not self.cell_bytes:
            return None
        return max(1, budget // (self.cell_bytes * math.ceil(longest / self.slices) * longest))


def max_batch_size(spec: ModelSpec, tower: Tower) -> int:
    """Rows in one execution.

    Engines of the python backend cut batches themselves. A graph executes what Triton has merged, and Triton counts
    nothing but rows: so there are as many as a GPU has memory for if each is as long as the model takes them. One long
    row then never takes memory that its neighbours need, since all are padded to it in attention.
    """
    if spec.backend == "python":
        return MAX_BATCH_SIZE
    rows = GPU_ROWS[spec.backend]
    if spec.backend == "torch":
        return rows
    if tower.vocabulary is None:
        return GPU_IMAGES
    longest = tower.vocabulary.max_tokens
    by_attention = Attention.of(spec, tower).rows(longest, BATCH_BYTES) or rows
    return max(1, min(rows, PADDED_TOKENS // longest, by_attention))
