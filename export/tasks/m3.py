"""Models of the kind of bge-m3: a dense, a sparse and a multi-vector embedding out of one pass (arXiv 2402.03216).

The folder is that of an embedding model with two linear layers beside it, which FlagEmbedding reads. The reference here
is written after its class EncoderOnlyEmbedderM3ModelForInference
(github.com/FlagOpen/FlagEmbedding, FlagEmbedding/finetune/embedder/encoder_only/m3/modeling.py). Version 1.4.2 of that
package, run on a model of random weights, gave the same dense, sparse and token vectors and scores within 3e-7.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import Tensor
from torch.nn import functional

from export.errors import SourceError
from export.loading.models import Model, loading
from export.manifest import ModelSpec
from export.packing.encoder import RowEncoder
from export.packing.heads import AnyRows, LateInteraction, Outputs
from export.packing.rows import Rows
from export.runtime.contract import (
    DOCUMENT,
    EMBEDDING,
    LATE_INTERACTION,
    QUERY,
    QUERY_VECTORS,
    SCORE,
    SPARSE_INDICES,
    SPARSE_WEIGHTS,
    TOKEN_VECTORS,
    Array,
    Output,
    Row,
)
from export.sources.untrusted import TENSORS, WIDTH
from export.tasks import text_embedding, variants
from export.tasks.prompts import prompts_of
from export.tasks.vocabulary import check_dimensions, vocabulary
from export.tower import Tower, Vocabulary
from export.verification import samples

COLBERT, SPARSE = TENSORS
"""The files of the two layers."""
QUERY_TOKENS = 512
"""Tokens of the longest query that is compared, FlagEmbedding's default limit; a model takes more."""


def is_m3(folder: Path) -> bool:
    """Whether a folder holds the layers of such a model."""
    return (folder / SPARSE).is_file() and (folder / COLBERT).is_file()


def load(spec: ModelSpec, folder: Path) -> list[Tower]:
    """Load a folder of the kind of bge-m3.

    Raises:
        SourceError: it cannot be loaded, has other modules than bge-m3, or the layers do not fit them.
    """
    reference = text_embedding.pipeline(spec, folder)
    variants.check(spec, reference)
    if spec.precision in {"int8", "auto"}:
        raise SourceError(
            f"[{spec.name}] precision: {spec.precision} is not supported for models with {SPARSE} and {COLBERT}"
        )
    transformer = _transformer(spec, reference)
    model = transformer.auto_model
    width = int(model.config.hidden_size)
    sparse, colbert = _linear(spec, folder / SPARSE, width), _linear(spec, folder / COLBERT, width)
    if sparse.out_features != 1:
        raise SourceError(f"[{spec.name}] source: {SPARSE} gives {sparse.out_features} weights of a token, not 1")
    check_dimensions(spec, width)
    words = vocabulary(spec, transformer.tokenizer, model, transformer.max_seq_length)
    unused = _unused(transformer.tokenizer)
    encoder = RowEncoder(model, spec.backend)

    def encode(ids: Array) -> tuple[Tensor, Tensor]:
        """Token vectors of a text, [L, D], and its vectors for MaxSim, which leave out the first token, [L, E]."""
        given = torch.from_numpy(ids)[None]
        hidden = model(input_ids=given, attention_mask=torch.ones_like(given)).last_hidden_state[0]
        vectors = colbert(hidden)
        vectors[0] = 0
        return hidden, vectors

    def compute(row: Row) -> Mapping[str, Tensor]:
        query, document = row
        (_, queries), (hidden, documents) = encode(query), encode(document)
        weights = torch.zeros(words.size).scatter_reduce(
            0, torch.from_numpy(document), sparse(hidden).relu()[:, 0], reduce="amax"
        )
        weights[list(unused)] = 0
        found = weights.nonzero()[:, 0]
        cosines = functional.normalize(queries[1:], dim=-1) @ functional.normalize(documents[1:], dim=-1).T
        return {
            SCORE: cosines.amax(1).sum(0, keepdim=True) / (len(query) - 1),
            EMBEDDING: hidden[0],
            SPARSE_INDICES: found.to(torch.int32),
            SPARSE_WEIGHTS: weights[found],
            TOKEN_VECTORS: documents,
            QUERY_VECTORS: queries,
        }

    return [
        Tower(
            name=spec.name,
            role=LATE_INTERACTION,
            fields=(QUERY, DOCUMENT),
            outputs=(
                Output(SCORE, (1,)),
                Output(EMBEDDING, (width,)),
                Output(SPARSE_INDICES, (), "token"),
                Output(SPARSE_WEIGHTS, (), "token"),
                Output(TOKEN_VECTORS, (colbert.out_features,), "token"),
                Output(QUERY_VECTORS, (colbert.out_features,), "query token"),
            ),
            head=LateInteraction(encoder, colbert, lambda rows: rows, {}, _Documents(sparse, unused), skips_first=True),
            reference=compute,
            samples=lambda: _samples(words),
            vocabulary=words,
            packed=encoder.packed,
            parameters=prompts_of(spec, reference),
        )
    ]


