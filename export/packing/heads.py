"""The heads, by role: modules that compute the outputs of a graph, by name, out of rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from export.packing.encoder import RowEncoder
from export.packing.layout import Layout, columns
from export.packing.rows import PackedRows, Rows
from export.runtime.contract import EMBEDDING, QUERY_VECTORS, SCORE, TOKEN_VECTORS
from export.runtime.operators import MASKED, maxsim

AnyRows = Rows | PackedRows
Pooling = Callable[[Tensor, AnyRows], Tensor]
"""Token vectors, [N, L, D] of padded rows or [1, T, D] of packed ones, to [N, D]."""


def _mean(hidden: Tensor, rows: AnyRows) -> Tensor:
    return _sum(hidden, rows) / rows.pooled_length[:, None]


def _mean_sqrt_len_tokens(hidden: Tensor, rows: AnyRows) -> Tensor:
    return _sum(hidden, rows) / rows.pooled_length[:, None].to(hidden.dtype).sqrt()


def _sum(hidden: Tensor, rows: AnyRows) -> Tensor:
    # Not a product with a mask, which OpenVINO computes in integers on Arm.
    return rows.sum(torch.where(rows.pooled[..., None], hidden, 0.0))


def _weighted_mean(hidden: Tensor, rows: AnyRows) -> Tensor:
    """Later tokens weigh more: 1, 2, 3, ... (Muennighoff 2022, arXiv 2202.08904, section 3.1)."""
    weight = ((rows.position + 1) * rows.pooled).to(hidden.dtype)[..., None]
    total = rows.sum(weight)
    return rows.sum(hidden * weight) / (total if rows.prompt_length is None else total.clamp(min=1))


def _max(hidden: Tensor, rows: AnyRows) -> Tensor:
    return rows.max(hidden.masked_fill(~rows.pooled[..., None], MASKED))


def _cls(hidden: Tensor, rows: AnyRows) -> Tensor:
    if rows.prompt_length is None:
        return rows.first(hidden)
    return rows.at(hidden, torch.where(rows.prompt_length < rows.length, rows.prompt_length, 0))


def last_token(hidden: Tensor, rows: AnyRows) -> Tensor:
    """The vector of each row's last token."""
    return rows.at(hidden, rows.length - 1)


POOLINGS: Mapping[str, Pooling] = {
    "cls": _cls,
    "lasttoken": last_token,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len_tokens,
    "weightedmean": _weighted_mean,
}
"""The poolings by their name in sentence-transformers."""


Features = dict[str, Any]
"""The values that sentence-transformers passes between modules, by its names: "token_embeddings" [N, L, D],
"all_layer_embeddings" (the same of each layer) and "sentence_embedding" [N, D]; also our own "rows"."""


Outputs = dict[str, Tensor]
"""The outputs of a graph by name, as `Tower.head` returns them."""


class TextEmbedding(torch.nn.Module):
    """One vector a row, and perhaps those of its tokens, none of them normalized."""

    def __init__(
        self,
        first: torch.nn.Module,
        steps: Sequence[torch.nn.Module],
        width: int | None = None,
        *,
        tokens: bool = False,
    ) -> None:
        """Put steps one after the other.

        Args:
            first: from rows to features.
            steps: from features to features, such as the modules of sentence-transformers that know no rows.
            width: how much of each vector counts; all of it by default.
            tokens: whether the vectors of the pooled tokens are an output too.
        """
        super().__init__()
        self.first = first
        self.steps = torch.nn.ModuleList(steps)
        self.width = width
        self.tokens = tokens

    def forward(self, rows: AnyRows) -> Outputs:
        features: Features = self.first(rows)
        for step in self.steps:
            features = step(features)
        outputs = {EMBEDDING: features["sentence_embedding"][:, : self.width]}
        if self.tokens:
            hidden = features["token_embeddings"][..., : self.width]
            counts_all = isinstance(rows, PackedRows) and rows.prompt_length is None
            outputs[TOKEN_VECTORS] = hidden if counts_all else torch.where(rows.pooled[..., None], hidden, 0.0)
        return outputs


class Encode(torch.nn.Module):
    """Rows to the vectors of their tokens."""

    def __init__(self, encoder: RowEncoder) -> None:
        """Take an encoder of the last layer, or of all."""
        super().__init__()
        self.encoder = encoder

    def forward(self, rows: AnyRows) -> Features:
        hidden = self.encoder(rows)
        if not self.encoder.all_layers:
            return {"rows": rows, "token_embeddings": hidden}
        layers = hidden.split(self.encoder.width, -1)
        return {"rows": rows, "token_embeddings": layers[-1], "all_layer_embeddings": layers}


