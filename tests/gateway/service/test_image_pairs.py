"""Pairs with images equal the whole rendered text, tokenized at once."""

import asyncio
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest
from gateway.images.reader import Images
from gateway.service.contents import NO_LIMITS, Content, Picture
from gateway.service.image_pairs import ContentPair, ContentScores, score_contents
from gateway.service.image_rows import Reading
from gateway.service.rerank import Ranking, rerank, rerank_contents
from gateway.service.score import TextPair, score_pairs
from gateway.text.tokenizer import Truncate
from tests.gateway.service.recording import RecordingTriton, caller
from tests.gateway.service.test_image_rows import sent
from tests.gateway.service.vision import CHAT, END, PAD, SPECIAL, START, TEMPLATE, image, text_model, tokenizer

SMALL, WIDE = Picture(image(16, 16), "documents[0].image"), Picture(image(40, 16, 1), "documents[1].image")
"""Images of 4 and 10 tokens."""
TOKENS = {SMALL: 4, WIDE: 10}


def written(content: str | Content) -> str:
    parts = [content] if isinstance(content, str) else content
    return "".join(part if isinstance(part, str) else START + PAD * TOKENS[part] + END for part in parts)


def encoded(text: str) -> list[int]:
    ids: list[int] = tokenizer().encode(text, add_special_tokens=False).ids
    return ids


def pair(query: str | Content, document: str | Content) -> list[int]:
    return encoded(TEMPLATE.prefix.replace("{query}", written(query)) + written(document) + TEMPLATE.suffix)


def ranked(
    model: TextModel,
    triton: RecordingTriton,
    query: str | Content,
    documents: Sequence[str | Content],
    truncate: Truncate = "none",
    max_tokens: int | None = None,
) -> Ranking:
    async def work() -> Ranking:
        reader = Images(10**7, None)
        try:
            reading = Reading.of(caller(triton), reader, model, NO_LIMITS, "query")
            return await rerank_contents(reading, query, documents, truncate=truncate, max_tokens=max_tokens)
        finally:
            await reader.close()

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        ("the sea", [[SMALL], ["a", WIDE, "b"], "the snail"]),
        ([SMALL], ["the snail", [WIDE], ["b", SMALL]]),
        (["find ", WIDE, " here"], [[WIDE, SMALL]]),
    ],
)
def test_cross_encoder_reads_query_and_document_together(
    query: str | Content, documents: Sequence[str | Content]
) -> None:
    triton = RecordingTriton()
    found = ranked(text_model("cross-encoder"), triton, query, documents)
    expected = [pair(query, document) for document in documents]
    rows = sent(triton)
    assert sorted(ids for ids, _, _ in rows) == sorted(expected)
    assert {one.index for one in found.results} == {*range(len(documents))}
    for ids, patches, _ in rows:
        assert len(patches) == 4 * ids.count(SPECIAL.index(PAD))
    assert found.image_tokens == sum(len(patches) for _, patches, _ in rows)


def test_query_counts_once() -> None:
    documents: list[str | Content] = [[SMALL], "the snail"]
    found = ranked(text_model("cross-encoder"), RecordingTriton(), "the sea", documents)
    query = len(encoded(TEMPLATE.prefix.replace("{query}", "the sea")))
    assert found.tokens == sum(len(pair("the sea", document)) for document in documents) - query - 4


def test_image_of_a_query_is_the_same_in_each_row() -> None:
    triton = RecordingTriton()
    ranked(text_model("cross-encoder"), triton, [SMALL], ["a", "b", "c"])
    first, *others = (patches for _, patches, _ in sent(triton))
    assert all(np.array_equal(first, other) for other in others)


