"""Packed graphs: a text tower that computes on real tokens only, in plain ONNX operators.

Rows of different length stand one behind the other in a single sequence of T tokens, so every per-token operation
(embeddings, linear layers, normalisation: nearly all of the work) runs on exactly T tokens. Only the attention needs
rows: it scatters queries, keys and values to a padded [N, H, L, d] and gathers the result back.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from export.errors import SourceError

MASKED_SCORE = -1e4
"""Attention score of a key that is not there. Its softmax weight is 0 in every precision, and, unlike -inf or the
lowest float32, it survives a cast to float16."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the T tokens of N packed rows stand; L is the length of the longest row."""

    length: Tensor
    """int64 [N], the tokens of each row, at least 1."""
    start: Tensor
    """int64 [N], where each row begins in the packed sequence."""
    row: Tensor
    """int64 [T], the row of each token."""
    position: Tensor
    """int64 [T], the place of each token in its row, from 0."""
    valid: Tensor
    """bool [N, L], true where the padded form holds a token."""
    padding: Tensor
    """int64 [N, L], the token that each cell of the padded form takes (the first one where there is none)."""
    packing: Tensor
    """int64 [T], the cell of the flattened padded form that holds each token."""

    @classmethod
    def of(cls, length: Tensor) -> "Layout":
        """Lay out rows of the given lengths, int64 [N]."""
        end = torch.cumsum(length, 0)
        start = end - length
        width = length.max()
        token = torch.arange(cast(int, length.sum()))  # a tensor while tracing, or it would become a constant
        row = (token[:, None] >= end[None]).to(torch.int64).sum(1)
        position = token - start[row]
        column = torch.arange(cast(int, width))
        valid = column[None] < length[:, None]
        padding = torch.where(valid, start[:, None] + column[None], torch.zeros_like(column)[None])
        return cls(length, start, row, position, valid, padding, packing=row * width + position)

    def pad(self, packed: Tensor) -> Tensor:
        """[T, ...] to [N, L, ...]; cells without a token repeat the first one."""
        return packed[self.padding]

    def pack(self, padded: Tensor) -> Tensor:
        """[N, L, ...] to [T, ...]."""
        return padded.flatten(0, 1)[self.packing]


def pack_rows(ids: Tensor, stride: Tensor, layout: Layout) -> Tensor:
    """Take the real tokens out of flattened rows.

    Args:
        ids: int64, the rows one behind the other, each `stride` long: what Triton's ragged batching delivers.
        stride: integers [N], the stored length of each row, tokens and what pads them.
        layout: of the real lengths, at most `stride` each.

    Returns:
        int64 [T], the real tokens.
    """
    stride = stride.to(torch.int64)
    stored = torch.cumsum(stride, 0) - stride
    return ids[stored[layout.row] + layout.position]


class PackedTower(torch.nn.Module):
    """Token vectors of packed rows.

    Works for a bidirectional transformers encoder whose attention goes through `scaled_dot_product_attention` and
    whose forward takes `position_ids`, counted from 0. Whether a model is one of these is not guessed: an exported
    graph counts only once its numbers are those of the model run row by row.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.has_segments = "token_type_ids" in inspect.signature(model.forward).parameters

    def forward(self, ids: Tensor, layout: Layout) -> Tensor:
        """Encode int64 [T] packed ids to [T, D] token vectors."""
        # Left out, models take the segment ids from a buffer as long as one row may be; T is longer.
        segments = {"token_type_ids": torch.zeros_like(ids)[None]} if self.has_segments else {}
        with attention(_rowwise(layout)):
            output = self.model(
                input_ids=ids[None],
                position_ids=layout.position[None],
                attention_mask=torch.ones_like(ids)[None],
                **segments,
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden


@contextmanager
def attention(function: Callable[..., Tensor]) -> Iterator[None]:
    """Let `function` stand in for `scaled_dot_product_attention` inside the block.

    Models call it through the module, so that tracing one inside the block records the replacement.
    """
    original = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = function
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


def _rowwise(layout: Layout) -> Callable[..., Tensor]:
    """Attention over packed [1, H, T, d] tensors in which a token sees the tokens of its own row only."""

    def rowwise(  # the signature of torch's
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,  # noqa: ARG001 - all ones: the layout says which keys a row has
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if is_causal or enable_gqa or dropout_p:
            raise SourceError("this model's attention is causal or grouped, which packed graphs do not support yet")
        heads, width = query.shape[1], query.shape[3]

        def rows(packed: Tensor) -> Tensor:  # [1, H, T, d] -> [N, H, L, d]
            return layout.pad(packed[0].transpose(0, 1)).transpose(1, 2)

        scores = rows(query) @ rows(key).transpose(-1, -2) * (scale or 1 / math.sqrt(width))  # [N, H, L, L]
        scores = scores.masked_fill(~layout.valid[:, None, None, :], MASKED_SCORE)
        mixed = torch.softmax(scores, -1) @ rows(value)  # [N, H, L, d]
        return layout.pack(mixed.transpose(1, 2)).reshape(-1, heads, width).transpose(0, 1)[None]

    return rowwise
