"""The places of rows that stand one behind the other."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """The positions of the T tokens of N packed rows; L is the length of the longest row."""

    length: Tensor
    """int64 [N], the tokens of each row, at least 1; N may be 0."""
    start: Tensor
    """int64 [N], where each row begins in the packed sequence."""
    position: Tensor
    """int64 [T], the place of each token in its row, from 0."""
    padding: Tensor
    """int64 [N, L], the token that each cell of the padded form takes: behind the row's last one, that one again."""
    packing: Tensor
    """int64 [T], the cell of the flattened padded form that holds each token."""

    @classmethod
    def of(cls, length: Tensor) -> "Layout":
        """Lay out rows of the given lengths, int64 [N]."""
        end = torch.cumsum(length, 0)
        start = end - length
        width = torch.cat([length, torch.zeros(1, dtype=torch.int64)]).max()
        token = columns(length.sum())
        row = (token[:, None] >= end[None]).to(torch.int64).sum(1)
        position = token - start[row]
        column = columns(width)
        # Never a token of another row: what is not finite there would come in by 0 times infinity.
        padding = start[:, None] + torch.minimum(column[None], length[:, None] - 1)
        return cls(length, start, position, padding, packing=row * width + position)

    def pad(self, packed: Tensor) -> Tensor:
        """[T, ...] to [N, L, ...]; cells without a token repeat the last one of their row."""
        return packed[self.padding]

    def pack(self, padded: Tensor) -> Tensor:
        """[N, L, ...] to [T, ...]."""
        return padded.flatten(0, 1)[self.packing]


def columns(count: Tensor | int) -> Tensor:
    """0, 1, ... below a count that is a tensor while tracing, or it would become a constant of the graph."""
    return torch.arange(cast(int, count))
