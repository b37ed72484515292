"""Runs text models on rows of token ids."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gateway.cache import Lookup
from gateway.catalog import TextModel
from gateway.contract import (
    BATCH_TOKENS,
    EMBEDDING,
    LATE_INTERACTION,
    QUERY_TOKENS,
    SCORE,
    SEGMENTS,
    SPARSE_INDICES,
    SPARSE_WEIGHTS,
    TOKENS,
)
from gateway.errors import InferenceFailed
from gateway.images.preparation import Patches
from gateway.service import batches
from gateway.service.batches import Batch
from gateway.service.caller import Caller
from gateway.service.image_batches import patch_tensors
from gateway.service.shared_calls import Limits, Tensors
from gateway.vectors import Floats, Sparse, sparse

Row = tuple[Sequence[int], ...]
"""Token ids of each segment: query and document for late interaction, one segment for all other roles."""
Wanted = Literal["embedding", "score", "sparse", "tokens", "query_tokens"]
"""A field of `Computed`."""
LARGE: Set[Wanted] = frozenset({"tokens", "query_tokens"})
"""Vectors of tokens are large, and so is their padding."""
FIELDS: Mapping[str, Wanted] = {
    EMBEDDING: "embedding",
    SCORE: "score",
    SPARSE_INDICES: "sparse",
    SPARSE_WEIGHTS: "sparse",
    TOKENS: "tokens",
    QUERY_TOKENS: "query_tokens",
}
"""The field of `Computed` that needs an output."""
Keep = Callable[[int, Floats], Floats]
"""Makes what to keep of a row's token vectors, given its index and all of its vectors with padding, [L, d]. The result
must not be a view of them, since they are part of a whole batch."""

NO_VECTORS = np.empty((0, 0), np.float32)
NO_TERMS = Sparse(np.empty(0, np.int32), np.empty(0, np.float32))
NO_QUERY: Sequence[int] = ()
"""The query in a row for a late-interaction model that has only a document. It costs nothing."""
NO_DOCUMENT: Sequence[int] = (0,)
"""The document in a row that has only a query."""
MAX_PADDING = 4
"""Maximum size of a batch with padding, as a multiple of its maximum tokens: a long row could pad a thousand others."""
SHARED_TOKENS = 512
"""Maximum size of a call that several requests share: about a pack of the CPU engine. Triton does not divide a call
among the instances of a model."""
MAX_ROWS = 2048
"""Maximum number of texts, images or documents in one call."""


@dataclass(slots=True)
class Computed:
    """What a model computed of each row, in the order given. What was not wanted is empty."""

    embedding: Floats
    """[n, d], not normalized."""
    score: Floats
    """[n, columns]: logits, or the score of a late interaction."""
    sparse: list[Sparse]
    tokens: list[Floats]
    """[L, d] of each row, not normalized."""
    query_tokens: list[Floats]
    """The same for the queries, with their expansion."""
    places: list[NDArray[np.intp]] = field(default_factory=list)
    """The positions in each row of the token vectors that are kept, for callers that need them."""
    full: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    """Whether the sparse vector of each row has as many terms as the model can return."""

    @property
    def truncated(self) -> int:
        """The number of sparse vectors that may lack terms."""
        return int(self.full.sum())

    def pack(self, row: int) -> bytes:
        """A row without its token vectors, in few bytes."""
        parts = [matrix[row] for matrix in (self.embedding, self.score) if len(matrix)]
        if self.sparse:
            full = np.array([self.full[row]], np.float32)
            parts += [full, self.sparse[row].indices.view(np.float32), self.sparse[row].weights]
        return b"".join(part.tobytes() for part in parts)

    def unpack(self, row: int, packed: bytes) -> None:
        """Take over a row of another call that wanted the same of the same model."""
        numbers = np.frombuffer(packed, np.float32)
        for matrix in (self.embedding, self.score):
            if len(matrix):
                matrix[row], numbers = numbers[: matrix.shape[1]], numbers[matrix.shape[1] :]
        if self.sparse:
            self.full[row], numbers = bool(numbers[0]), numbers[1:]
            indices, weights = np.split(numbers, 2)
            self.sparse[row] = Sparse(indices.view(np.int32), weights)


def row_of(model: TextModel, ids: Sequence[int], wanted: Set[Wanted]) -> Row:
    """The row of a single text. For a late-interaction model, the text is the query if `query_tokens` are wanted, and
    the document if anything else is."""
    if model.role != LATE_INTERACTION:
        return (ids,)
    query = ids if "query_tokens" in wanted else NO_QUERY
    return (query, ids if wanted - {"query_tokens"} else NO_DOCUMENT)


def counting(_: int, vectors: Floats) -> Floats:
    """The vectors of the tokens that count; those of padding and of tokens that a model skips are zeros."""
    counted: Floats = vectors[vectors.any(axis=1)]
    return counted


async def infer_texts(
    caller: Caller,
    model: TextModel,
    rows: Sequence[Row],
    wanted: Set[Wanted],
    prefixes: Sequence[int] = (),
    keep: Keep = counting,
    images: Sequence[Sequence[Patches]] = (),
) -> Computed:
    """Compute all rows that are not in the cache in one pass. Batches hold rows of similar length.

    Args:
        caller: the request to work for.
        model: a text model of any role.
        rows: each with 1 to model.max_tokens ids in every segment; a query may have none.
        wanted: what to compute; the model must have the outputs for it. Triton sends no others.
        prefixes: the value of the input `model.prefix` for each row, if the model has one; 1 for each by default.
        keep: what to keep of token vectors, so that a call with many long texts needs little memory.
        images: those of each row, for models that read them; none by default.

    Raises:
        GatewayError: what `batches.infer` raises.
    """

    async def tensors(indices: Sequence[int]) -> Tensors:
        inputs = _tensors(model, [rows[i] for i in indices])
        if model.prefix:
            inputs[model.prefix] = np.array([[prefixes[i] if prefixes else 1] for i in indices], np.int32)
        if model.images is not None:
            of_rows = [images[i] if images else () for i in indices]
            inputs |= patch_tensors(of_rows, model.images.processor.patch_bytes)
        return inputs

    def store(indices: Sequence[int], outputs: Sequence[NDArray[Any]]) -> None:
        _store(computed, model, indices, dict(zip(names, outputs, strict=True)), keep)
        lookup.keep(indices, computed.pack)

    names = [name for name in model.outputs if FIELDS[name] in wanted]
    computed = _nothing(model, len(rows), wanted)
    lookup = await _look_up(caller, model, rows, wanted, prefixes, images)
    for row, packed in lookup.found:
        computed.unpack(row, packed)
    if not lookup.missing:
        return computed
    lengths = [sum(map(len, row)) for row in rows]
    if images:
        patches = [sum(len(image.pixels) for image in of_row) for of_row in images]
        lengths = [length + count for length, count in zip(lengths, patches, strict=True)]
    queue = caller.queues.get(model.triton_name)
    max_tokens = queue.batch_tokens(model.batch_tokens, background=caller.account.is_background)
    max_padding = 1 if images else MAX_PADDING
    if wanted & LARGE:
        max_tokens, max_padding = min(max_tokens, BATCH_TOKENS), 1
    split = _split(lookup.missing, lengths, Limits(model.max_batch_size, max_tokens, max_padding * max_tokens))
    shared = None if model.images or wanted & LARGE else _shared(model, max_tokens)
    await batches.infer(caller, model, split, tensors, [model.outputs[name] for name in names], store, shared)
    for row, earlier in lookup.repeated:
        computed.unpack(row, computed.pack(earlier))
    return computed


async def _look_up(
    caller: Caller,
    model: TextModel,
    rows: Sequence[Row],
    wanted: Set[Wanted],
    prefixes: Sequence[int],
    images: Sequence[Sequence[Patches]],
) -> Lookup:
    """What the cache holds of a call. It never holds token vectors, which are large, nor rows with images."""
    if caller.cache is None or not model.generation or images or wanted & LARGE:
        return Lookup(range(len(rows)))
    state = f"{model.generation} {','.join(sorted(wanted))}"
    lookup = await caller.cache.lookup(state, rows, prefixes if model.prefix else ())
    caller.timings.cache_hits += len(rows) - len(lookup.missing)
    caller.timings.cache_misses += len(lookup.missing)
    return lookup


def _nothing(model: TextModel, rows: int, wanted: Set[Wanted]) -> Computed:
    def matrix(name: Wanted) -> Floats:
        return np.empty((rows, model.outputs[name].dims[-1]), np.float32) if name in wanted else NO_VECTORS

    return Computed(
        matrix(EMBEDDING),
        matrix(SCORE),
        [NO_TERMS] * rows if "sparse" in wanted else [],
        [NO_VECTORS] * rows if "tokens" in wanted else [],
        [NO_VECTORS] * rows if "query_tokens" in wanted else [],
        full=np.zeros(rows if "sparse" in wanted else 0, np.bool_),
    )


def _store(
    computed: Computed, model: TextModel, rows: Sequence[int], outputs: Mapping[str, NDArray[Any]], keep: Keep
) -> None:
    """Keep the outputs of some rows."""
    if EMBEDDING in outputs:
        computed.embedding[rows] = outputs[EMBEDDING]
    if SCORE in outputs:
        computed.score[rows] = outputs[SCORE]
    if SPARSE_WEIGHTS in outputs:
        _store_sparse(computed, model, rows, outputs[SPARSE_INDICES], outputs[SPARSE_WEIGHTS])
    for name, kept in ((TOKENS, computed.tokens), (QUERY_TOKENS, computed.query_tokens)):
        if name in outputs:
            for row, vectors in zip(rows, outputs[name], strict=True):
                kept[row] = keep(row, vectors)


def _store_sparse(
    computed: Computed, model: TextModel, rows: Sequence[int], indices: NDArray[np.int32], weights: Floats
) -> None:
    if indices.size and not 0 <= indices.min() <= indices.max() < model.vocabulary_size:
        raise InferenceFailed(f"model {model.triton_name!r} returned sparse indices outside its vocabulary")
    if indices.shape != weights.shape:
        raise InferenceFailed(f"model {model.triton_name!r} returned sparse indices and weights of different shape")
    for row, its_indices, its_weights in zip(rows, indices, weights, strict=True):
        computed.sparse[row] = sparse(its_indices, its_weights)
    if model.outputs[SPARSE_WEIGHTS].dims[-1] > 0:
        computed.full[rows] = (weights > 0).all(axis=1)


def _shared(model: TextModel, max_tokens: int) -> Limits:
    """The limits of calls that several requests share, given that of a batch."""
    tokens = min(max_tokens, SHARED_TOKENS)
    return Limits(model.max_batch_size, tokens, MAX_PADDING * tokens, pads=not model.length_buckets)


def _split(rows: Sequence[int], lengths: Sequence[int], limits: Limits) -> list[Batch]:
    """Batches of those of a call's rows that are of similar length, given the tokens of each row of the call."""
    split: list[Batch] = []
    batch: list[int] = []
    total = 0
    for row in sorted(rows, key=lengths.__getitem__):  # the next one is the longest so far
        if batch and not limits.hold(len(batch) + 1, total + lengths[row], lengths[row]):
            split.append(Batch(batch, total))
            batch, total = [], 0
        batch.append(row)
        total += lengths[row]
    return [*split, Batch(batch, total)] if batch else split


