import asyncio
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from gateway.catalog import TextModel
from gateway.errors import InferenceFailed, NotReady
from gateway.service import batches
from gateway.service.batches import Batch
from gateway.service.caller import Caller
from gateway.service.shared_calls import Tensors
from gateway.service.text_batches import Computed, Wanted, infer_texts
from gateway.text.tokenizer import TextTokenizer
from gateway.triton import Output, Triton
from tests.gateway.service.recording import EMBEDDING, RecordingTriton, caller
from tests.serving import Server
from tests.waiting import eventually_async

WANTED: set[Wanted] = {"embedding"}
ECHO = Output("echo", "FP32", (1,))
"""The sum of a row's ids / 100,000."""
ONES = Output("embedding", "FP32", (384,))
Texts = Sequence[Sequence[int]]
"""The ids of each text of a request."""
REQUESTS: Sequence[Texts] = [[[i + 1] * (1 + i % 5), [100 * i] * (1 + i % 3)] for i in range(10)]


def model(name: str = "m", output: Output = EMBEDDING, batch: int = 64) -> TextModel:
    tokenizer = TextTokenizer(Tokenizer(models.WordLevel({"a": 0}, "a")))
    return TextModel("m", name, "text-embedding", {"embedding": output}, batch, 512, 30_522, tokenizer)


async def embed(who: Caller, text_model: TextModel, requests: Sequence[Texts]) -> list[Computed | BaseException]:
    """What requests that arrive together get."""
    calls = (infer_texts(who, text_model, [(ids,) for ids in request], WANTED) for request in requests)
    return await asyncio.gather(*calls, return_exceptions=True)


def embedded(answer: Computed | BaseException) -> NDArray[np.float32]:
    assert isinstance(answer, Computed), answer
    return answer.embedding


@asynccontextmanager
async def real(server: Server) -> AsyncIterator[Caller]:
    """A caller of a server's Triton."""
    triton = Triton([server.triton_url], timeout_s=30)
    yield caller(triton)
    await triton.close()


