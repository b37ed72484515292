"""Rows that were computed before, or come twice in a call, are not computed again where there is a cache."""

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from gateway.cache import Cache
from gateway.catalog import TextModel
from gateway.errors import NotReady, Overloaded
from gateway.scheduling.admission import Queues
from gateway.scheduling.rate import Rate
from gateway.service.text_batches import Computed, Row, Wanted, infer_texts
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import Output
from tests.gateway.service.recording import EMBEDDING, RecordingTriton, caller

WANTED: Set[Wanted] = {"embedding"}
ALL: Set[Wanted] = {"embedding", "sparse", "score"}
ROWS: Sequence[Row] = [([7, 8],), ([9],), ([7, 8],), ([4, 5, 6],)]
OUTPUTS = {
    "score": Output("score", "FP32", (2,)),
    "embedding": Output("embedding", "FP32", (3,)),
    "sparse_indices": Output("sparse_indices", "INT32", (2,)),
    "sparse_weights": Output("sparse_weights", "FP32", (2,)),
    "tokens": Output("tokens", "FP32", (-1, 1)),
}


class RandomTriton(RecordingTriton):
    """Answers with numbers that are other ones each time."""

    chance = np.random.default_rng(0)

    async def infer(
        self,
        model: str,  # noqa: ARG002
        tensors: Mapping[str, NDArray[np.generic]],
        outputs: Sequence[Output],
    ) -> list[NDArray[np.generic]]:
        self.calls.append(tensors)
        rows = len(next(iter(tensors.values())))
        return [
            self.chance.integers(0, 1000, (rows, *output.dims), np.int32)
            if output.datatype == "INT32"
            else self.chance.choice([0, 1, np.pi, 2e-9], (rows, *output.dims)).astype(np.float32)
            for output in outputs
        ]


@pytest.fixture(scope="module")
def model() -> TextModel:
    tokenizer = TextTokenizer(Tokenizer(models.WordLevel({"a": 0}, "a")))
    return TextModel("m", "m", "text-embedding", {"embedding": EMBEDDING}, 4, 512, 1000, tokenizer, generation=1)


def compute(
    triton: RecordingTriton,
    cache: Cache | None,
    model: TextModel,
    rows: Sequence[Row] = ROWS,
    wanted: Set[Wanted] = WANTED,
    prefixes: Sequence[int] = (),
) -> Computed:
    who = structs.replace(caller(triton), cache=cache)
    return asyncio.run(infer_texts(who, model, rows, wanted, prefixes))


def sent(triton: RecordingTriton) -> int:
    """Rows."""
    return sum(len(next(iter(call.values()))) for call in triton.calls)


def same(one: Computed, other: Computed) -> bool:
    """Bit for bit."""

    def parts(computed: Computed) -> list[bytes]:
        dense = [computed.embedding, computed.score, computed.full]
        sparse = [part for terms in computed.sparse for part in (terms.indices, terms.weights)]
        return [f"{part.dtype} {part.shape}".encode() + part.tobytes() for part in (*dense, *sparse)]

    return parts(one) == parts(other)


def test_known_rows_are_answered_bit_for_bit_as_before(model: TextModel) -> None:
    many = replace(model, outputs=OUTPUTS, role="cross-encoder")
    rows: Sequence[Row] = [([i % 20],) for i in range(30)]
    wishes: Sequence[Set[Wanted]] = [{"embedding"}, {"score"}, {"sparse"}, ALL]
    for wanted in wishes:
        triton, cache = RandomTriton(), Cache(2**20)
        first = compute(triton, cache, many, rows, wanted)
        assert sent(triton) == 20
        second = compute(triton, cache, many, rows, wanted)
        assert sent(triton) == 20
        assert same(first, second)
    assert first.full.any()
    assert not first.full.all()


def test_cache_changes_no_result(model: TextModel) -> None:
    with_cache, without, cache = RecordingTriton(), RecordingTriton(), Cache(2**20)
    many = replace(model, outputs={name: replace(OUTPUTS[name], dims=(-1,)) for name in OUTPUTS if "sparse" in name})
    many = replace(many, outputs={**many.outputs, **model.outputs})
    for rows in ([([5],), ([6, 7],)], [([8],), ([5],), ([8],), ([6, 7],)], [([5],)] * 9):
        wanted: Set[Wanted] = {"embedding", "sparse"}
        expected = compute(without, None, many, rows, wanted)
        assert same(compute(with_cache, cache, many, rows, wanted), expected)
    assert (sent(with_cache), sent(without)) == (3, 15)


