import asyncio
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest, RequestTooLarge, TokenizerFailed
from gateway.service import chunks
from gateway.service.chunks import MAX_CHARACTERS, Chunk, Chunking
from gateway.service.tokens import MAX_TOKENS, Text
from gateway.text.tokenizer import PairFrame, TextTokenizer, Truncate
from tests.gateway.service.recording import RecordingTriton, caller

WORDS = "The conch is a sea snail. Its shell can be blown like a trumpet; don't you know?  " * 8
TEXT = WORDS + "貝殻は海の生き物です。" * 9


@pytest.fixture(scope="module")
def model(entries: Path) -> TextModel:
    tokenizer = TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")
    return TextModel("m", "m", "text-embedding", {}, 64, 40, 30522, tokenizer)


def split(
    model: TextModel,
    text: Text,
    *,
    truncate: Truncate = "end",
    prompt: str = "",
    frame: PairFrame | None = None,
    limit: int | None = None,
    **chunking: int,
) -> list[Chunk]:
    found = chunks.split(
        caller(RecordingTriton()),
        model,
        [text],
        ["input[0]"],
        Chunking(**chunking),
        truncate=truncate,
        prompt=prompt,
        frame=frame,
        max_text_tokens=limit,
    )
    (of_text,) = asyncio.run(found)
    return of_text


def texts(found: list[Chunk]) -> list[str]:
    return [TEXT[chunk.start : chunk.end] for chunk in found]


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_chunks_are_the_rows_of_their_texts(model: TextModel, prompt: str) -> None:
    found = split(model, TEXT, prompt=prompt)
    assert [chunk.row for chunk in found] == model.tokenizer.encode([prompt + text for text in texts(found)])
    assert max(len(chunk.row) for chunk in found) == model.max_tokens
    assert [chunk.index for chunk in found] == list(range(len(found)))


def test_chunks_are_all_of_the_text(model: TextModel) -> None:
    found = split(model, TEXT)
    assert "".join("".join(texts(found)).split()) == "".join(TEXT.split())
    (row,) = model.tokenizer.encode([TEXT])
    assert [id_ for chunk in found for id_ in chunk.row[1:-1]] == row[1:-1]
    assert sum(len(chunk.tokens) for chunk in found) == len(row) - 2


def test_chunks_end_between_words(model: TextModel) -> None:
    found = split(model, WORDS)
    assert len(found) > 3
    assert all(text == text.strip() and {*text.split()} <= {*WORDS.split()} for text in texts(found))


def test_chunks_end_with_a_sentence_that_ends_in_their_last_quarter(model: TextModel) -> None:
    text = "a conch lives in the sea. " * 12  # 8 tokens each
    assert [text[chunk.start : chunk.end] for chunk in split(model, text)] == [(text[:26] * 4).strip()] * 3
    long = "a conch " + "of the sea " * 12 + "ends. " + "it goes on " * 9
    assert not long[: split(model, long)[0].end].endswith(".")


def test_texts_without_spaces_are_cut_at_punctuation_if_it_is_near(model: TextModel) -> None:
    text = "貝殻は海の生き物です。" * 9
    assert [text[chunk.start : chunk.end][-1] for chunk in split(model, text)] == ["。"] * 3
    far = "貝" * 100
    assert [len(chunk.tokens) for chunk in split(model, far)] == [38, 38, 24]


def test_characters_of_many_tokens_are_not_cut(byte_tokens: TextTokenizer) -> None:
    model = TextModel("m", "m", "text-embedding", {}, 64, 9, 30522, byte_tokens)
    found = split(model, "🐚" * 10)  # four tokens each
    assert [(chunk.start, chunk.end) for chunk in found] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert [len(chunk.tokens) for chunk in found] == [8] * 5


