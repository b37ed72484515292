import asyncio
from collections.abc import Set
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from gateway.catalog import TextModel
from gateway.errors import NotReady
from gateway.scheduling.rate import Rate
from gateway.service.text_batches import MAX_PADDING, Wanted, infer_texts
from gateway.text.tokenizer import TextTokenizer
from tests.gateway.service.recording import EMBEDDING, RecordingTriton, caller

WANTED: Set[Wanted] = {"embedding"}


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
