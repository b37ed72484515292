import asyncio
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gateway.tokenize import INLINE_CHARACTERS, TextTokenizer

TEXTS = ["A conch is a sea snail.", "", "  ", "Ünïcödé, 漢字 and 🐚", "word " * 300]


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> TextTokenizer:
    return TextTokenizer.from_file(repository / "all-minilm-l6-v2" / "tokenizer.json")


def test_ids_are_those_of_transformers(tokenizer: TextTokenizer, minilm_folder: Path) -> None:
    reference = AutoTokenizer.from_pretrained(minilm_folder, model_max_length=10_000)
    assert asyncio.run(tokenizer.encode(TEXTS)) == [reference(text)["input_ids"] for text in TEXTS]


def test_much_text_gives_the_same_ids_from_a_thread(tokenizer: TextTokenizer) -> None:
    text = "sea snail " * INLINE_CHARACTERS
    (ids,) = asyncio.run(tokenizer.encode([text]))
    (short,) = asyncio.run(tokenizer.encode(["sea snail " * 10]))
    assert ids[:20] == short[:20]
    assert len(ids) == 2 * INLINE_CHARACTERS + 2


@pytest.mark.parametrize("limit", [3, 16, 256])
def test_cut_text_ends_as_transformers_truncates_it(tokenizer: TextTokenizer, minilm_folder: Path, limit: int) -> None:
    reference = AutoTokenizer.from_pretrained(minilm_folder)
    for text, ids in zip(TEXTS, asyncio.run(tokenizer.encode(TEXTS)), strict=True):
        expected = reference(text, truncation=True, max_length=limit)["input_ids"]
        assert tokenizer.cut(ids, limit) == expected