@pytest.fixture
def byte_tokens(tmp_path: Path) -> TextTokenizer:
    """A tokenizer whose tokens are bytes."""
    alphabet = {letter: id_ for id_, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer.from_file(tmp_path / "tokenizer.json")


def test_text_that_fits_is_one_chunk(model: TextModel) -> None:
    (chunk,) = split(model, " a shell ")
    assert chunk == Chunk(0, [101, 1037, 5806, 102], 1, 8, 1, range(2), [(1, 2), (3, 8)])
    assert split(model, "") == [Chunk(0, [101, 102], 0, 0, 1, range(0), [])]


def test_token_ids_are_split_too(model: TextModel) -> None:
    found = split(model, [101, *range(2000, 2050), 102], prompt="no prompt for ids")
    assert [chunk.row for chunk in found] == [[101, *range(2000, 2038), 102], [101, *range(2038, 2050), 102]]


def test_chunks_overlap_by_whole_words(model: TextModel) -> None:
    found = split(model, WORDS, overlap=6)
    for before, behind in pairwise(found):
        shared = TEXT[behind.start : before.end]
        assert 1 <= len(model.tokenizer.encode([shared])[0]) - 2 <= 6
        assert TEXT[behind.start - 1] == " "


def test_limits_of_tokens_and_chunks(model: TextModel) -> None:
    all_of_it = split(model, TEXT)
    assert len(split(model, TEXT, max_tokens=10)) > 2 * len(all_of_it)
    assert split(model, TEXT, max_chunks=2) == all_of_it[:2]
    last = split(model, TEXT, max_chunks=2, truncate="start")
    assert [chunk.row for chunk in last] == [chunk.row for chunk in all_of_it[-2:]]
    assert sum(len(chunk.tokens) for chunk in split(model, TEXT, limit=100)) == 100
    (row,) = model.tokenizer.encode([TEXT])
    end = split(model, TEXT, limit=100, truncate="start")
    assert [id_ for chunk in end for id_ in chunk.row[1:-1]] == row[-101:-1]


def test_what_is_over_a_limit_is_an_error_if_it_may_not_be_truncated(model: TextModel) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[0\] has 10 chunks; the limit is 2") as caught:
        split(model, "sea " * 380, max_chunks=2, truncate="none")
    assert caught.value.param == "input[0]"
    with pytest.raises(InvalidRequest, match=r"input\[0\] has 380 tokens; the limit is 100"):
        split(model, "sea " * 380, limit=100, truncate="none")


def test_chunks_over_their_limit_are_truncated_however_many_there_are(model: TextModel) -> None:
    text = "word " * 20_000
    (first,) = split(model, text, max_tokens=8, max_chunks=1)
    assert (first.start, first.end) == (0, 39)
    (last,) = split(model, text, max_tokens=8, max_chunks=1, truncate="start", limit=16)
    assert last.end == len(text) - 1
    (last,) = split(model, text, max_tokens=8, max_chunks=1, truncate="start")
    assert last.end == len(text) - 1


def test_text_behind_the_limits_is_not_read(model: TextModel) -> None:
    unreadable = "\ud800"
    text = "sea " * 300
    with pytest.raises(TokenizerFailed):
        split(model, text + unreadable)
    for limited in (partial(split, model, max_tokens=8, max_chunks=2), partial(split, model, limit=16)):
        assert text[: limited(text + unreadable)[0].end].startswith("sea sea")
        found = limited(unreadable + text, truncate="start")
        assert (unreadable + text)[found[0].start : found[0].end].startswith("sea sea")
        assert found[-1].end == len(text)
        with pytest.raises(InvalidRequest, match="has 1201 characters; the limit is 1024 for 16 tokens"):
            limited(text + unreadable, truncate="none")


def test_spans_of_tokens_over_the_limit_are_not_read(model: TextModel) -> None:
    tokenizer, text = model.tokenizer, "a conch lives in the sea"
    whole = tokenizer.locate(text)
    first, last = tokenizer.locate(text, limit=2), tokenizer.locate(text, limit=2, end="start")
    assert (first.ids, first.spans) == (whole.ids[:2], whole.spans[:2])
    assert (last.ids, last.spans) == (whole.ids[-2:], whole.spans[-2:])
    assert whole.total == first.total == last.total == 7


def test_text_over_the_tokens_of_a_request_is_too_large(byte_tokens: TextTokenizer) -> None:
    model = TextModel("m", "m", "text-embedding", {}, 64, 4000, 30522, byte_tokens)
    text = "ab " * (MAX_TOKENS // 3) + "c"
    with pytest.raises(RequestTooLarge, match=r"input\[0\] has 300001 tokens; the limit of a request is 300000"):
        split(model, text)
    (chunk,) = split(model, text, max_chunks=1, limit=5000, truncate="start")  # as much is read of it
    assert chunk.end == len(text)


def test_chunks_in_a_frame(model: TextModel) -> None:
    frame = model.tokenizer.frame("Who plays it?")
    found = split(model, TEXT[:500], frame=frame)
    assert [chunk.row for chunk in found] == model.tokenizer.encode(texts(found), frame)
    assert all(len(chunk.tokens) + frame.length == len(chunk.row) <= model.max_tokens for chunk in found)


def test_overlap_is_at_most_half_of_a_chunk(model: TextModel) -> None:
    assert split(model, TEXT, overlap=19) == split(model, TEXT, overlap=10_000)


def test_prompt_leaves_room(model: TextModel) -> None:
    assert len(split(model, "sea snail", prompt="sea " * 37)) == 2
    with pytest.raises(
        InvalidRequest, match=r"input\[0\] leaves no room for a chunk within the 40 tokens of model 'm'"
    ):
        split(model, "sea snail", prompt="sea " * 38)


def test_number_of_chunks_is_limited(model: TextModel) -> None:
    with pytest.raises(RequestTooLarge, match=r"over 2048 chunks up to input\[0\]; the limit is 2048"):
        split(model, "sea " * 9000, max_tokens=4)
    with pytest.raises(InvalidRequest, match=r"input\[0\] has 1048577 characters; the limit of a text in chunks"):
        split(model, " " * (MAX_CHARACTERS + 1))
    with pytest.raises(RequestTooLarge, match=r"the limit is 300000"):
        split(replace(model, max_tokens=256), "of " * 299_000)


def test_mean_of_unit_vectors_is_weighted_by_tokens() -> None:
    vectors = np.array([[3, 0], [0, 5], [8, 0], [6, 8]], np.float32)
    one, two = Chunk(0, [1], 0, 0), [Chunk(0, [1], 0, 0, tokens=range(1)), Chunk(1, [1], 0, 0, tokens=range(1, 4))]
    expected = [[3, 0], np.array([3, 1]) / np.sqrt(10), [6, 8]]
    np.testing.assert_allclose(chunks.mean(vectors, [[one], two, [one]]), expected, atol=1e-6)