def joined(parts: Sequence[Computed]) -> Computed:
    """What was computed of consecutive rows, in one piece."""
    if len(parts) == 1:
        return parts[0]
    return Computed(
        np.concatenate([part.embedding for part in parts]),
        np.concatenate([part.score for part in parts]),
        [vector for part in parts for vector in part.sparse],
        [vectors for part in parts for vectors in part.tokens],
        [vectors for part in parts for vectors in part.query_tokens],
        [places for part in parts for places in part.places],
        np.concatenate([part.full for part in parts]),
    )


def _tensors(model: TextModel, rows: Sequence[Row]) -> dict[str, NDArray[np.generic]]:
    """The inputs in SEGMENTS, padded to the longest row or to a length bucket of the model."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for (ids_name, length_name), segment in zip(SEGMENTS[model.role], zip(*rows, strict=True), strict=True):
        lengths = [*map(len, segment)]
        longest = max(1, *lengths)
        width = next((bucket for bucket in model.length_buckets if bucket >= longest), longest)
        ids = np.zeros((len(segment), width), np.int64)
        for row, (values, length) in enumerate(zip(segment, lengths, strict=True)):
            ids[row, :length] = values
        tensors[ids_name] = ids
        tensors[length_name] = np.array(lengths, np.int32)[:, None]
    return tensors
