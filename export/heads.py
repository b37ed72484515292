"""What stands on a text tower, by task: the modules that are traced into graphs.

Inputs, for each run of token ids a row has: the flattened ids INT64, the stored length of each row INT32 [N], and the
real length of each row INT32 [N, 1]. N is the number of rows.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from export.packed import MASKED_SCORE, Layout, PackedTower, pack_rows

Pooling = Callable[[Tensor, Layout], Tensor]


def _mean(hidden: Tensor, layout: Layout) -> Tensor:
    return (layout.pad(hidden) * layout.valid[..., None]).sum(1) / layout.length[:, None]


def _cls(hidden: Tensor, layout: Layout) -> Tensor:
    return hidden[layout.start]


def _last_token(hidden: Tensor, layout: Layout) -> Tensor:
    return hidden[layout.start + layout.length - 1]


POOLINGS: Mapping[str, Pooling] = {"mean": _mean, "cls": _cls, "lasttoken": _last_token}
"""By the name that sentence-transformers gives them: [T, D] token vectors to [N, D]."""


class TextEmbedding(torch.nn.Module):
    """One pooled vector a row, not normalised: [N, D]."""

    def __init__(self, tower: PackedTower, pooling: Pooling) -> None:
        super().__init__()
        self.tower = tower
        self.pooling = pooling

    def forward(self, input_ids: Tensor, row_stride: Tensor, length: Tensor) -> Tensor:  # noqa: D102
        layout = Layout.of(_lengths(length))
        return self.pooling(self.tower(pack_rows(input_ids, row_stride, layout), layout), layout)


class LateInteraction(torch.nn.Module):
    """One score a pair of query and document, [N, 1]: ColBERT's MaxSim as a mean.

    score = mean over the query's tokens of the best cosine with a document token (Khattab and Zaharia 2020,
    arXiv 2004.12832, equation 3, divided by the query's length so that scores of different queries compare).
    """

    def __init__(self, tower: PackedTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(  # noqa: D102
        self,
        query_ids: Tensor,
        query_stride: Tensor,
        query_length: Tensor,
        document_ids: Tensor,
        document_stride: Tensor,
        document_length: Tensor,
    ) -> Tensor:
        documents = Layout.of(_lengths(document_length))
        # The pairs of a request repeat its query: encode each query once.
        stored = Layout.of(_lengths(query_length))
        padded = torch.where(stored.valid, stored.pad(pack_rows(query_ids, query_stride, stored)), -1)
        unique, query_of_pair = torch.unique(padded, dim=0, return_inverse=True)  # [M, L], [N]
        queries = Layout.of((unique >= 0).to(torch.int64).sum(1))

        ids = torch.cat([queries.pack(unique), pack_rows(document_ids, document_stride, documents)])
        hidden = self.tower(ids, Layout.of(torch.cat([queries.length, documents.length])))
        hidden = functional.normalize(hidden, dim=-1)
        split = queries.length.sum()
        query = queries.pad(hidden[:split])[query_of_pair]  # [N, Lq, D]
        document = documents.pad(hidden[split:])  # [N, Ld, D]

        cosine = (query @ document.transpose(1, 2)).masked_fill(~documents.valid[:, None], MASKED_SCORE)
        # Rounding in bf16 can take the cosine of equal vectors to 1.008.
        best = cosine.amax(2).clamp(max=1) * queries.valid[query_of_pair]  # [N, Lq]
        return best.sum(1, keepdim=True) / queries.length[query_of_pair][:, None]


def _lengths(column: Tensor) -> Tensor:
    """INT32 [N, 1] to int64 [N]."""
    return column.squeeze(1).to(torch.int64)
