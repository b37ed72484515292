"""Classifies texts, and pairs of texts that a model reads together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from gateway.catalog import TextModel
from gateway.contract import CROSS_ENCODER
from gateway.errors import InvalidRequest
from gateway.scores import ACTIVATIONS, Scores
from gateway.service import prompts, tokens
from gateway.service.caller import Caller
from gateway.service.text_batches import infer_texts
from gateway.service.tokens import Text
from gateway.text.tokenizer import BARE, PairFrame, Truncate

Value = TypeVar("Value")
Pair = tuple[str, str]
EncodedRow = tuple[list[int], int]
"""Token ids, and how many of them are in the first segment."""

PAIR_CHARACTERS = 256
"""Fixed cost of a pair, in characters: it may need a frame of its own."""


@dataclass(frozen=True, slots=True)
class Input:
    """A text or a pair of texts."""

    place: str
    """Its field in error messages, such as "input[3]"."""
    content: Text | Pair
    first_place: str = ""
    """The field of the first text of a pair, if it has its own."""

    @property
    def texts(self) -> tuple[Text, ...]:
        """The text, or both texts."""
        return self.content if isinstance(self.content, tuple) else (self.content,)


@dataclass(frozen=True, slots=True)
class Classification:
    """The result of one call."""

    scores: Scores
    """[n, labels], in the order of the inputs and of the model's labels."""
    labels: Sequence[str]
    tokens: int
    """Tokens of all inputs, including special tokens and the model's prompt, excluding truncated ones."""

    def labelled(self) -> Iterator[list[tuple[str, float]]]:
        """The labels of each input with their scores, best first."""
        for scores in self.scores.tolist():
            yield sorted(zip(self.labels, scores, strict=True), key=lambda scored: -scored[1])


async def classify(
    caller: Caller,
    model: TextModel,
    inputs: Sequence[Input],
    *,
    truncate: Truncate,
    max_tokens: int | None = None,
    raw: bool = False,
    special_tokens: bool = True,
) -> Classification:
    """Score every label for each input.

    Args:
        caller: the request to work for.
        model: a classifier or a cross-encoder.
        inputs: 1 to 2,048 texts and pairs. A cross-encoder takes only pairs, and never truncates their first text.
        truncate: what to do with inputs over the limit. Of a pair, the longer text is truncated first.
        max_tokens: a limit below the model's own, for a text or for both texts of a pair together.
        raw: whether to return logits as scores.
        special_tokens: whether to put the tokenizer's special tokens around texts. Pairs need them.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, TokenizerFailed, or what `batches.infer` raises.
    """
    model = replace(model, max_tokens=min(model.max_tokens, max_tokens or model.max_tokens))
    for one in inputs:
        _check(model, one, truncate=truncate, special_tokens=special_tokens)
    caller.check(model, sum(tokens.estimate(text) for one in inputs for text in one.texts))
    framed = partial(_encode, frame=None if special_tokens else BARE)
    encode = _encode_framed if model.role == CROSS_ENCODER else framed
    rows: list[EncodedRow] = []
    total = 0
    with caller.timings.stage("tokenize"):
        places = iter([one.place for one in inputs])
        sizes = [_size(model, one) for one in inputs]
        async with tokens.in_slices(
            caller, sizes, lambda part: encode(model, inputs[part], truncate=truncate)
        ) as encoded:
            async for fresh in encoded:
                total = tokens.add_tokens(total, [ids for ids, _ in fresh], places)
                rows += fresh
    first_lengths = [length for _, length in rows]
    computed = await infer_texts(caller, model, [(ids,) for ids, _ in rows], {"score"}, first_lengths)
    scores = ACTIVATIONS["none" if raw else model.activation](computed.score)
    return Classification(scores, model.labels, total)


def _size(model: TextModel, one: Input) -> int:
    """The characters to read of an input, with its fixed cost."""
    most = model.max_tokens * tokens.MAX_CHARACTERS_PER_TOKEN
    fixed = PAIR_CHARACTERS if isinstance(one.content, tuple) else tokens.ROW_CHARACTERS
    return fixed + sum(min(len(text), most) for text in one.texts)


def _check(model: TextModel, one: Input, *, truncate: Truncate, special_tokens: bool) -> None:
    """Raise InvalidRequest for what is wrong without tokenizing."""
    if model.role == CROSS_ENCODER and not isinstance(one.content, tuple):
        raise InvalidRequest(
            f"{one.place} must be a pair of texts, since model {model.name!r} is a cross-encoder", param=one.place
        )
    if isinstance(one.content, tuple) and not special_tokens:
        raise InvalidRequest(
            f"add_special_tokens must not be false for pairs such as {one.place}, which special tokens separate",
            param="add_special_tokens",
        )
    tokens.check(model, one.texts, [one.place] * len(one.texts), model.max_tokens, truncate=truncate)


def _encode(
    model: TextModel, inputs: Sequence[Input], *, truncate: Truncate, frame: PairFrame | None
) -> list[EncodedRow]:
    """The rows of a classifier's inputs; `frame` replaces the special tokens around texts."""
    prompt = model.default_prompt
    texts: list[tuple[Text, str]] = []
    pairs: list[tuple[Pair, str]] = []
    for one in inputs:
        if isinstance(one.content, tuple):
            pairs.append(((prompt + one.content[0], one.content[1]), one.place))
        else:
            texts.append((prompt + one.content if isinstance(one.content, str) else one.content, one.place))
    of_pairs = iter(tokens.encode_pairs(model, *_columns(pairs), truncate=truncate))
    of_texts = iter(tokens.encode_now(model, *_columns(texts), model.max_tokens, truncate=truncate, frame=frame))
    return [next(of_pairs) if isinstance(one.content, tuple) else (ids := next(of_texts), len(ids)) for one in inputs]


def _columns(pairs: Sequence[tuple[Value, str]]) -> tuple[list[Value], list[str]]:
    return [value for value, _ in pairs], [place for _, place in pairs]


def _encode_framed(model: TextModel, inputs: Sequence[Input], *, truncate: Truncate) -> list[EncodedRow]:
    """The rows of a cross-encoder's pairs."""
    rows = []
    frames: dict[str, tuple[PairFrame, int]] = {}  # pairs may share their first text
    for one in inputs:
        first, second = map(str, one.texts)
        if first not in frames:
            frames[first] = frame_query(model, first, one.first_place or one.place, model.max_tokens)
        frame, limit = frames[first]
        (ids,) = tokens.encode_now(model, [second], [one.place], limit, truncate=truncate, frame=frame)
        rows.append((ids, frame.first_length))
    return rows


def frame_query(
    model: TextModel, query: str, place: str, max_tokens: int, instruction: str | None = None
) -> tuple[PairFrame, int]:
    """The frame of all documents for a query of a cross-encoder, and the maximum number of tokens of a document.

    Raises:
        InvalidRequest: the query leaves no room for a document, or the model takes no instruction.
        TokenizerFailed: the tokenizer raised an error.
    """
    tokens.check_control(model, instruction or "", prompts.FIELD)
    if not model.tokenizer.takes_instruction:  # the instruction is in the prompt, if the model has one
        query, instruction = prompts.instruct(model, model.default_prompt, instruction) + query, None
    frame = tokens.frame_query(model, query, place, instruction)
    limit = min(model.max_tokens - frame.length, max_tokens)
    if limit < 1:
        raise InvalidRequest(
            f"{place} leaves no room for a document within the {model.max_tokens} tokens of model {model.name!r}",
            param=place,
        )
    return frame, limit