class Lookup(torch.nn.Module):
    """Rows to the mean of their tokens' vectors in a table, of which no token depends on another."""

    table: Tensor

    def __init__(self, table: Tensor, *, packed: bool) -> None:
        """Take a table, FP32 [V, D]; packed, only real tokens are looked up."""
        super().__init__()
        self.register_buffer("table", table)
        self.packed = packed

    def forward(self, rows: AnyRows) -> Features:
        if isinstance(rows, PackedRows) or not self.packed:
            return {"rows": rows, "sentence_embedding": _mean(self.table[rows.ids], rows)}
        layout = Layout.of(rows.length)
        token = columns(rows.length.sum())[None]
        own = (token >= layout.start[:, None]) & (token < (layout.start + layout.length)[:, None])  # [N, T]
        total = own.to(self.table.dtype) @ self.table[layout.pack(rows.ids)]
        return {"rows": rows, "sentence_embedding": total / rows.length[:, None]}


class Pool(torch.nn.Module):
    """The token vectors of a row to one, by one pooling or several side by side."""

    def __init__(self, *poolings: str) -> None:
        """Take names of POOLINGS."""
        super().__init__()
        self.poolings = [POOLINGS[pooling] for pooling in poolings]

    def forward(self, features: Features) -> Features:
        hidden, rows = features["token_embeddings"], features["rows"]
        pooled = torch.cat([pooling(hidden, rows) for pooling in self.poolings], 1)
        return features | {"sentence_embedding": pooled}


class Project(torch.nn.Module):
    """The vector of a row through a module, [N, D] to [N, E]."""

    def __init__(self, projection: torch.nn.Module) -> None:
        """Take the module."""
        super().__init__()
        self.projection = projection

    def forward(self, features: Features) -> Features:
        return features | {"sentence_embedding": self.projection(features["sentence_embedding"])}


class CrossEncoder(torch.nn.Module):
    """The logits of one pair of query and document a row: [N, C]."""

    def __init__(self, encoder: RowEncoder, classifier: torch.nn.Module) -> None:
        """Put a classifier of token vectors, to [N, C], on an encoder."""
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier

    def forward(self, rows: AnyRows) -> Outputs:
        return {SCORE: self.classifier(self.encoder(rows), rows)}


DocumentHead = Callable[[Tensor, AnyRows], Outputs]
"""Token vectors of documents before their projection, as a pooling takes them, to outputs of rows and of tokens."""


