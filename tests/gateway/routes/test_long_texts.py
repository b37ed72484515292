"""Texts over the limit, averaged, and late chunking. The references start from the texts."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from tests.odd_models import PROMPTS

Vectors = NDArray[np.float32]

WORDS = ["shell"] * 254 + ["brass"] * 254 + ["march"] * 50
"""Each is one token; the model takes 254 between its special tokens."""
SENTENCES = [
    "Berlin is the capital of Germany.",
    "The city has 3.7 million inhabitants!",
    "Is it old?",
    "It was founded in the 13th century, some say.",
]


@pytest.fixture(scope="module")
def reference(minilm_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm_folder), device="cpu")


def post(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text[:1000]
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: httpx2.Client, status: int = 400, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == status, response.text[:1000]
    error: dict[str, Any] = response.json()["error"]
    return error


def vectors(answer: dict[str, Any]) -> Vectors:
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def unit(rows: Vectors) -> Vectors:
    scaled: Vectors = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return scaled


def token_vectors(reference: SentenceTransformer, text: str) -> tuple[Vectors, list[tuple[int, int]]]:
    """Those of all tokens, special ones included, and where each is in the text."""
    (encoded,) = reference.encode([text], output_value="token_embeddings")
    offsets = reference.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    found = np.asarray(encoded)
    assert len(found) == len(offsets)
    return found, offsets


def late(reference: SentenceTransformer, text: str, parts: list[tuple[int, int]]) -> Vectors:
    """Late chunking as its authors define it: the mean of the vectors of each part's tokens. Special tokens belong to
    the first and the last part, if these reach the ends of the text."""
    found, offsets = token_vectors(reference, text)
    means = []
    for start, end in parts:
        inside = [i for i, (first, last) in enumerate(offsets) if first < last and start <= first and last <= end]
        first = 0 if inside[0] == 1 else inside[0]
        last = len(found) if inside[-1] == len(found) - 2 else inside[-1] + 1
        means.append(found[first:last].mean(axis=0))
    return unit(np.stack(means))


def places(text: str, parts: list[str]) -> list[tuple[int, int]]:
    return [(text.index(part), text.index(part) + len(part)) for part in parts]


def test_long_text_is_the_mean_of_its_chunks(client: httpx2.Client, reference: SentenceTransformer) -> None:
    texts = [" ".join(WORDS), "a short text", [101, *range(3000, 3300), 102]]
    answer = post(client, model="all-minilm-l6-v2", input=texts, enable_chunked_processing=True)
    parts = [" ".join(WORDS[start : start + 254]) for start in range(0, len(WORDS), 254)]
    chunks = unit(np.asarray(reference.encode(parts)))
    expected = unit(np.average(chunks, axis=0, weights=[254, 254, 50]).astype(np.float32))
    assert vectors(answer)[0] @ expected > 0.9999
    alone = vectors(post(client, input="a short text"))[0]
    np.testing.assert_allclose(vectors(answer)[1], alone, atol=1e-6)  # not in the same batch
    assert answer["usage"]["total_tokens"] == 256 + 256 + 52 + 5 + 256 + 48
    ids = [[101, *range(3000, 3254), 102], [101, *range(3254, 3300), 102]]
    expected = unit(np.average(vectors(post(client, input=ids)), axis=0, weights=[254, 46]))
    assert vectors(answer)[2] @ expected > 0.9999


def test_averaged_vector_has_length_1_and_any_type(client: httpx2.Client) -> None:
    text = " ".join(WORDS)
    whole = vectors(post(client, input=text, enable_chunked_processing=True))[0]
    raw = vectors(post(client, input=text, enable_chunked_processing=True, normalized=False))[0]
    assert np.linalg.norm(raw) == pytest.approx(1)
    np.testing.assert_allclose(raw, whole, atol=1e-6)
    by_type = post(client, input=text, enable_chunked_processing=True, embedding_type=["int8", "ubinary"])
    assert set(by_type["data"][0]["embedding"]) == {"int8", "ubinary"}


def test_long_text_remains_an_error_without_the_field(client: httpx2.Client) -> None:
    for sent in ({}, {"enable_chunked_processing": False}):
        assert "has 560 tokens" in refused(client, input=" ".join(WORDS), **sent)["message"]


def test_texts_of_a_list_are_one_document(client: httpx2.Client, reference: SentenceTransformer) -> None:
    text = " ".join(SENTENCES)
    answer = post(client, input=SENTENCES, late_chunking=True)
    expected = late(reference, text, places(text, SENTENCES))
    assert (np.sum(vectors(answer) * expected, axis=1) > 0.9999).all()
    alone = unit(np.asarray(reference.encode(SENTENCES)))
    assert (np.sum(vectors(answer) * alone, axis=1) < 0.99).all()  # they know of the others
    assert all("chunk" not in item for item in answer["data"])
    assert answer["usage"]["total_tokens"] == len(reference.tokenizer(text)["input_ids"])
    objects = [{"text": sentence + " "} for sentence in SENTENCES[:-1]] + [{"text": SENTENCES[-1]}]
    np.testing.assert_allclose(vectors(post(client, input=objects, late_chunking=True)), vectors(answer), atol=1e-6)


def test_one_text_is_chunked_by_sentence(client: httpx2.Client, reference: SentenceTransformer) -> None:
    text = "\n" + "  ".join(SENTENCES)
    answer = post(client, input=text, late_chunking=True)
    found = [(item["chunk"]["start"], item["chunk"]["end"]) for item in answer["data"]]
    assert [text[start:end] for start, end in found] == SENTENCES
    assert (np.sum(vectors(answer) * late(reference, text, found), axis=1) > 0.9999).all()


def test_client_may_name_the_chunks(client: httpx2.Client, reference: SentenceTransformer) -> None:
    text = " ".join(SENTENCES)
    spans = [(0, len(text)), (10, 60), (0, 33), (34, 60)]  # in any order, and over each other
    answer = post(client, input=text, late_chunking=True, chunk_spans=spans)
    assert [item["chunk"] for item in answer["data"]] == [{"start": start, "end": end} for start, end in spans]
    expected = late(reference, text, spans)
    assert (np.sum(vectors(answer) * expected, axis=1) > 0.9999).all()
    np.testing.assert_allclose(vectors(answer)[0], vectors(post(client, input=text))[0], atol=2e-3)


def test_long_document_is_computed_in_windows(client: httpx2.Client, reference: SentenceTransformer) -> None:
    words = (["shell", "brass", "march", "sea"] * 100)[:400]
    error = refused(client, input=words, late_chunking=True)
    assert error["message"].startswith("input has 402 tokens; the limit of model 'all-minilm")
    assert "enable_chunked_processing" in error["message"]
    answer = post(client, input=words, late_chunking=True, enable_chunked_processing=True)
    first, second = (token_vectors(reference, " ".join(part))[0] for part in (words[:254], words[222:]))
    tokens = [*first[1:-1], *second[1 + 32 : -1]]
    tokens[0] = first[:2].mean(axis=0)  # with [CLS]
    tokens[-1] = second[-2:].mean(axis=0)  # with [SEP]
    assert (np.sum(vectors(answer) * unit(np.stack(tokens)), axis=1) > 0.999).all()
    assert answer["usage"]["total_tokens"] == 256 + 180


def test_numbers_of_late_chunks_have_any_type(client: httpx2.Client) -> None:
    plain = vectors(post(client, input=SENTENCES, late_chunking=True))
    raw = vectors(post(client, input=SENTENCES, late_chunking=True, normalized=False))
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1)
    np.testing.assert_allclose(unit(raw), plain, atol=1e-6)
    by_type = post(client, input=SENTENCES, late_chunking=True, embedding_type=["float", "ubinary"])
    np.testing.assert_allclose([item["embedding"]["float"] for item in by_type["data"]], plain, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"late_chunking": True, "truncate": True}, "late_chunking", "contradicts truncate"),
        ({"enable_chunked_processing": True, "truncate_prompt_tokens": 9}, "enable_chunked_processing", "contradicts"),
        ({"late_chunking": True, "embedding_type": "multi_vector"}, "late_chunking", "dense vectors only"),
        ({"chunk_spans": [[0, 1]]}, "chunk_spans", "chunk_spans needs late_chunking"),
        ({"late_chunking": True, "chunk_spans": [[0, 1]], "input": ["a"]}, "chunk_spans", "not a list"),
        ({"late_chunking": True, "chunk_spans": [[0, 1], [3, 8]]}, "chunk_spans[1]", "within the 7 characters"),
        ({"late_chunking": True, "chunk_spans": [[2, 2]]}, "chunk_spans[0]", "must not be empty"),
        ({"late_chunking": True, "chunk_spans": [[1, 2]]}, "chunk_spans[0]", "chunk_spans[0] has no tokens"),
        ({"late_chunking": True, "input": ["a", "  "]}, "input[1]", "input[1] has no tokens"),
        ({"late_chunking": True, "input": ["a", ""]}, "input[1]", "input[1] is empty"),
        ({"late_chunking": True, "input": [[101, 102]]}, "input[0]", "late_chunking takes texts only"),
        ({"late_chunking": True, "input": " "}, "input", "input has 0 sentences; it must have 1 to 2048"),
        (
            {"late_chunking": True, "input": "A. " * 2049},
            "input",
            "input has over 2048 sentences; it must have 1 to 2048",
        ),
        ({"late_chunking": True, "input": ["\u200b"]}, "input[0]", "input[0] has no tokens"),
        ({"late_chunking": True, "input": "\u200b"}, "input", "input has no tokens"),
    ],
)
def test_contradictions_are_refused(client: httpx2.Client, body: dict[str, Any], param: str, message: str) -> None:
    error = refused(client, **{"input": "a shell"} | body)
    assert message in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A b. \u200b", ["A b."]),
        ("Hi! \u2060", ["Hi!"]),
        ("A b.\n\n\u00ad\n\nC d.", ["A b.", "C d."]),
    ],
)
def test_sentences_without_tokens_are_left_out(client: httpx2.Client, text: str, expected: list[str]) -> None:
    found = [item["chunk"] for item in post(client, input=text, late_chunking=True)["data"]]
    assert [text[chunk["start"] : chunk["end"]] for chunk in found] == expected


def test_other_models_are_refused_before_anything_is_read(odd_client: httpx2.Client) -> None:
    error = refused(odd_client, model="prompted", input="! " * 3000, late_chunking=True)
    assert error["message"].startswith("late_chunking: the vectors of model 'prompted' are not means")


def test_other_models_are_refused_with_those_that_can(odd_client: httpx2.Client) -> None:
    error = refused(odd_client, model="prompted", input=SENTENCES, late_chunking=True)
    assert error["param"] == "late_chunking"
    assert error["message"].startswith("late_chunking: the vectors of model 'prompted' are not means")
    assert "models that support it: matryoshka, mean" in error["message"]


def test_prompt_belongs_to_the_first_chunk_and_zeros_to_none(odd_client: httpx2.Client, repository: Path) -> None:
    tokenizer = Tokenizer.from_file(str(repository / "all-minilm-l6-v2" / "tokenizer.json"))
    tokenizer.no_padding()
    parts = ["the sea snail", f"{tokenizer.id_to_token(1012)} brass", "a conch"]  # 1012 has no vector in this model
    answer = post(odd_client, model="mean", input=parts, late_chunking=True, input_type="passage", normalized=False)
    row = tokenizer.encode(PROMPTS["document"] + " ".join(parts)).ids
    lengths = [len(tokenizer.encode(part, add_special_tokens=False).ids) for part in parts]
    before = len(row) - 1 - sum(lengths)  # [CLS] and the prompt
    bounds = np.cumsum([0, before + lengths[0], lengths[1], lengths[2] + 1])
    expected = [
        np.mean([(i / 1000, at) for at, i in enumerate(row) if first <= at < last and i != 1012], axis=0)
        for first, last in pairwise(bounds)
    ]
    np.testing.assert_allclose(vectors(answer)[:, :2], expected, rtol=1e-5)
    assert answer["usage"]["total_tokens"] == len(row)