def answered(server: Server, name: str) -> int:
    """How many calls a model of a server has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['TRITON_METRICS_PORT']}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    (line,) = (line for line in lines if line.startswith("nv_inference_request_success{") and f'"{name}"' in line)
    return int(float(line.rpartition(" ")[2]))


def test_requests_that_arrive_together_share_a_call(odd_server: Server) -> None:
    name = "prompted"

    async def use() -> None:
        async with real(odd_server) as who:
            answers = await embed(who, model(name, ECHO), REQUESTS)
            for answer, request in zip(answers, REQUESTS, strict=True):
                assert embedded(answer)[:, 0] == pytest.approx([sum(ids) / 1e5 for ids in request])
            assert who.queues.get(name).in_flight == 0

    before = answered(odd_server, name)
    asyncio.run(use())
    assert answered(odd_server, name) == before + 1


@pytest.mark.parametrize(
    ("name", "message"), [("nan-if-long", "'embedding' that are not finite"), ("raising-if-long", "failed")]
)
def test_rows_that_fail_do_not_fail_their_neighbours(odd_server: Server, name: str, message: str) -> None:
    short, long = [1] * 5, [1] * 9
    requests = [[short], [long], [short, short], [short, long], [short], [long], [short]]

    async def use() -> None:
        async with real(odd_server) as who:
            answers = await embed(who, model(name, ONES), requests)
            for answer, request in zip(answers, requests, strict=True):
                if long in request:
                    assert isinstance(answer, InferenceFailed)
                    assert answer.message.endswith(message)
                else:
                    assert np.all(embedded(answer) == 1)
            assert who.queues.get(name).in_flight == 0

    asyncio.run(use())


def test_request_that_is_cancelled_leaves_the_call_to_its_neighbours(odd_server: Server) -> None:
    async def use() -> None:
        async with real(odd_server) as who:
            queue = who.queues.get("slow")
            calls = [
                asyncio.create_task(infer_texts(who, model("slow", ONES), [([1] * length,)], WANTED))
                for length in (2, 3, 4)
            ]
            await eventually_async(lambda: queue.in_flight == 9)
            calls[0].cancel()  # the one that opened the call
            with pytest.raises(asyncio.CancelledError):
                await calls[0]
            assert queue.in_flight == 9  # Triton works on
            for call in calls[1:]:
                assert np.all((await call).embedding == 1)
            assert queue.in_flight == 0

    asyncio.run(use())


def sizes(triton: RecordingTriton) -> list[tuple[int, ...]]:
    return [call["input_ids"].shape for call in triton.calls]


def test_lone_request_is_sent_at_once() -> None:
    triton = RecordingTriton()

    async def use() -> None:
        call = asyncio.create_task(infer_texts(caller(triton), model(), [([1],)], WANTED))
        for _ in range(3):  # it is granted, its call is closed, and it leaves
            await asyncio.sleep(0)
        assert sizes(triton) == [(1, 1)]
        await call

    asyncio.run(use())


@pytest.mark.parametrize(
    ("lengths", "batch", "calls"),
    [
        ([1] * 10, 4, [(4, 1), (4, 1), (2, 1)]),
        ([100] * 10, 64, [(5, 100), (5, 100)]),  # 512 tokens
        ([2] * 6 + [256] + [2], 64, [(7, 256), (1, 2)]),  # 2,048 with padding
        ([1, 600, 1], 64, [(1, 600), (2, 1)]),  # the long one does not wait for the others
    ],
)
def test_calls_have_limits(lengths: Sequence[int], batch: int, calls: list[tuple[int, int]]) -> None:
    triton = RecordingTriton()
    answers = asyncio.run(embed(caller(triton), model(batch=batch), [[[i] * n] for i, n in enumerate(lengths)]))
    assert sizes(triton) == calls
    assert [embedded(answer)[0, 0] for answer in answers] == list(range(len(lengths)))


def test_each_server_gets_a_part_of_the_requests() -> None:
    triton = RecordingTriton(servers=2)
    answers = asyncio.run(embed(caller(triton), model(), [[[i]] for i in range(5)]))
    assert sizes(triton) == [(3, 1), (2, 1)]
    assert [embedded(answer)[0, 0] for answer in answers] == list(range(5))


def test_buckets_of_a_model_are_not_mixed() -> None:
    triton = RecordingTriton()
    bucketed = replace(model(), length_buckets=(4, 8))
    asyncio.run(embed(caller(triton), bucketed, [[[1] * length] for length in (1, 8, 4, 5, 2)]))
    assert sizes(triton) == [(3, 4), (2, 8)]


def test_calls_for_other_outputs_are_not_shared() -> None:
    triton = RecordingTriton()
    both = replace(model(), outputs={"embedding": EMBEDDING, "tokens": Output("tokens", "FP32", (-1, 1))})
    kinds: list[set[Wanted]] = [{"embedding"}, {"tokens"}, {"tokens"}, {"embedding"}]

    async def use() -> None:
        who = caller(triton)
        await asyncio.gather(*(infer_texts(who, both, [([1],)], wanted) for wanted in kinds))

    asyncio.run(use())
    assert sorted(sizes(triton)) == [(1, 1), (1, 1), (2, 1)]  # token vectors are large, and so would be their padding


def test_only_answers_of_finite_values_count() -> None:
    triton = RecordingTriton()
    who = caller(triton)
    for value, counts in ((np.nan, False), (1, True)):

        async def tensors(_: Sequence[int], value: float = value) -> Tensors:
            return {"numbers": np.array([[value]], np.float32)}

        async def use() -> None:
            with suppress(InferenceFailed):
                await batches.infer(who, model(), [Batch([0], 1)], tensors, [EMBEDDING], lambda *_: None)

        asyncio.run(use())
        assert ("m" in triton.answered_at) == counts


def test_every_request_of_a_call_fails_if_triton_is_gone() -> None:
    answers = asyncio.run(embed(caller(RecordingTriton(fail_at=0)), model(), REQUESTS))
    assert all(isinstance(answer, NotReady) for answer in answers)


def test_answer_that_one_request_refuses_serves_the_others() -> None:
    sparse = {
        "sparse_indices": Output("sparse_indices", "INT32", (1,)),
        "sparse_weights": Output("sparse_weights", "FP32", (1,)),
    }
    terms = replace(model(), outputs=sparse, vocabulary_size=100)

    async def use() -> list[Computed | BaseException]:
        who = caller(RecordingTriton())
        calls = (infer_texts(who, terms, [([first],)], {"sparse"}) for first in (99, 100, 98))
        return await asyncio.gather(*calls, return_exceptions=True)

    first, refused, last = asyncio.run(use())
    assert isinstance(refused, InferenceFailed)
    assert isinstance(first, Computed)
    assert isinstance(last, Computed)
    assert (first.sparse[0].indices.tolist(), last.sparse[0].indices.tolist()) == ([99], [98])


def test_call_is_in_the_context_of_its_first_request() -> None:
    number: ContextVar[int] = ContextVar("number")
    seen: list[int] = []

    class Watched(RecordingTriton):
        async def infer(
            self, model: str, tensors: Mapping[str, NDArray[np.generic]], outputs: Sequence[Output]
        ) -> list[NDArray[np.generic]]:
            seen.append(number.get())
            return await super().infer(model, tensors, outputs)

    async def request(who: Caller, own: int) -> None:
        number.set(own)
        await infer_texts(who, model(), [([1],)], WANTED)

    async def use() -> None:
        who = caller(Watched())
        await asyncio.gather(*(request(who, i) for i in range(3)))

    asyncio.run(use())
    assert seen == [0]
