"""Embeds parts of a document in the context of all of it: late chunking (arXiv 2409.04701)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import Model, TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service import chunks
from gateway.service.caller import Caller
from gateway.service.chunks import Chunk, Chunking, Span
from gateway.service.embed import Embeddings, prompt_lengths
from gateway.service.text_batches import MAX_ROWS, infer_texts, row_of
from gateway.service.tokens import MAX_TOKENS, ROW_CHARACTERS, check_characters, estimate
from gateway.text.sentences import sentences
from gateway.vectors import Floats

Integers = NDArray[np.int64]
Number = TypeVar("Number", np.float32, np.int64)

FIELD = "late_chunking"
"""The field of requests that asks for it."""
MAX_OVERLAP = 256
"""Tokens that a window over a long document shares with the one before, as in the experiments of the paper, but at most
an eighth of the model's limit."""
NOTHING = np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class EmbeddedParts:
    """The result of one call."""

    parts: Sequence[Span]
    embedded: Embeddings
    """Of the parts, in their order."""


@dataclass(frozen=True, slots=True)
class _Share:
    """The tokens that one window adds to the sums of parts."""

    edges: Integers
    """Ascending ids of the window's row, where a part begins or ends."""
    parts: Integers
    """Those with tokens that this window has and no earlier one."""
    starts: Integers
    """Of each of these parts: where in `edges` it begins."""
    stops: Integers
    """The same for its end."""


def check(served: Sequence[Model], model: Model) -> TextModel:
    """The model for texts.

    Raises:
        InvalidRequest: its vectors are not the means of its tokens' vectors, or it puts texts into a chat template.
    """
    if model.text is not None and model.text.chat is not None:
        raise InvalidRequest(
            f"late_chunking is not supported by model {model.name!r}, which puts texts into a template", param=FIELD
        )
    if model.text is None or model.text.tokens_pooling != "mean":
        able = [other.name for other in served if other.text is not None and other.text.tokens_pooling == "mean"]
        raise InvalidRequest(
            f"late_chunking: the vectors of model {model.name!r} are not means of its tokens' vectors; models that"
            f" support it: {', '.join(able) or 'none'}",
            param=FIELD,
        )
    return model.text


