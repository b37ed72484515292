import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from gateway.catalog import TextModel
from gateway.errors import InferenceFailed, NotReady
from gateway.scheduling.rate import Rate
from gateway.service.text_batches import MAX_PADDING, Wanted, infer_texts, row_of
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import Output
from gateway.vectors import Floats
from tests.gateway.service.recording import EMBEDDING, RecordingTriton, caller

WANTED: Set[Wanted] = {"embedding"}
TERMS = {
    "sparse_indices": Output("sparse_indices", "INT32", (-1,)),
    "sparse_weights": Output("sparse_weights", "FP32", (-1,)),
}
TOKENS = {"tokens": Output("tokens", "FP32", (-1, 1))}


@pytest.fixture(scope="module")
def model() -> TextModel:
    tokenizer = TextTokenizer(Tokenizer(models.WordLevel({"a": 0}, "a")))
    return TextModel("m", "m", "text-embedding", {"embedding": EMBEDDING}, 4, 512, 1000, tokenizer)


def test_results_keep_the_order_of_the_rows(model: TextModel) -> None:
    triton = RecordingTriton()
    given = [([i] * (1 + (7 * i) % 5),) for i in range(30)]
    results = asyncio.run(infer_texts(caller(triton), model, given, WANTED))
    assert results.embedding[:, 0].tolist() == list(range(30))
    assert [len(call["input_ids"]) for call in triton.calls] == [4] * 7 + [2]


def test_batches_hold_rows_of_similar_length(model: TextModel) -> None:
    triton = RecordingTriton()
    asyncio.run(infer_texts(caller(triton), model, [([1] * (1 + i % 2 * 99),) for i in range(16)], WANTED))
    assert sorted(call["input_ids"].shape for call in triton.calls) == [(4, 1), (4, 1), (4, 100), (4, 100)]


@pytest.mark.parametrize(
    ("rate", "batch_tokens", "calls"),
    [(0, 2048, [20] * 5), (1_000_000, 2048, [20] * 5), (0, 16_384, [20] * 5), (1_000_000, 16_384, [100])],
)
def test_batches_grow_with_the_rate_up_to_those_of_the_model(
    model: TextModel, rate: float, batch_tokens: int, calls: list[int]
) -> None:
    triton = RecordingTriton()

    async def run() -> None:
        who = caller(triton)
        who.queues.get("m").rate = Rate(rate)
        large = replace(model, max_batch_size=1024, batch_tokens=batch_tokens)
        await infer_texts(who, large, [([1] * 100,)] * 100, WANTED)

    asyncio.run(run())
    assert [len(call["input_ids"]) for call in triton.calls] == calls


def test_long_row_does_not_pad_many_short_ones(model: TextModel) -> None:
    triton = RecordingTriton()
    asyncio.run(
        infer_texts(caller(triton), replace(model, max_batch_size=1024), [([1] * 2,)] * 500 + [([1] * 512,)], WANTED)
    )
    assert [call["input_ids"].shape for call in triton.calls] == [(500, 2), (1, 512)]
    assert all(call["input_ids"].size <= MAX_PADDING * model.batch_tokens for call in triton.calls)


