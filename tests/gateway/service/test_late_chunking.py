import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gateway.catalog import TextModel
from gateway.errors import InvalidRequest
from gateway.service.caller import Caller
from gateway.service.chunks import MAX_CHARACTERS, Span
from gateway.service.late_chunking import EmbeddedParts, embed_parts
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import Output
from tests.gateway.service.recording import RecordingTriton, caller


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One of bytes and a few words whose offsets have no spaces, as RoBERTa's."""
    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "sn", "sna", "snai", "snail"]
    merges = [("s", "n"), ("sn", "a"), ("sna", "i"), ("snai", "l")]
    tokenizer = Tokenizer(models.BPE({piece: id_ for id_, piece in enumerate(pieces, 1)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return tokenizer


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> TextModel:
    """The vector of each token is its id."""
    outputs = {"tokens": Output("tokens", "FP32", (-1, 1))}
    wrapped = TextTokenizer(Tokenizer.from_str(tokenizer.to_str()))
    return TextModel("m", "m", "text-embedding", outputs, 4, 40, 1000, wrapped, tokens_pooling="mean")


def embed(
    model: TextModel,
    document: str,
    parts: Sequence[Span] | None,
    by: Caller | None = None,
    *,
    in_windows: bool = True,
) -> EmbeddedParts:
    return asyncio.run(
        embed_parts(
            by or caller(RecordingTriton()),
            model,
            document,
            parts,
            prompt="",
            place="input",
            part_places=[f"chunk_spans[{i}]" for i in range(len(parts or ()))],
            in_windows=in_windows,
        )
    )


@pytest.mark.parametrize("document", ["sea ", "sea  ", " sea", "sea", "snail\n \n", " "])
def test_part_that_is_all_of_the_document_has_all_of_its_tokens(
    model: TextModel, tokenizer: Tokenizer, document: str
) -> None:
    found = embed(model, document, [(0, len(document))]).embedded.vectors
    assert found.tolist() == [[pytest.approx(np.mean(tokenizer.encode(document).ids))]]


def test_space_between_words_belongs_to_the_part_with_it(model: TextModel, tokenizer: Tokenizer) -> None:
    found = embed(model, "sea  snail", [(0, 4), (4, 10)]).embedded.vectors  # the second space is of the word behind it
    ids = tokenizer.encode("sea  snail").ids
    assert found[:, 0].tolist() == pytest.approx([np.mean(ids[:5]), np.mean(ids[5:])])


def test_parts_are_the_means_of_their_tokens_wherever_they_are(model: TextModel, tokenizer: Tokenizer) -> None:
    document = "".join(chr(97 + place % 26) for place in range(300))  # a token for each letter
    cuts = np.random.default_rng(0).integers(0, len(document) + 1, (500, 2)).tolist()
    parts = [(min(cut), max(cut)) for cut in cuts if cut[0] != cut[1]]
    ids = tokenizer.encode(document).ids
    assert len(ids) == len(document) + 2
    expected = [
        np.mean(ids[start + 1 if start else 0 : end + 1 if end < len(document) else None]) for start, end in parts
    ]
    by = caller(RecordingTriton())
    np.testing.assert_allclose(embed(model, document, parts, by).embedded.vectors[:, 0], expected, rtol=1e-5)
    assert by.account.seconds > 0  # many parts are summed in a thread


def test_sentences_are_counted_in_a_thread_and_no_further_than_needed(model: TextModel) -> None:
    by = caller(RecordingTriton())
    with pytest.raises(InvalidRequest, match="input has over 2048 sentences; it must have 1 to 2048"):
        embed(model, "! " * 3000, None, by)
    assert by.account.seconds > 0
    with pytest.raises(InvalidRequest, match=f"input has {MAX_CHARACTERS + 2} characters; the limit"):
        embed(model, "! " * (MAX_CHARACTERS // 2 + 1), None)


def test_document_that_cannot_fit_is_not_read(model: TextModel) -> None:
    with pytest.raises(InvalidRequest, match="input has 2561 characters; the limit is 2560 for 40 tokens"):
        embed(model, "a" * 2561, [(0, 1)], in_windows=False)
