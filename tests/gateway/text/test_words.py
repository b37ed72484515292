"""Tokenizers that look words up give the same ids as those that do not."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from gateway.text.tokenizer import TextTokenizer, WordTokenizer
from gateway.text.words import MAX_CHARACTERS, MAX_LETTERS, Words, are_independent

TEXTS = ["The Conch is a sea snail, isn't it?", "Straße, naïve café: 漢字", "ὈΔΥΣΑΕΎΣ, İstanbul"]
ALPHABET = st.one_of(
    st.characters(codec="ascii"),
    st.sampled_from("aAbcé\u0301\u0338İςΣßﬁ漢字。“”—\u00a0\u2028\u0085\u200d\ufffd\x1c\x0b\0가🐚 \t\n\r"),
    st.characters(codec="utf8"),
)
WRITTEN = st.lists(
    st.one_of(st.text(ALPHABET, max_size=20), st.sampled_from(["[CLS]", "[SEP]", "[sep]", "sea", "Snail"])), max_size=8
).map("".join)


def bert(normalizer: normalizers.BertNormalizer) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=12))  # noqa: S106
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


TOKENIZERS = [
    bert(normalizers.BertNormalizer(clean, spaced, strips, lowercase))
    for clean, spaced, strips, lowercase in product((True, False), (True, False), (None, True, False), (True, False))
]


@given(st.sampled_from(TOKENIZERS), WRITTEN, WRITTEN)
@example(TOKENIZERS[0], "x[CLS]y [ CLS ]", "a\x01b c\x0bd \u0338= \u0301e")
@example(TOKENIZERS[1], "\u0301a e\u0301 İI ΑΣ", "a" * 13)
def test_ids_are_those_without_a_look_up(tokenizer: Tokenizer, text: str, query: str) -> None:
    assert are_independent(tokenizer)
    reference, tested = TextTokenizer(tokenizer), WordTokenizer(tokenizer)
    for _ in range(2):  # new words, then known ones
        assert tested.encode([text, query]) == reference.encode([text, query])
    frame = reference.frame(query)
    assert tested.frame(query) == frame
    assert tested.encode([text], frame) == reference.encode([text], frame)


def test_bert_looks_words_up(entries: Path) -> None:
    assert type(TextTokenizer.from_file(entries / "all-minilm-l6-v2" / "tokenizer.json")) is WordTokenizer


@pytest.mark.parametrize("change", ["normalizer", "pre_tokenizer", "model", "added token"])
def test_other_tokenizers_do_not(change: str, tmp_path: Path) -> None:
    tokenizer = bert(normalizers.BertNormalizer())
    match change:
        case "normalizer":
            tokenizer.normalizer = normalizers.NFC()
        case "pre_tokenizer":
            tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        case "model":
            tokenizer.model = models.WordLevel(tokenizer.get_vocab(), unk_token="[UNK]")  # noqa: S106
        case _:
            tokenizer.add_tokens([AddedToken("Sea", normalized=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert type(TextTokenizer.from_file(tmp_path / "tokenizer.json")) is TextTokenizer


def test_memory_for_words_is_limited() -> None:
    known = Words(TOKENIZERS[0], most=10)
    written = [f"{i}" for i in range(25)]
    assert list(known.ids(" ".join(written))) == [id_ for word in written for id_ in known.ids(word)]
    assert 0 < len(known) <= 10
    long = "a" * (MAX_LETTERS + 1)
    assert list(known.ids(long)) == [TOKENIZERS[0].token_to_id("[UNK]")]
    assert long not in known


def test_huge_texts_are_not_looked_up() -> None:
    known, tokenizer = Words(TOKENIZERS[0]), TextTokenizer(TOKENIZERS[0])
    text = "sea é " * (MAX_CHARACTERS // 6 + 1)
    assert [tokenizer.encode([text])[0][1:-1]] == [list(known.ids(text))]
    assert not known
