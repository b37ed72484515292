"""Scores documents, or the second texts of pairs, against a query."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import RequestTooLarge
from gateway.scores import ACTIVATIONS
from gateway.service import chunks, hybrid, tokens
from gateway.service.caller import Caller
from gateway.service.chunks import Chunk, Chunking
from gateway.service.classify import frame_query
from gateway.service.contents import Content
from gateway.service.hybrid import Mode, Scores, Weights
from gateway.service.image_pairs import ContentPair, score_contents
from gateway.service.image_rows import Reading
from gateway.service.sides import document_frame, encode_queries
from gateway.service.text_batches import infer_texts
from gateway.text.tokenizer import PairFrame, Truncate


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document and its score."""

    index: int
    """Position in the documents of the call."""
    score: float
    """That of its best chunk."""
    chunk: Chunk
    """The best chunk: the first, if several have its score. All of the document, if it was not split."""
    modes: Mapping[Mode, float] = field(default_factory=dict)
    """What the score is the weighted mean of, if there are weights."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The result of one call."""

    results: list[Ranked]
    """Best first; equal scores in the order of the documents."""
    tokens: int
    """Tokens of the query and its prompt or template, counted once, and of all documents or their chunks, without
    truncated tokens and those that stand for patches of images."""
    image_tokens: int = 0
    """Patches of all images; those of the query count with each document."""

    @staticmethod
    def of(scores: Sequence[float], tokens: int, image_tokens: int) -> "Ranking":
        """The ranking of documents that are not split, given their scores."""
        ranked = [Ranked(index, score, Chunk(0, [], 0, 0)) for index, score in enumerate(scores)]
        ranked.sort(key=lambda document: -document.score)
        return Ranking(ranked, tokens, image_tokens)


@dataclass(frozen=True, slots=True)
class _Scored:
    """The documents of a call in chunks, and the score of each chunk."""

    split: Sequence[Sequence[Chunk]]
    scores: Sequence[float]
    """Of the chunks of all documents, one after the other."""
    tokens: int
    """As in `Ranking`."""
    modes: Scores = field(default_factory=dict)
    """The scores that `scores` are the weighted means of, if there are weights."""


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of `rerank`."""

    caller: Caller
    model: TextModel
    query: str
    documents: Sequence[str]
    place: str
    truncate: Truncate
    max_tokens: int | None
    """Limit per document."""
    instruction: str | None
    chunking: Chunking | None
    weights: Weights

    @property
    def places(self) -> list[str]:
        return [f"{self.place}[{i}]" for i in range(len(self.documents))]


async def rerank(
    caller: Caller,
    model: TextModel,
    query: str,
    documents: Sequence[str],
    *,
    place: str = "documents",
    truncate: Truncate,
    max_tokens_per_document: int | None = None,
    raw: bool = False,
    instruction: str | None = None,
    chunking: Chunking | None = None,
    weights: Weights | None = None,
) -> Ranking:
    """Score every document, or its best chunk, against the query.

    Args:
        caller: the request to work for.
        model: the text model of a rerank model.
        query: truncated only by late-interaction models that were trained so. With other models, the query and all else
            before the document may have at most half of the model's tokens.
        documents: 1 to 2,048 texts.
        place: the field of the documents in error messages.
        truncate: what to do with documents over the limit, and with a query that the model truncates.
        max_tokens_per_document: a limit below the model's own.
        raw: whether to return a cross-encoder's logits as scores.
        instruction: replaces the instruction in the model's template or prompt.
        chunking: how to split documents into chunks, each of which is scored. None: documents are not split.
        weights: of the scores of several modes, accepted by `hybrid.check`; none for the model's own score.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    query_tokens = tokens.estimate(query + (instruction or ""))
    caller.check(model, sum(query_tokens + tokens.estimate(document) for document in documents))
    call = _Call(
        caller,
        replace(model, activation="none") if raw else model,
        query,
        documents,
        place,
        truncate,
        max_tokens_per_document,
        instruction,
        chunking,
        weights or {},
    )
    score = _cross_encode if model.role == CROSS_ENCODER else _interact_late
    scored = await score(call)
    ranked = []
    start = 0
    for index, of_document in enumerate(scored.split):
        rows = range(start, start + len(of_document))
        start = rows.stop
        best = max(rows, key=scored.scores.__getitem__)
        modes = {mode: float(scores[best]) for mode, scores in scored.modes.items()}
        ranked.append(Ranked(index, scored.scores[best], of_document[best - rows.start], modes))
    return Ranking(sorted(ranked, key=lambda document: -document.score), scored.tokens)