def test_documents_are_truncated_behind_their_images() -> None:
    triton = RecordingTriton()
    text = " the sea snail lives in the sea" * 5
    found = ranked(text_model("cross-encoder"), triton, "the sea", [[SMALL, text], text], "end", 15)
    head, behind = encoded(TEMPLATE.prefix.replace("{query}", "the sea")), encoded(TEMPLATE.suffix)
    rows = [ids for ids, _, _ in sent(triton)]
    assert {len(ids) for ids in rows} == {len(head) + 15 + len(behind)}
    assert all(ids[: len(head)] == head and ids[-len(behind) :] == behind for ids in rows)
    assert found.tokens == len(head) + 2 * (15 + len(behind)) - 4


def test_limit_for_documents_and_images_in_the_query() -> None:
    """A limit of the whole row is one for each document too; it is no reason to refuse the query."""
    model = text_model("cross-encoder")
    with pytest.raises(InvalidRequest, match="a limit for documents is not supported for a query with images"):
        ranked(model, RecordingTriton(), [SMALL], ["a"], "end", 100)
    triton = RecordingTriton()
    ranked(model, triton, [SMALL], ["the sea " * 600], "end", model.max_tokens)
    ((ids, _, _),) = sent(triton)
    assert len(ids) == model.max_tokens


def test_first_wrong_query_is_named() -> None:
    pairs = [ContentPair(text, [SMALL], f"text_1[{i}]", f"text_2[{i}]") for i, text in enumerate(["a", PAD, END])]

    async def work(role: str) -> None:
        reader = Images(10**7, None)
        try:
            reading = Reading.of(caller(RecordingTriton()), reader, text_model(role), NO_LIMITS, "")
            await score_contents(reading, pairs, truncate="none")
        finally:
            await reader.close()

    for role in ("cross-encoder", "late-interaction"):
        with pytest.raises(InvalidRequest) as caught:
            asyncio.run(work(role))
        assert caught.value.param == "text_1[1]"
    texts = [TextPair(text, "a", f"text_1[{i}]", f"text_2[{i}]") for i, text in enumerate(["a", PAD, END])]
    for role in ("cross-encoder", "late-interaction"):
        with pytest.raises(InvalidRequest) as caught:
            asyncio.run(score_pairs(caller(RecordingTriton()), text_model(role), texts, truncate="none"))
        assert caught.value.param == "text_1[1]"


def test_documents_of_late_interaction_are_read_apart_from_the_query() -> None:
    triton = RecordingTriton()
    model = text_model("late-interaction")
    given: list[str | Content] = [[SMALL], "the snail", [WIDE, "b"]]
    found = ranked(model, triton, "the sea", given)
    query = encoded(CHAT.query.replace("{content}", "the sea"))
    documents = [encoded(CHAT.document.replace("{content}", written(one))) for one in given]
    (call,) = triton.calls
    assert [
        ids[:length].tolist() for ids, length in zip(call["query_ids"], call["query_length"][:, 0], strict=True)
    ] == [query] * 3
    assert sorted(
        ids[:length].tolist() for ids, length in zip(call["document_ids"], call["document_length"][:, 0], strict=True)
    ) == sorted(documents)
    assert call["patches"].shape == (3, 40, 48)
    assert found.tokens == len(query) + sum(map(len, documents)) - 14
    assert found.image_tokens == 4 * 14


def test_texts_of_late_interaction_are_in_their_templates_too() -> None:
    triton = RecordingTriton()
    model = text_model("late-interaction")
    asyncio.run(rerank(caller(triton), model, "the sea", ["the snail"], truncate="none"))
    asyncio.run(score_pairs(caller(triton), model, [TextPair("the sea", "the snail", "a", "b")], truncate="none"))
    for call in triton.calls:
        assert call["query_ids"].tolist() == [encoded(CHAT.query.replace("{content}", "the sea"))]
        assert call["document_ids"].tolist() == [encoded(CHAT.document.replace("{content}", "the snail"))]
        assert not call["grids"].any()


