import asyncio
from pathlib import Path

import pytest

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service import tokens
from gateway.service.tokens import SLICE_CHARACTERS, Text
from gateway.text.tokenizer import TextTokenizer, Truncate
from tests.gateway.service.recording import RecordingTriton, caller


@pytest.fixture(scope="module")
def model(entries: Path) -> TextModel:
    tokenizer = TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")
    return TextModel("m", "m", "text-embedding", {}, 64, 256, 30522, tokenizer)


def encode(model: TextModel, texts: list[Text], *, limit: int = 256, truncate: Truncate = "none") -> list[list[int]]:
    places = [f"input[{i}]" for i in range(len(texts))]
    return asyncio.run(tokens.encode(caller(RecordingTriton()), model, texts, places, limit, truncate=truncate))


def test_texts_and_token_ids_keep_their_order(model: TextModel) -> None:
    assert encode(model, ["sea", [101, 102], "snail"]) == [[101, 2712, 102], [101, 102], [101, 10879, 102]]


def test_slicing_does_not_change_the_result(model: TextModel) -> None:
    texts: list[Text] = [f"{i} " + "sea " * (i % 200) for i in range(2900)]
    assert sum(map(len, texts)) > 2 * SLICE_CHARACTERS
    sliced = encode(model, texts, truncate="end")
    assert [sliced[i] for i in (0, 1499, 2899)] == encode(model, [texts[i] for i in (0, 1499, 2899)], truncate="end")


def test_text_with_too_many_characters_is_refused_or_truncated(model: TextModel) -> None:
    text = "sea " * 161  # 644 characters, of which 640 are read for 10 tokens
    with pytest.raises(InvalidRequest, match=r"input\[0\] has 644 characters; the limit is 640 for 10 tokens"):
        encode(model, [text], limit=10)
    assert encode(model, [text], limit=10, truncate="end") == [[101] + [2712] * 8 + [102]]


def test_token_ids_are_truncated_like_text(model: TextModel) -> None:
    assert encode(model, [[101, *[2712] * 20, 102]], limit=5, truncate="end") == [[101, 2712, 2712, 2712, 102]]


def test_error_names_the_first_text_over_the_total_limit(model: TextModel) -> None:
    with pytest.raises(RequestTooLarge) as caught:
        encode(model, [[101, *[2712] * 198, 102]] * 2000)
    assert caught.value.param == "input[1500]"


def pairs(
    model: TextModel, query: str, documents: list[str], *, limit: int = 200, truncate: Truncate = "end"
) -> list[list[int]]:
    frame = tokens.frame_query(model, query, "query")
    places = [f"documents[{i}]" for i in range(len(documents))]
    found = tokens.encode(caller(RecordingTriton()), model, documents, places, limit, truncate=truncate, frame=frame)
    return asyncio.run(found)


def test_limit_excludes_the_frame(model: TextModel) -> None:
    assert pairs(model, "sea", ["snail " * 9, "snail"], limit=2) == [
        [101, 2712, 102, 10879, 10879, 102],
        [101, 2712, 102, 10879, 102],
    ]
    with pytest.raises(InvalidRequest, match=r"documents\[0\] has 9 tokens; the limit .* with this query is 2"):
        pairs(model, "sea", ["snail " * 9], limit=2, truncate="none")


def test_query_counts_with_every_document(model: TextModel) -> None:
    with pytest.raises(RequestTooLarge) as caught:
        pairs(model, "sea " * 126, ["snail " * 71] * 2048)  # 200 tokens each
    assert caught.value.param == "documents[1500]"


def test_query_has_at_most_half_of_the_tokens(model: TextModel) -> None:
    assert len(pairs(model, "sea " * 126, [""])[0]) == 128 + 1
    with pytest.raises(InvalidRequest, match=r"query has 129 tokens; the limit of model 'm' is 128"):
        pairs(model, "sea " * 127, [""])
    with pytest.raises(InvalidRequest, match=r"query has 8193 characters; the limit is 8192 for 128 tokens"):
        pairs(model, "x" * 8193, [""])
