"""Rows of token ids, which a text graph first makes of its inputs."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows of token ids, padded at the end to the longest, L."""

    ids: Tensor
    """int64 [N, L]."""
    length: Tensor
    """int64 [N], tokens to compute of each row, at least 1."""
    visible: Tensor
    """int64 [N], tokens of each row that others attend to: all, or those before its expansion."""
    first_length: Tensor | None = None
    """int64 [N], tokens of the first segment, for models with segment embeddings."""
    prompt_length: Tensor | None = None
    """int64 [N], tokens at the front of each row that are not pooled."""

    @property
    def valid(self) -> Tensor:
        """bool [N, L], true where there is a token."""
        return self._columns() < self.length[:, None]

    @property
    def attended(self) -> Tensor:
        """bool [N, L], true where there is a token that others attend to."""
        return self._columns() < self.visible[:, None]

    @property
    def pooled(self) -> Tensor:
        """bool [N, L], true where there is a token that counts for the vector of its row."""
        if self.prompt_length is None:
            return self.valid
        return self.valid & (self._columns() >= self.prompt_length[:, None])

    @property
    def pooled_length(self) -> Tensor:
        """int64 [N], how many of those there are, and 1 where there are none."""
        if self.prompt_length is None:
            return self.length
        return (self.length - self.prompt_length).clamp(min=1)

    @property
    def hides(self) -> bool:
        """Whether there may be tokens that others do not attend to."""
        return self.visible is not self.length

    @property
    def segments(self) -> Tensor:
        """int64 [N, L], the segment of each token: 0 or 1."""
        if self.first_length is None:
            return torch.zeros_like(self.ids)
        return (self._columns() >= self.first_length[:, None]).to(torch.int64)

    def _columns(self) -> Tensor:
        return columns(self.ids.shape[1])[None]

    def expanded(self, to: int, token: int, *, attended: bool) -> "Rows":
        """Rows shorter than `to` tokens filled up with a token, which the others attend to or not.

        ColBERT expands queries with its mask token (Khattab and Zaharia 2020, arXiv 2004.12832, section 3.2), and
        SigLIP has only ever seen texts of one length.
        """
        length = self.length.clamp(min=to)
        width = torch.maximum(torch.as_tensor(self.ids.shape[1]), torch.tensor(to))
        column = columns(width)
        ids = self.ids[:, torch.minimum(column, torch.as_tensor(self.ids.shape[1]) - 1)]
        ids = torch.where(column[None] < self.length[:, None], ids, token)
        return Rows(ids, length, length if attended else self.length, self.first_length)


def from_ragged(ids: Tensor, stride: Tensor, length: Tensor, padding: int) -> Rows:
    """Rows out of what Triton's ragged batching delivers.

    Args:
        ids: int64, the rows one behind the other, each `stride` long.
        stride: integers [N], the stored length of each row, tokens and what pads them.
        length: integers [N, 1], the real tokens of each row, at most `stride`.
        padding: the token to pad with.
    """
    stride = stride.to(torch.int64)
    length = torch.minimum(length.squeeze(1).to(torch.int64), stride).clamp(min=1)  # never into another's row
    start = torch.cumsum(stride, 0) - stride
    column = columns(length.max())
    valid = column[None] < length[:, None]
    place = torch.where(valid, start[:, None] + column[None], torch.zeros_like(column)[None])
    return Rows(torch.where(valid, ids[place], padding), length, length)


def from_rectangle(ids: Tensor, length: Tensor, padding: int) -> Rows:
    """Rows out of a padded batch: ids int64 [N, L] with anything behind the real tokens, length integers [N, 1]."""
    length = length.squeeze(1).to(torch.int64)
    valid = columns(ids.shape[1])[None] < length[:, None]
    return Rows(torch.where(valid, ids, padding), length, length)


def columns(count: Tensor | int) -> Tensor:
    """0, 1, ... below a count that is a tensor while tracing, or it would become a constant of the graph."""
    return torch.arange(cast(int, count))