def test_tensors_follow_the_contract(model: TextModel) -> None:
    triton = RecordingTriton()
    asyncio.run(infer_texts(caller(triton), model, [([5, 6, 7],), ([8],)], WANTED))
    (call,) = triton.calls
    assert call["input_ids"].dtype == np.int64
    assert call["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7]]
    assert call["length"].dtype == np.int32
    assert call["length"].tolist() == [[1], [3]]


def test_prefix_length_is_sent_to_models_with_the_input(model: TextModel) -> None:
    triton = RecordingTriton()
    given = [([5, 6, 7],), ([8, 9],)]
    asyncio.run(infer_texts(caller(triton), model, given, WANTED, prefixes=[2, 1]))
    asyncio.run(
        infer_texts(
            caller(triton),
            replace(model, role="cross-encoder", prefix="first_length"),
            given,
            WANTED,
            prefixes=[2, 1],
        )
    )
    without, with_it = triton.calls
    assert "first_length" not in without
    assert with_it["first_length"].dtype == np.int32
    assert with_it["first_length"].tolist() == [[1], [2]]  # with their rows, the shorter one first


def test_rows_are_padded_to_the_smallest_sufficient_bucket(model: TextModel) -> None:
    triton = RecordingTriton()
    bucketed = replace(model, length_buckets=(4, 8, 1000), max_batch_size=1)
    asyncio.run(infer_texts(caller(triton), bucketed, [([1] * length,) for length in (1, 4, 5, 8, 9)], WANTED))
    assert [call["input_ids"].shape[1] for call in triton.calls] == [4, 4, 8, 8, 1000]
    assert [int(call["length"][0, 0]) for call in triton.calls] == [1, 4, 5, 8, 9]


def test_segments_are_padded_independently(model: TextModel) -> None:
    triton = RecordingTriton()
    bucketed = replace(model, role="late-interaction", length_buckets=(4, 8))
    asyncio.run(infer_texts(caller(triton), bucketed, [([1, 2], [3] * 7)], WANTED))
    (call,) = triton.calls
    assert (call["query_ids"].shape, call["document_ids"].shape) == ((1, 4), (1, 8))


def test_triton_name_is_used(model: TextModel) -> None:
    triton = RecordingTriton(fail_at=0)
    with pytest.raises(NotReady, match="m-text returned no embedding"):
        asyncio.run(infer_texts(caller(triton), replace(model, triton_name="m-text"), [([1],)], WANTED))


def test_every_output_keeps_the_order_of_the_rows(model: TextModel) -> None:
    triton = RecordingTriton()
    many = replace(model, outputs={**model.outputs, **TERMS, **TOKENS})
    given = [([i + 1] * (1 + (7 * i) % 5),) for i in range(30)]
    computed = asyncio.run(infer_texts(caller(triton), many, given, {"embedding", "sparse", "tokens"}))
    assert len(triton.calls) == 8
    assert computed.embedding[:, 0].tolist() == list(range(1, 31))
    assert [vector.indices.tolist() for vector in computed.sparse] == [[i] for i in range(1, 31)]
    assert [vectors[:, 0].tolist() for vectors in computed.tokens] == [row for (row,) in given]
    assert (computed.score.size, computed.query_tokens, computed.truncated) == (0, [], 0)


def test_outputs_that_are_not_wanted_are_not_asked_for(model: TextModel) -> None:
    asked: list[list[str]] = []

    class AskedTriton(RecordingTriton):
        async def infer(
            self, model: str, tensors: Mapping[str, NDArray[np.generic]], outputs: Sequence[Output]
        ) -> list[NDArray[np.generic]]:
            asked.append([output.name for output in outputs])
            return await super().infer(model, tensors, outputs)

    many = replace(model, outputs={**model.outputs, **TERMS, **TOKENS})
    wishes: list[Set[Wanted]] = [{"embedding"}, {"sparse"}, {"tokens"}, {"tokens", "embedding"}]
    for wanted in wishes:
        asyncio.run(infer_texts(caller(AskedTriton()), many, [([1],)], wanted))
    assert asked == [["embedding"], ["sparse_indices", "sparse_weights"], ["tokens"], ["embedding", "tokens"]]


def test_what_is_kept_of_tokens_is_chosen_by_row(model: TextModel) -> None:
    many = replace(model, outputs=TOKENS)
    given = [([5, 6, 7],), ([8],)]

    def keep(row: int, vectors: Floats) -> Floats:
        return np.append(vectors.sum(0, keepdims=True), [[row], [len(vectors)]], axis=0)

    computed = asyncio.run(infer_texts(caller(RecordingTriton()), many, given, {"tokens"}, keep=keep))
    assert [vectors[:, 0].tolist() for vectors in computed.tokens] == [[18, 0, 3], [8, 1, 3]]  # with the padding


def test_batches_of_token_vectors_are_hardly_padded(model: TextModel) -> None:
    triton = RecordingTriton()
    large = replace(model, outputs=TOKENS, max_batch_size=1024, batch_tokens=16_384)
    rows = [([1] * 2,)] * 500 + [([1] * 100,)] * 30 + [([1] * 512,)]
    asyncio.run(infer_texts(caller(triton), large, rows, {"tokens"}))
    assert sum(len(call["input_ids"]) for call in triton.calls) == len(rows)
    assert all(call["input_ids"].size <= 2048 for call in triton.calls)


def test_full_sparse_vectors_are_counted_where_their_size_is_fixed(model: TextModel) -> None:
    terms = {name: replace(output, dims=(1,)) for name, output in TERMS.items()}
    for outputs, truncated in ((terms, 2), (TERMS, 0)):
        fixed = replace(model, outputs=outputs)
        computed = asyncio.run(infer_texts(caller(RecordingTriton()), fixed, [([3],), ([0],), ([4],)], {"sparse"}))
        assert [vector.weights.tolist() for vector in computed.sparse] == [[3], [], [4]]
        assert computed.truncated == truncated


@pytest.mark.parametrize("index", [1000, -1])
def test_sparse_index_outside_the_vocabulary_is_a_failure(model: TextModel, index: int) -> None:
    sparse = replace(model, outputs=TERMS)
    with pytest.raises(InferenceFailed, match="sparse indices outside its vocabulary"):
        asyncio.run(infer_texts(caller(RecordingTriton()), sparse, [([1, index],)], {"sparse"}))


def test_single_text_is_the_side_that_is_wanted(model: TextModel) -> None:
    late = replace(model, role="late-interaction")
    assert row_of(model, [5, 6], {"tokens"}) == ([5, 6],)
    assert row_of(late, [5, 6], {"tokens", "sparse"}) == ((), [5, 6])
    assert row_of(late, [5, 6], {"query_tokens"}) == ([5, 6], (0,))
    assert row_of(late, [5, 6], {"query_tokens", "embedding"}) == ([5, 6], [5, 6])