def test_document_that_is_a_text_may_have_a_template_of_its_own() -> None:
    triton = RecordingTriton()
    chat = msgspec.structs.replace(CHAT, text="", document_text=CHAT.query)
    model = text_model("late-interaction", chat=chat)
    ranked(model, triton, "the sea", [[SMALL], "the snail"])
    asyncio.run(rerank(caller(triton), model, "the sea", ["the snail"], truncate="none"))
    page, text = CHAT.document.replace("{content}", written([SMALL])), CHAT.query.replace("{content}", "the snail")
    both, alone = triton.calls
    assert sorted(
        ids[:length].tolist() for ids, length in zip(both["document_ids"], both["document_length"][:, 0], strict=True)
    ) == sorted([encoded(page), encoded(text)])
    assert alone["document_ids"].tolist() == [encoded(text)]
    with pytest.raises(InvalidRequest, match="has a text and an image"):
        ranked(model, triton, "the sea", [[SMALL, "the snail"]])


@pytest.mark.parametrize("role", ["cross-encoder", "late-interaction"])
def test_pairs_keep_their_order(role: str) -> None:
    triton = RecordingTriton()
    given: list[tuple[str, str | Content]] = [("a", [WIDE]), ("b", "the sea"), ("c", [SMALL]), ("a", "d")]
    pairs = [
        ContentPair(query, document, f"queries[{i}]", f"documents[{i}]") for i, (query, document) in enumerate(given)
    ]

    async def work() -> ContentScores:
        reader = Images(10**7, None)
        try:
            reading = Reading.of(caller(triton), reader, text_model(role), NO_LIMITS, "")
            return await score_contents(reading, pairs, truncate="none")
        finally:
            await reader.close()

    found = asyncio.run(work())
    assert len(found.scores) == 4
    assert found.image_tokens == 4 * 14
    if role == "cross-encoder":
        lengths = [len(pair(one.query, one.document)) for one in pairs]
        placeholders = [10, 0, 4, 0]
        counted = [query + document for query, document in zip(found.query_tokens, found.document_tokens, strict=True)]
        assert counted == [length - count for length, count in zip(lengths, placeholders, strict=True)]


@pytest.mark.parametrize(
    ("role", "query", "document", "message"),
    [
        ("late-interaction", [SMALL], "a", "queries of model 'm' are texts without images"),
        ("cross-encoder", "a", [SMALL] * 5, "documents[0] has 5 images; the limit of model 'm' is 4"),
        ("cross-encoder", "a<|im_end|>", [SMALL], "contains '<|im_end|>', a special token of model 'm'"),
        ("cross-encoder", "a", [SMALL, PAD], f"contains '{PAD}', a special token of model 'm'"),
        (
            "cross-encoder",
            "a",
            [SMALL, "b " * 600],
            "tokens with its images and the query; the limit of model 'm' is 512",
        ),
        ("cross-encoder", "a" * 600, [SMALL], "query has 618 tokens; the limit of model 'm' is 256"),
        ("cross-encoder", ["a" * 600, SMALL], [SMALL], "query has 618 tokens; the limit of model 'm' is 256"),
        ("cross-encoder", "a" * 60_000, [SMALL], "characters; the limit is 16384 for 256 tokens"),
    ],
)
def test_wrong_pairs_are_refused(role: str, query: str | Content, document: str | Content, message: str) -> None:
    triton = RecordingTriton()
    with pytest.raises(InvalidRequest) as caught:
        ranked(text_model(role), triton, query, [document])
    assert message in caught.value.message
    assert not triton.calls


@pytest.mark.parametrize("text", ["<|im_end|>", PAD])
def test_special_tokens_in_pairs_of_texts_are_refused_too(text: str) -> None:
    model = text_model("cross-encoder")
    for query, document in ((text, "a"), ("a", text)):
        with pytest.raises(InvalidRequest, match="a special token of model 'm'"):
            asyncio.run(rerank(caller(RecordingTriton()), model, query, [document], truncate="none"))
