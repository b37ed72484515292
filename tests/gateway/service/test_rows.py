import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from gateway.catalog import Model
from gateway.errors import NotReady
from gateway.service import rows
from gateway.tokenize import TextTokenizer
from gateway.triton import Triton


@dataclass
class RecordingTriton(Triton):
    """Answers each row with its first id, without a server; fails from the given call on."""

    fail_at: int | None = None
    calls: list[Mapping[str, NDArray[np.generic]]] = field(default_factory=list)
    now: int = 0
    most_at_a_time: int = 0

    async def infer(self, model: str, tensors: Mapping[str, NDArray[np.generic]], output: str) -> NDArray[np.float32]:
        if self.fail_at is not None and len(self.calls) >= self.fail_at:
            raise NotReady(f"{model} gave no {output}")
        self.calls.append(tensors)
        self.now += 1
        self.most_at_a_time = max(self.now, self.most_at_a_time)
        await asyncio.sleep(0)
        self.now -= 1
        first: NDArray[np.float32] = next(iter(tensors.values()))[:, :1].astype(np.float32)
        return first


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = TextTokenizer(Tokenizer(models.WordLevel({"a": 0}, "a")))
    return Model("m", "m", (), "text-embedding", True, "embedding", 1, (), 512, 1000, 4, 0, tokenizer)


def test_order_is_kept_whatever_travels_together(model: Model) -> None:
    triton = RecordingTriton()
    given = [([i] * (1 + (7 * i) % 5),) for i in range(30)]
    results = asyncio.run(rows.run(triton, model, given))
    assert results[:, 0].tolist() == list(range(30))
    assert [len(call["input_ids"]) for call in triton.calls] == [4] * 7 + [2]


def test_rows_of_similar_length_travel_together(model: Model) -> None:
    triton = RecordingTriton()
    asyncio.run(rows.run(triton, model, [([1] * (1 + i % 2 * 99),) for i in range(16)]))
    assert sorted(call["input_ids"].shape for call in triton.calls) == [(4, 1), (4, 1), (4, 100), (4, 100)]


def test_one_call_does_not_fill_the_queue(model: Model) -> None:
    triton = RecordingTriton()
    asyncio.run(rows.run(triton, model, [([1],)] * 400))
    assert triton.most_at_a_time == rows.PARTS_IN_FLIGHT


def test_after_a_failure_nothing_more_is_sent(model: Model) -> None:
    triton = RecordingTriton(fail_at=3)
    with pytest.raises(NotReady):
        asyncio.run(rows.run(triton, model, [([1],)] * 400))
    assert len(triton.calls) == 3


def test_tensors_are_those_of_the_contract(model: Model) -> None:
    triton = RecordingTriton()
    asyncio.run(rows.run(triton, model, [([5, 6, 7],), ([8],)]))
    (call,) = triton.calls
    assert call["input_ids"].dtype == np.int64
    assert call["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7]]
    assert call["length"].dtype == np.int32
    assert call["length"].tolist() == [[1], [3]]


def test_first_length_is_sent_to_models_that_take_it(model: Model) -> None:
    triton = RecordingTriton()
    given = [([5, 6, 7],), ([8, 9],)]
    asyncio.run(rows.run(triton, model, given, first_length=2))
    asyncio.run(rows.run(triton, replace(model, role="cross-encoder", takes_first_length=True), given, first_length=2))
    without, with_it = triton.calls
    assert "first_length" not in without
    assert with_it["first_length"].dtype == np.int32
    assert with_it["first_length"].tolist() == [[2], [2]]


def test_rows_are_padded_to_the_smallest_bucket_that_holds_the_longest(model: Model) -> None:
    triton = RecordingTriton()
    bucketed = replace(model, length_buckets=(4, 8, 1000), max_batch_size=1)
    asyncio.run(rows.run(triton, bucketed, [([1] * length,) for length in (1, 4, 5, 8, 9)]))
    assert [call["input_ids"].shape[1] for call in triton.calls] == [4, 4, 8, 8, 1000]
    assert [int(call["length"][0, 0]) for call in triton.calls] == [1, 4, 5, 8, 9]


def test_every_segment_has_a_bucket_of_its_own(model: Model) -> None:
    triton = RecordingTriton()
    bucketed = replace(model, role="late-interaction", length_buckets=(4, 8))
    asyncio.run(rows.run(triton, bucketed, [([1, 2], [3] * 7)]))
    (call,) = triton.calls
    assert (call["query_ids"].shape, call["document_ids"].shape) == ((1, 4), (1, 8))


def test_triton_is_asked_by_its_own_name(model: Model) -> None:
    triton = RecordingTriton(fail_at=0)
    with pytest.raises(NotReady, match="m-text gave no embedding"):
        asyncio.run(rows.run(triton, replace(model, triton_name="m-text"), [([1],)]))