class LateInteraction(torch.nn.Module):
    """One score a pair of query and document, [N, 1]: ColBERT's MaxSim as a mean; and the vectors of their tokens.

    score = mean over the query's tokens of the best cosine with a document token (Khattab and Zaharia 2020,
    arXiv 2004.12832, equation 3, divided by the number of query tokens that count, those that expand it included, so
    that scores of different queries compare). It is sentence-transformers' `mean_maxsim`; its `maxsim` is the sum.
    """

    def __init__(
        self,
        encoder: RowEncoder,
        projection: torch.nn.Module,
        expand: Callable[[Rows], Rows],
        skipped: Mapping[str, Sequence[int]],
        documents: DocumentHead | None = None,
        *,
        skips_first: bool = False,
    ) -> None:
        """Compare the token vectors of an encoder.

        Args:
            encoder: the encoder of both sides.
            projection: applied to the token vectors, [..., D] to [..., E].
            expand: replaces a query by its expansion.
            skipped: ids of tokens that do not count, such as punctuation, by side: "query" and "document".
            documents: computes further outputs, of documents; in rows that a host has laid out, of all rows.
            skips_first: whether the first token of each text does not count.
        """
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.expand = expand
        self.skipped = {side: tuple(ids) for side, ids in skipped.items()}
        self.documents = documents
        self.skips_first = skips_first

    def forward(self, query: AnyRows, document: Rows | None = None) -> Outputs:
        """Score pairs: queries and documents as many, or both in rows that a host has laid out."""
        if isinstance(query, PackedRows):
            return self._packed(query)
        assert document is not None  # noqa: S101 - rows in two parts
        # The pairs of a request repeat its query: encode each query once. Not for TensorRT, where sizes may not depend
        # on values.
        of_pair = torch.arange(0)
        if self.encoder.packed:
            marked = torch.where(query.valid, query.ids, -1)
            ids, of_pair = torch.unique(marked, dim=0, return_inverse=True)  # [M, L], [N], ascending
            length = (ids >= 0).to(torch.int64).sum(1)
            # A query of no tokens is none, where only outputs of the document are wanted. It would be the first.
            some = (length > 0).nonzero()[:, 0]
            of_pair = of_pair - (length == 0).to(torch.int64).sum()
            query = Rows(ids.clamp(min=0)[some], length[some], length[some])
        query = self.expand(query)
        queries, documents = self.encoder.parts(query, document)
        vectors, compared = self.projection(queries), self.projection(documents)
        counted, seen = self._counted(query, "query"), self._counted(document, "document")
        if self.encoder.packed:
            counted = counted[:, : vectors.shape[1]]  # of no queries, vectors have no length either
            # With a row of zeros behind them, which -1 takes.
            vectors, counted = functional.pad(vectors, (0, 0, 0, 0, 0, 1)), functional.pad(counted, (0, 0, 0, 1))
            vectors, counted = vectors[of_pair], counted[of_pair]  # [N, Lq, E]

        # Divided by the norms afterwards: what follows the last product, OpenVINO computes in fp32 even if all else is
        # bf16, and a norm that was rounded would be off for the whole of its vector.
        scale = 1 / vectors.shape[2]  # the product stays within fp16
        cosine = (vectors * scale) @ compared.transpose(1, 2)  # [N, Lq, Ld]
        norms = vectors.norm(dim=-1)[:, :, None] * scale * compared.norm(dim=-1)[:, None]
        cosine = cosine / norms.clamp(min=1e-12)
        cosine = cosine.masked_fill(~seen[:, None], MASKED)
        # Rounding in bf16 can take the cosine of equal vectors to 1.008, and of some documents no token counts.
        best = torch.where(counted, cosine.amax(2).clamp(-1, 1), 0.0)  # [N, Lq]
        return {
            SCORE: best.sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1),
            TOKEN_VECTORS: torch.where(seen[..., None], compared, 0.0),
            QUERY_VECTORS: torch.where(counted[..., None], vectors, 0.0),
            **(self.documents(documents, document) if self.documents else {}),
        }

    def _packed(self, rows: PackedRows) -> Outputs:
        assert rows.queries is not None  # noqa: S101 - rows of late interaction have them
        hidden = self.encoder(rows)
        vectors = self.projection(hidden)[0]
        counts = {
            side: (rows.ids[0][:, None] != torch.tensor(self.skipped.get(side) or (-1,))).all(-1)
            for side in ("query", "document")
        }
        counted = torch.where(rows.is_query, counts["query"], counts["document"])
        if self.skips_first:
            counted = counted & (rows.place > 0)
        tokens = torch.where(counted[:, None], vectors, 0.0)[None]
        outputs = {
            SCORE: maxsim(vectors, counted, rows.starts, rows.queries, rows.longest_query, rows.longest),
            TOKEN_VECTORS: tokens,
            QUERY_VECTORS: tokens,
        }
        if self.documents is not None:
            place = torch.arange(rows.queries.shape[0], device=hidden.device) + rows.first_document
            for name, values in self.documents(hidden, rows).items():
                of_tokens = values.dim() > 1 and values.shape[0] == 1  # [1, T, ...]; there are always two rows
                outputs[name] = values if of_tokens else values[place]
        return outputs

    def _counted(self, rows: Rows, side: str) -> Tensor:
        """Bool [N, L], the tokens that count."""
        counted = rows.valid
        if self.skips_first:
            counted = counted & (rows.position > 0)
        if self.skipped.get(side):
            counted = counted & (rows.ids[..., None] != torch.tensor(self.skipped[side])).all(-1)
        return counted


class ImageEmbedding(torch.nn.Module):
    """One vector an image, not normalized, of UINT8 [N, 3, H, W]."""

    factor: Tensor
    offset: Tensor

    def __init__(self, model: torch.nn.Module, scale: float, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Put the rescaling and normalization of an image processor before a model, [N, 3, H, W] to [N, D]."""
        super().__init__()
        self.model = model
        self.dtype = torch.float32
        """Of the model's weights."""
        # (pixel * scale - mean) / deviation as one product and one sum
        self.register_buffer("factor", scale / torch.tensor(deviation)[:, None, None])
        self.register_buffer("offset", -(torch.tensor(mean) / torch.tensor(deviation))[:, None, None])

    def forward(self, pixels: Tensor) -> Outputs:
        normalized = pixels.to(torch.float32) * self.factor + self.offset
        return {EMBEDDING: self.model(normalized.to(self.dtype)).float()}