async def rerank_contents(
    reading: Reading,
    query: str | Content,
    documents: Sequence[str | Content],
    *,
    place: str = "documents",
    truncate: Truncate,
    max_tokens: int | None = None,
    instruction: str | None = None,
) -> Ranking:
    """Score every document against the query, where some of these have images.

    Args:
        reading: how to read images with a rerank model.
        query: a text or, for a cross-encoder, a content with images. Never truncated.
        documents: 1 to 2,048 texts and contents with images.
        place: the field of the documents in error messages.
        truncate: what to do with documents over the limit; see `score_contents`.
        max_tokens: a limit per document below the model's own.
        instruction: replaces the instruction in the model's template or prompt.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    pairs = [ContentPair(query, document, "query", f"{place}[{i}]") for i, document in enumerate(documents)]
    found = await score_contents(
        reading, pairs, truncate=truncate, max_document_tokens=max_tokens, instruction=instruction
    )
    return Ranking.of(found.scores, found.query_tokens[0] + sum(found.document_tokens), found.image_tokens)


async def _read_documents(
    call: _Call, limit: int, *, prompt: str = "", frame: PairFrame | None = None
) -> list[list[Chunk]]:
    """The chunks of every document. If documents are not split, each is one chunk of at most `limit` tokens."""
    caller, model, texts, places = call.caller, call.model, call.documents, call.places
    if call.chunking is not None:
        return await chunks.split(
            caller,
            model,
            texts,
            places,
            call.chunking,
            truncate=call.truncate,
            prompt=prompt,
            frame=frame,
            max_text_tokens=call.max_tokens,
        )
    prompted = [prompt + text for text in texts] if prompt else texts
    rows = await tokens.encode(caller, model, prompted, places, limit, truncate=call.truncate, frame=frame)
    return [[Chunk(0, row, 0, len(text))] for row, text in zip(rows, texts, strict=True)]


async def _interact_late(call: _Call) -> _Scored:
    """Scores of chunks that are encoded apart from the query."""
    caller, model = call.caller, call.model
    with caller.timings.stage("tokenize"):
        (query_ids,) = await encode_queries(
            caller, model, [call.query], ["query"], truncate=call.truncate, instruction=call.instruction
        )
        split = await _read_apart(call)
    rows = _rows(split)
    count = sum(map(len, rows))
    most = count + len(query_ids) * len(rows)  # an upper bound: within a batch, the query is encoded once
    if most > tokens.MAX_TOKENS:
        what = "documents" if call.chunking is None else "chunks of documents"
        raise RequestTooLarge(
            f"query has {len(query_ids)} tokens, counted with each of {len(rows)} {what}: {most} tokens in total;"
            f" the limit is {tokens.MAX_TOKENS}",
            param="query",
        )
    weights: Weights = call.weights or {"multi_vector": 1}
    scores = await hybrid.score(caller, model, query_ids, rows, [*weights])
    modes = scores if call.weights else {}
    return _Scored(split, hybrid.weighted(scores, weights).tolist(), len(query_ids) + count, modes)


async def _read_apart(call: _Call) -> list[list[Chunk]]:
    """The chunks of documents that are encoded apart from the query, with their prompt or in their template."""
    model, limit = call.model, min(call.model.max_tokens, call.max_tokens or call.model.max_tokens)
    frame = await document_frame(call.caller, model)
    if frame is None:
        return await _read_documents(call, limit, prompt=model.prompts.get("document", ""))
    return await _read_documents(call, tokens.room(model, frame, limit, call.place), frame=frame)


async def _cross_encode(call: _Call) -> _Scored:
    """Scores of chunks that are encoded together with the query."""
    caller, model, query, instruction = call.caller, call.model, call.query, call.instruction
    with caller.timings.stage("tokenize"):
        make_frame = partial(frame_query, model, query, "query", call.max_tokens or model.max_tokens, instruction)
        frame, limit = await caller.tokenize(len(query) + len(instruction or ""), make_frame)
        split = await _read_documents(call, limit, frame=frame)
    rows = _rows(split)
    scores = await _score(caller, model, rows, [frame.first_length] * len(rows))
    return _Scored(split, scores, frame.head_length + sum(len(row) - frame.head_length for row in rows))


def _rows(split: Sequence[Sequence[Chunk]]) -> list[list[int]]:
    return [chunk.row for of_document in split for chunk in of_document]


async def _score(
    caller: Caller, model: TextModel, pairs: Sequence[Sequence[int]], first_lengths: Sequence[int]
) -> list[float]:
    computed = await infer_texts(caller, model, [(ids,) for ids in pairs], {"score"}, first_lengths)
    scores: list[float] = ACTIVATIONS[model.activation](computed.score)[:, model.positive_class].tolist()
    return scores