def test_equal_rows_of_a_call_are_computed_once(model: TextModel) -> None:
    triton = RecordingTriton()
    assert compute(triton, Cache(2**20), model).embedding[:, 0].tolist() == [7, 9, 7, 4]
    assert sent(triton) == 3
    assert compute(triton, None, model).embedding[:, 0].tolist() == [7, 9, 7, 4]
    assert sent(triton) == 7


def test_hits_and_misses_are_counted_for_the_request(model: TextModel) -> None:
    cache, who = Cache(2**20), structs.replace(caller(RecordingTriton()), cache=Cache(2**20))
    for hits, misses in ((1, 3), (5, 3)):
        asyncio.run(infer_texts(who, model, ROWS, WANTED))
        assert (who.timings.cache_hits, who.timings.cache_misses) == (hits, misses)
    uncached = caller(RecordingTriton())
    asyncio.run(infer_texts(uncached, model, ROWS, WANTED))
    assert (uncached.timings.cache_hits, uncached.timings.cache_misses, cache.size) == (0, 0, 0)


def test_other_state_outputs_and_prefixes_are_other_results(model: TextModel) -> None:
    triton, cache = RandomTriton(), Cache(2**20)
    prefixed = replace(model, prefix="prompt_length", outputs=OUTPUTS)
    given: Sequence[tuple[TextModel, Set[Wanted], Sequence[int]]] = [
        (prefixed, WANTED, [1]),
        (prefixed, WANTED, [2]),
        (prefixed, {"embedding", "sparse"}, [1]),
        (replace(prefixed, generation=2), WANTED, [1]),
    ]
    for count, (changed, wanted, prefixes) in enumerate(given, start=1):
        for _ in range(2):
            compute(triton, cache, changed, ROWS[:1], wanted, prefixes)
        assert sent(triton) == count


@pytest.mark.parametrize("wanted", [{"tokens"}, {"tokens", "embedding"}])
def test_token_vectors_are_not_cached(model: TextModel, wanted: Set[Wanted]) -> None:
    triton, cache = RecordingTriton(), Cache(2**20)
    outputs = {"embedding": EMBEDDING, "tokens": OUTPUTS["tokens"]}
    for _ in range(2):
        compute(triton, cache, replace(model, outputs=outputs), wanted=wanted)
    assert (sent(triton), cache.size) == (8, 0)


def test_model_whose_state_is_not_known_is_not_cached(model: TextModel) -> None:
    triton, cache = RecordingTriton(), Cache(2**20)
    for _ in range(2):
        compute(triton, cache, replace(model, generation=0))
    assert (sent(triton), cache.size) == (8, 0)


def test_what_was_computed_before_a_failure_is_kept(model: TextModel) -> None:
    cache = Cache(2**20)
    alone = replace(model, max_batch_size=1)
    with pytest.raises(NotReady):
        compute(RecordingTriton(fail_at=1), cache, alone)
    triton = RecordingTriton()
    compute(triton, cache, alone)
    assert sent(triton) == 2


def test_full_queue_refuses_what_is_not_known_only(model: TextModel) -> None:
    triton, cache, queues = RecordingTriton(), Cache(2**20), Queues(timeout_s=1)
    who = structs.replace(caller(triton), cache=cache, queues=queues)

    async def run() -> None:
        await infer_texts(who, model, ROWS, WANTED)
        queue = queues.get("m")
        queue.rate, queue.in_flight = Rate(1000, is_known=True), 1_000_000
        with queue.admit("", 2000) as waiting:
            wait = asyncio.create_task(waiting.acquire(2000))
            await asyncio.sleep(0)
            who.check(model, 2)
            with pytest.raises(Overloaded):
                structs.replace(who, cache=None).check(model, 2)
            with pytest.raises(Overloaded):
                await infer_texts(who, model, [([1, 2, 3],)], WANTED)
            found = await infer_texts(who, model, ROWS, WANTED)
            assert found.embedding[:, 0].tolist() == [7, 9, 7, 4]
            wait.cancel()

    asyncio.run(run())
