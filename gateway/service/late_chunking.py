"""Embeds parts of a document in the context of all of it: late chunking (arXiv 2409.04701)."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import Model, TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service import chunks
from gateway.service.caller import Caller
from gateway.service.chunks import Chunk, Chunking, Span
from gateway.service.embed import Embeddings, prompt_lengths
from gateway.service.text_batches import infer_texts, row_of
from gateway.service.tokens import MAX_TOKENS, estimate
from gateway.vectors import Floats

Bounds = NDArray[np.int64]
"""[n, 2]: the first token of each part and the one after its last."""

FIELD = "late_chunking"
"""The field of requests that asks for it."""
MAX_OVERLAP = 256
"""Tokens that a window over a long document shares with the one before, as in the experiments of the paper, but at most
an eighth of the model's limit."""
NOTHING = np.empty((0, 0), np.float32)


def check(served: Sequence[Model], model: Model) -> TextModel:
    """The model for texts.

    Raises:
        InvalidRequest: its vectors are not the means of its tokens' vectors.
    """
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
    parts: Sequence[Span],
    *,
    prompt: str,
    place: str,
    part_places: Sequence[str],
    in_windows: bool,
) -> Embeddings:
    """Embed parts of a document: the vector of each is the mean of its tokens' vectors, computed in one pass over all.

    Special tokens and prompt before the document belong to a part that begins with it, those after it to one that ends
    with it, as in the authors' evaluation. The vector of a part that is the whole document is thus the document's own.

    Args:
        caller: the request to work for.
        model: from `check`.
        document: any text.
        parts: start and end of each, in characters. A token belongs to the part with its last character.
        prompt: put before the document.
        place: the document's field in error messages.
        part_places: the field of each part in error messages.
        in_windows: whether to compute a document over the model's limit in windows that overlap; otherwise it is an
            error. A token's vector is that of the first window that has it (the paper's long late chunking).

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    caller.check(model, estimate(prompt + document))
    chunking = Chunking(overlap=min(MAX_OVERLAP, model.max_tokens // 8))
    with caller.timings.stage("tokenize"):
        (windows,) = await chunks.split(caller, model, [document], [place], chunking, truncate="none", prompt=prompt)
        rows = [window.row for window in windows]
        if len(windows) > 1 and not in_windows:
            raise InvalidRequest(
                f"{place} has {windows[-1].tokens.stop} tokens without special tokens; the limit of model"
                f" {model.name!r} is {model.max_tokens}: send enable_chunked_processing to compute them in windows",
                param=place,
            )
        bounds = _bounds(windows, parts, part_places)
        prefixes = await prompt_lengths(caller, model, prompt, [document] * len(rows), rows)
    sums = np.zeros((len(parts), model.width), np.float32)
    counts = np.zeros((len(parts), 1), np.float32)

    def add(index: int, vectors: Floats) -> Floats:
        for part, part_rows in _rows(windows, index, bounds):
            sums[part] += vectors[part_rows].sum(axis=0)
            counts[part] += vectors[part_rows].any(axis=1).sum()  # zeros are no token
        return NOTHING

    await infer_texts(caller, model, [row_of(model, row, {"tokens"}) for row in rows], {"tokens"}, prefixes, add)
    means = (sums / np.maximum(counts, 1)).astype(np.float32)
    return Embeddings(means, sum(map(len, rows)), 0)


def _bounds(windows: Sequence[Chunk], parts: Sequence[Span], places: Sequence[str]) -> Bounds:
    spans: list[Span] = []
    for window in windows:
        spans += window.spans[len(spans) - window.tokens.start :]
    last = np.maximum.accumulate([max(end - 1, start) for start, end in spans] or [0])
    bounds = np.searchsorted(last, np.array(parts))
    for part in np.flatnonzero(bounds[:, 0] == bounds[:, 1]).tolist():
        raise InvalidRequest(f"{places[part]} has no tokens", param=places[part])
    total = int((bounds[:, 1] - bounds[:, 0]).sum())
    if total > MAX_TOKENS:
        raise RequestTooLarge(f"the chunks have {total} tokens in all; the limit is {MAX_TOKENS}", param=places[0])
    return bounds


def _rows(windows: Sequence[Chunk], index: int, bounds: Bounds) -> Iterator[tuple[int, slice]]:
    """For each part with tokens that this window has and no earlier one: the part, and their place in the row."""
    window, total = windows[index], windows[-1].tokens.stop
    new = windows[index - 1].tokens.stop if index else 0
    first, stop = np.maximum(bounds[:, 0], new), np.minimum(bounds[:, 1], window.tokens.stop)
    shift = window.head - window.tokens.start
    for part in np.flatnonzero(first < stop).tolist():
        start = int(first[part]) + shift if first[part] else 0
        yield part, slice(start, int(stop[part]) + shift if stop[part] < total else len(window.row))
