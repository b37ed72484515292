"""Entries with several outputs: a request gets those that it names, whatever the others of its batch ask for."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

from tests.serving import Server

LENGTHS = ((3, 9), (17,), (40, 5, 12), (2,), (101, 60), (8,), (33,), (6, 6, 7, 90))
"""Tokens of the rows of each request."""
WIDTH = 384

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def triton(server: Server) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(server.triton_url) as client:
        yield client


def texts(name: str, rows: Sequence[NDArray[np.int64]]) -> Arrays:
    """The tensors of rows, padded with what no token may be taken for."""
    length = np.array([[len(row)] for row in rows], np.int32)
    ids = np.full((len(rows), int(length.max()) + 3), 7777, np.int64)
    for padded, row in zip(ids, rows, strict=True):
        padded[: len(row)] = row
    return {f"{name}_ids": ids, "length" if name == "input" else f"{name}_length": length}


def rows_of(lengths: Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return [np.array([101, *random.integers(1000, 29000, length - 2), 102]) for length in lengths]


def infer(triton: InferenceServerClient, model: str, tensors: Arrays, outputs: Sequence[str]) -> Arrays:
    """What Triton answers, by output."""
    inputs = []
    for name, array in tensors.items():
        given = InferInput(name, list(array.shape), {"int64": "INT64", "int32": "INT32"}[array.dtype.name])
        given.set_data_from_numpy(array)
        inputs.append(given)
    answer = triton.infer(model, inputs, outputs=[InferRequestedOutput(name) for name in outputs])
    names = [output.name for output in answer.get_response().outputs]
    return {name: answer.as_numpy(name) for name in names}


def at_once(
    triton: InferenceServerClient, model: str, requests: Sequence[tuple[Arrays, Sequence[str]]]
) -> list[Arrays]:
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: infer(triton, model, *request), requests))


def test_requests_of_one_batch_get_the_outputs_that_each_names(triton: InferenceServerClient) -> None:
    asked = (("embedding",), ("tokens",), ("embedding", "tokens"))
    requests = [(texts("input", rows_of(lengths, i)), asked[i % 3]) for i, lengths in enumerate(LENGTHS * 3)]
    alone = [infer(triton, "all-minilm-l6-v2", *request) for request in requests]
    together = at_once(triton, "all-minilm-l6-v2", requests)
    for (tensors, outputs), one, other in zip(requests, alone, together, strict=True):
        assert list(one) == list(other) == list(outputs)
        for name in outputs:
            np.testing.assert_allclose(one[name], other[name], atol=2e-2)  # bf16
        if "tokens" in outputs:
            assert other["tokens"].shape == (*tensors["input_ids"].shape, WIDTH)


def test_tokens_behind_a_row_are_zero_and_the_embedding_is_their_mean(triton: InferenceServerClient) -> None:
    tensors = texts("input", rows_of((40, 5, 12), 1))
    found = infer(triton, "all-minilm-l6-v2", tensors, ("tokens", "embedding"))
    assert found["tokens"].any(2).tolist() == (np.arange(43) < tensors["length"]).tolist()
    mean = found["tokens"].sum(1) / tensors["length"]
    np.testing.assert_allclose(mean, found["embedding"], atol=1e-5)


def test_score_of_a_pair_is_that_of_its_tokens(triton: InferenceServerClient) -> None:
    documents = rows_of((40, 5, 12), 2)
    tensors = texts("query", rows_of((9,), 3) * 3) | texts("document", documents)
    found = infer(triton, "minilm-late-interaction", tensors, ("score", "tokens", "query_tokens"))
    assert found["query_tokens"].shape == (3, 9, WIDTH)
    for query, tokens, score, document in zip(
        found["query_tokens"], found["tokens"], found["score"], documents, strict=True
    ):
        assert tokens.any(1).tolist() == [True] * len(document) + [False] * (len(tokens) - len(document))
        unit = [
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (query, tokens[: len(document)])
        ]
        assert (unit[0] @ unit[1].T).max(1).mean() == pytest.approx(score[0], abs=1e-2)


def test_tokens_of_a_document_need_no_query(triton: InferenceServerClient) -> None:
    """How the gateway asks a late-interaction entry for the vectors of a text alone."""
    document = texts("document", rows_of((40, 5, 12), 2))
    none = texts("query", [np.zeros(0, np.int64)] * 3)
    model = "minilm-late-interaction"
    found = infer(triton, model, none | document, ("tokens", "query_tokens", "score"))
    beside = infer(triton, model, texts("query", rows_of((9, 4, 9), 3)) | document, ("tokens",))["tokens"]
    np.testing.assert_allclose(found["tokens"], beside, atol=2e-2)  # bf16
    assert not found["query_tokens"].any()
    assert not found["score"].any()