async def embed_parts(
    caller: Caller,
    model: TextModel,
    document: str,
    parts: Sequence[Span] | None,
    *,
    prompt: str,
    place: str,
    part_places: Sequence[str],
    in_windows: bool,
) -> EmbeddedParts:
    """Embed parts of a document: the vector of each is the mean of its tokens' vectors, computed in one pass over all.

    Special tokens and prompt before the document belong to a part that begins with it, those after it to one that ends
    with it, as in the authors' evaluation. The vector of a part that is the whole document is thus the document's own.

    Args:
        caller: the request to work for.
        model: from `check`.
        document: any text.
        parts: start and end of each, in characters. A token belongs to the part with its last character. None: the
            document's sentences, except those without tokens, such as invisible characters.
        prompt: put before the document.
        place: the document's field in error messages.
        part_places: the field of each part in error messages, if there are parts.
        in_windows: whether to compute a document over the model's limit in windows that overlap; otherwise it is an
            error. A token's vector is that of the first window that has it (the paper's long late chunking).

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    chunks.check_length(document, place)
    if not in_windows:
        check_characters(len(document), place, model.max_tokens)
    caller.check(model, estimate(prompt + document))
    chunking = Chunking(overlap=min(MAX_OVERLAP, model.max_tokens // 8))
    size = len(document) + ROW_CHARACTERS * len(parts or ())
    with caller.timings.stage("tokenize"):
        spans = parts
        if spans is None:
            spans = await caller.tokenize(size, partial(_sentences, document, place))
        (windows,) = await chunks.split(caller, model, [document], [place], chunking, truncate="none", prompt=prompt)
        rows = [window.row for window in windows]
        if len(windows) > 1 and not in_windows:
            raise InvalidRequest(
                f"{place} has {_length(windows)} tokens; the limit of model {model.name!r} is {model.max_tokens}: send"
                " enable_chunked_processing to compute them in windows",
                param=place,
            )
        named = part_places if parts is not None else None
        kept, shares = await caller.tokenize(size, partial(_divide, windows, spans, place, named))
        prefixes = await prompt_lengths(caller, model, prompt, [document] * len(rows), rows)
    counts = [np.empty(0, np.int64)] * len(rows)

    def add(index: int, vectors: Floats) -> Floats:
        edges = shares[index].edges
        if not len(edges):
            return NOTHING
        counted = np.array(vectors.any(axis=1), np.int64)  # zeros are no token
        counts[index] = _between(counted, edges)
        return _between(vectors, edges)

    computed = await infer_texts(
        caller, model, [row_of(model, row, {"tokens"}) for row in rows], {"tokens"}, prefixes, add
    )
    means = await caller.tokenize(size, partial(_means, len(kept), model.width, shares, computed.tokens, counts))
    return EmbeddedParts(kept, Embeddings(means, sum(map(len, rows)), 0))


def _length(windows: Sequence[Chunk]) -> int:
    """The tokens of a document with its prompt and special tokens, computed at once."""
    return windows[-1].tokens.stop + len(windows[0].row) - len(windows[0].tokens)


def _sentences(document: str, place: str) -> list[Span]:
    found = list(islice(sentences(document), MAX_ROWS + 1))
    if not 1 <= len(found) <= MAX_ROWS:
        count = f"over {MAX_ROWS}" if found else "0"
        raise InvalidRequest(f"{place} has {count} sentences; it must have 1 to {MAX_ROWS}", param=place)
    return found


def _divide(
    windows: Sequence[Chunk], parts: Sequence[Span], place: str, part_places: Sequence[str] | None
) -> tuple[list[Span], list[_Share]]:
    """The parts with tokens, and what each window adds to them. Without `part_places`, other parts are left out."""
    ends = [
        end for i, window in enumerate(windows) for _, end in window.spans[_new(windows, i) - window.tokens.start :]
    ]
    last = np.maximum.accumulate(np.maximum(np.array(ends, np.int64) - 1, 0))  # the last character of each token
    bounds = np.searchsorted(last, np.array(parts))
    has_tokens = bounds[:, 0] < bounds[:, 1]
    if part_places is not None:
        for part in np.flatnonzero(~has_tokens).tolist():
            raise InvalidRequest(f"{part_places[part]} has no tokens", param=part_places[part])
    if not has_tokens.any():
        raise InvalidRequest(f"{place} has no tokens", param=place)
    bounds = bounds[has_tokens]
    total = int((bounds[:, 1] - bounds[:, 0]).sum())
    if total > MAX_TOKENS:
        raise RequestTooLarge(f"the chunks have {total} tokens in all; the limit is {MAX_TOKENS}", param=place)
    kept = [parts[i] for i in np.flatnonzero(has_tokens).tolist()]
    return kept, [_share(windows, i, bounds) for i in range(len(windows))]


def _new(windows: Sequence[Chunk], index: int) -> int:
    """The first token that no earlier window has."""
    return windows[index - 1].tokens.stop if index else 0


def _share(windows: Sequence[Chunk], index: int, bounds: Integers) -> _Share:
    """What a window adds to parts, given the first token of each and the one after its last, [n, 2]."""
    window, total = windows[index], windows[-1].tokens.stop
    first = np.maximum(bounds[:, 0], _new(windows, index))
    stop = np.minimum(bounds[:, 1], window.tokens.stop)
    parts = np.flatnonzero(first < stop)
    first, stop = first[parts], stop[parts]
    shift = window.head - window.tokens.start
    starts = np.where(first > 0, first + shift, 0)
    stops = np.where(stop < total, stop + shift, len(window.row))
    edges, places = np.unique([starts, stops], return_inverse=True)
    return _Share(edges, parts, *places.reshape(2, -1))


def _between(values: NDArray[Number], edges: Integers) -> NDArray[Number]:
    """The sums of the values from each edge to the next, along the first axis."""
    sums: NDArray[Number] = np.add.reduceat(values[: edges[-1]], edges[:-1], axis=0)
    return sums


def _means(
    parts: int, width: int, shares: Sequence[_Share], vectors: Sequence[Floats], counts: Sequence[Integers]
) -> Floats:
    """The vector of each part, [parts, width], given the sums and the number of token vectors between edges."""
    sums = np.zeros((parts, width))
    numbers = np.zeros((parts, 1))
    for share, its_vectors, its_counts in zip(shares, vectors, counts, strict=True):
        if len(share.edges):
            sums[share.parts] += _differences(its_vectors, share)
            numbers[share.parts] += _differences(its_counts[:, None], share)
    means: Floats = (sums / np.maximum(numbers, 1)).astype(np.float32)
    return means


def _differences(values: NDArray[Number], share: _Share) -> NDArray[np.float64]:
    """The sum of each part's values, computed once for all parts that overlap."""
    running = np.zeros((len(share.edges), values.shape[1]))
    np.cumsum(values, axis=0, out=running[1:])
    differences: NDArray[np.float64] = running[share.stops] - running[share.starts]
    return differences
