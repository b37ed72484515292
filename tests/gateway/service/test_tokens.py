import asyncio
from pathlib import Path

import pytest

from gateway.catalog import Model
from gateway.errors import InvalidRequest
from gateway.service import tokens
from gateway.service.tokens import SLICE_CHARACTERS, Text
from gateway.tokenize import TextTokenizer


@pytest.fixture(scope="module")
def model(repository: Path) -> Model:
    tokenizer = TextTokenizer.from_file(repository / "all-minilm-l6-v2" / "tokenizer.json")
    return Model("m", (), "text-embedding", True, "embedding", 384, (), 256, 30522, 64, 0, tokenizer)


def encode(model: Model, texts: list[Text], *, limit: int = 256, truncate: bool = False) -> list[list[int]]:
    places = [f"input[{i}]" for i in range(len(texts))]
    return asyncio.run(tokens.encode(model, texts, places, limit, truncate=truncate))


def test_texts_and_token_ids_keep_their_order(model: Model) -> None:
    assert encode(model, ["sea", [101, 102], "snail"]) == [[101, 2712, 102], [101, 102], [101, 10879, 102]]


def test_texts_of_many_slices_are_those_of_one(model: Model) -> None:
    texts: list[Text] = [f"{i} " + "sea " * (i % 200) for i in range(2900)]
    assert sum(map(len, texts)) > 2 * SLICE_CHARACTERS
    sliced = encode(model, texts, truncate=True)
    assert [sliced[i] for i in (0, 1499, 2899)] == encode(model, [texts[i] for i in (0, 1499, 2899)], truncate=True)


def test_text_with_more_characters_than_are_read_is_refused_or_cut(model: Model) -> None:
    text = "sea " * 161  # 644 characters, of which 640 are read for 10 tokens
    with pytest.raises(InvalidRequest, match=r"input\[0\] has 644 characters; for 10 tokens, .* 640 are read"):
        encode(model, [text], limit=10)
    assert encode(model, [text], limit=10, truncate=True) == [[101] + [2712] * 8 + [102]]


def test_token_ids_are_cut_like_text(model: Model) -> None:
    assert encode(model, [[101, *[2712] * 20, 102]], limit=5, truncate=True) == [[101, 2712, 2712, 2712, 102]]


def test_counting_stops_at_the_first_text_too_many(model: Model) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode(model, [[101] * 200] * 2000)
    assert caught.value.param == "input[1500]"