def _transformer(spec: ModelSpec, reference: Model) -> Model:
    """The first module, if the others are bge-m3's: the vector of the first token is the embedding.

    Raises:
        SourceError: they are others.
    """
    first, *rest = reference
    steps = [module for module in rest if not isinstance(module, Normalize)]
    is_cls = len(steps) == 1 and isinstance(steps[0], Pooling) and steps[0].pooling_mode in ("cls", ("cls",), ["cls"])
    if not isinstance(first, Transformer) or not is_cls or reference.truncate_dim is not None:
        kinds = ", ".join(type(module).__name__ for module in (first, *rest))
        raise SourceError(
            f"[{spec.name}] source: it has {SPARSE} and {COLBERT}, but not the modules of bge-m3: a Transformer, a"
            f" Pooling of the first token and Normalize ({kinds})"
        )
    return first


def _linear(spec: ModelSpec, file: Path, width: int) -> torch.nn.Linear:
    """One of the two layers.

    Raises:
        SourceError: the file holds no linear layer of vectors of this width.
    """
    with loading(spec):
        stored = torch.load(file, map_location="cpu", weights_only=True)
    match stored:
        case {"weight": Tensor() as weight, "bias": Tensor() as bias} if _is_layer(weight, bias, width):
            layer = torch.nn.Linear(width, len(bias))
            layer.load_state_dict({"weight": weight, "bias": bias})
            return layer.requires_grad_(requires_grad=False)
    raise SourceError(
        f"[{spec.name}] source: {file.name} must hold the weight [1 to {WIDTH}, {width}] and the bias of a linear layer"
    )


def _is_layer(weight: Tensor, bias: Tensor, width: int) -> bool:
    """Whether two tensors are those of a layer, each stored in full: a short file can name any strides."""
    return (
        bias.dim() == 1
        and 1 <= len(bias) <= WIDTH
        and weight.shape == (len(bias), width)
        and weight.is_contiguous()
        and bias.is_contiguous()
    )


def _unused(tokenizer: Model) -> Sequence[int]:
    """The tokens that are no words: they have no weight."""
    ids = (tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return tuple(dict.fromkeys(id_ for id_ in ids if id_ is not None))


def _samples(words: Vocabulary) -> list[Row]:
    """Documents of all lengths with a short query, and short ones also with longer queries."""
    rows = samples.paired_rows(words, min(QUERY_TOKENS, words.max_tokens // 2))
    shortest = min(len(query) for query, _ in rows)
    return [(query, document) for query, document in rows if len(query) == shortest or len(document) <= QUERY_TOKENS]


class _Documents(torch.nn.Module):
    """The dense and the sparse vector of documents: that of the first token, and a weight of each token."""

    def __init__(self, sparse: torch.nn.Linear, unused: Sequence[int]) -> None:
        super().__init__()
        self.sparse = sparse
        self.unused = tuple(unused)

    def forward(self, hidden: Tensor, rows: AnyRows) -> Outputs:
        weights = self.sparse(hidden).relu()[..., 0]
        counts = (rows.ids[..., None] != torch.tensor(self.unused)).all(-1)
        if isinstance(rows, Rows):
            counts = counts & rows.valid
        return {
            EMBEDDING: rows.first(hidden),
            SPARSE_INDICES: rows.ids.to(torch.int32),
            SPARSE_WEIGHTS: torch.where(counts, weights, 0.0),
        }
