"""Lines without Triton: a part is done when the test says so, or after as long as its tokens take."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext

import pytest

from gateway.errors import Overloaded
from gateway.scheduling.admission import LEAST_UNDER_WAY, SMALL_TOKENS, Line, Lines, Ticket

RATE = 1_000_000.0
"""Tokens a second of the make-believe model."""


def known(rate: float = 10_000.0) -> Line:
    """A line that lets no more than the least be under way."""
    line = Line(timeout_s=1000)
    line.rate = rate
    return line


class Model:
    """Computes one part after the other, and writes down whose they were; parts of a request wait side by side."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.order: list[str] = []
        self._turn = asyncio.Lock()

    async def request(self, key: str, parts: int, tokens: int, name: str = "") -> None:
        with self.line.admit(key, parts * tokens) as ticket:
            await asyncio.gather(*(self._part(ticket, tokens, name or key) for _ in range(parts)))

    async def _part(self, ticket: Ticket, tokens: int, name: str) -> None:
        await ticket.turn(tokens)
        async with self._turn:
            await asyncio.sleep(tokens / RATE)
        self.order.append(name)
        self.line.leave(tokens, done=True)


def run(use: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(use())


def test_work_goes_at_once_as_long_as_there_is_room() -> None:
    async def use() -> None:
        line = known()
        with line.admit("a", 100) as ticket:
            await ticket.turn(100)
            assert (line.in_flight, line.waiting) == (100, 0)
            line.leave(100, done=True)
        assert (line.in_flight, line.waiting) == (0, 0)

    run(use)


def test_no_more_goes_to_triton_than_keeps_it_busy() -> None:
    async def use() -> None:
        line = Line(timeout_s=10)
        with line.admit("a", 3 * LEAST_UNDER_WAY) as ticket:
            turns = [asyncio.create_task(ticket.turn(LEAST_UNDER_WAY // 2)) for _ in range(6)]
            await asyncio.sleep(0)
            assert [turn.done() for turn in turns] == [True, True, True, False, False, False]
            line.leave(LEAST_UNDER_WAY // 2, done=True)
            await asyncio.sleep(0)
            assert sum(turn.done() for turn in turns) == 4
            await turns[3]
            for turn in turns:
                turn.cancel()

    run(use)


def test_small_requests_go_in_front_of_bulk_work_that_came_first() -> None:
    async def use() -> None:
        model = Model(known())
        bulk = asyncio.create_task(model.request("a", 50, 1000, "bulk"))
        await asyncio.sleep(0.005)
        await asyncio.gather(*(model.request("a", 1, 20, "small") for _ in range(20)))
        assert model.order.count("small") == 20
        assert model.order.count("bulk") < 25
        await bulk

    run(use)


def test_keys_get_the_same_however_much_they_ask_for() -> None:
    async def use() -> None:
        model = Model(known())
        requests: list[Awaitable[None]] = [model.request("greedy", 50, 1000) for _ in range(3)]
        requests.append(model.request("modest", 50, 1000))
        await asyncio.gather(*requests)
        last = len(model.order) - 1 - model.order[::-1].index("modest")
        until = model.order[: last + 1]
        assert until.count("greedy") == pytest.approx(until.count("modest"), rel=0.3)

    run(use)


def test_a_flow_takes_nothing_that_it_cannot_do_in_time() -> None:
    async def use() -> None:
        line = known(rate=10_000)
        with line.admit("bulk", 5000) as first:
            await first.turn(5000)
            with line.admit("a", 2000) as second, line.admit("a", 2000), line.admit("a", 2000):  # 0.6 s of work
                waiting = asyncio.create_task(second.turn(2000))
                await asyncio.sleep(0)
                with pytest.raises(Overloaded) as caught, line.admit("a", 100):
                    pass
                assert caught.value.headers == {"retry-after": "1"}
                with line.admit("b", 100):  # another key's turn comes sooner
                    pass
                with line.admit("a", SMALL_TOKENS + 1):  # bulk work may wait longer
                    pass
                waiting.cancel()

    run(use)


def test_bulk_work_that_cannot_be_done_in_time_is_refused_to_a_flow_with_nothing_waiting_too() -> None:
    async def use() -> None:
        line = Line(timeout_s=20)  # of which bulk work may wait 15 s
        line.rate = 10_000.0
        with line.admit("a", 100_000) as first:
            await first.turn(5000)
            waiting = asyncio.create_task(first.turn(5000))
            await asyncio.sleep(0)
            with line.admit("b", 70_000), pytest.raises(Overloaded), line.admit("c", 70_000):  # 21 s between three
                pass
            waiting.cancel()

    run(use)


def test_flow_that_gave_up_is_not_behind_others_for_it() -> None:
    async def use() -> None:
        line = known()
        with line.admit("b", 8000) as busy:
            await busy.turn(8000)
            with line.admit("a", 100_000) as given_up:
                parts = [asyncio.create_task(given_up.turn(50_000)) for _ in range(2)]
                await asyncio.sleep(0)
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
            with line.admit("a", 5000) as small, line.admit("b", 5000) as other:
                turns = [asyncio.create_task(ticket.turn(5000)) for ticket in (other, small)]
                await asyncio.sleep(0)
                line.leave(8000, done=True)
                await asyncio.sleep(0)
                assert [turn.done() for turn in turns] == [False, True]  # b has had 8,000
                turns[0].cancel()

    run(use)


@pytest.mark.parametrize(("timeout_s", "is_admitted"), [(100, True), (1, False)])
def test_slow_model_lets_wait_what_it_can_do_before_the_timeout(timeout_s: float, is_admitted: bool) -> None:
    async def use() -> None:
        line = Line(timeout_s)
        line.rate = 200.0
        with line.admit("bulk", 5000) as first:
            await first.turn(5000)
            with line.admit("a", 1000) as second:
                waiting = asyncio.create_task(second.turn(1000))
                await asyncio.sleep(0)
                with nullcontext() if is_admitted else pytest.raises(Overloaded), line.admit("a", 100):
                    pass
                waiting.cancel()

    run(use)


def test_what_is_refused_or_given_up_leaves_nothing_behind() -> None:
    async def use() -> None:
        line = known()
        with line.admit("a", 8000) as ticket:
            await ticket.turn(8000)
            given_up = asyncio.create_task(Model(line).request("a", 2, 1500))
            await asyncio.sleep(0)
            assert line.waiting == 3000
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            assert line.waiting == 0
            line.leave(8000, done=False)
        assert line.in_flight == 0
        with line.admit("a", 5) as ticket:
            await ticket.turn(5)

    run(use)


def test_rate_is_learnt_from_what_is_done() -> None:
    async def use() -> None:
        model = Model(Line(timeout_s=10))
        await model.request("a", 40, 20_000)
        assert 0.3 * RATE < model.line.rate < 1.1 * RATE  # sleeping takes longer than it should

    run(use)


def test_each_model_has_a_line_of_its_own() -> None:
    lines = Lines(timeout_s=10)
    assert lines.of("a") is lines.of("a")
    assert lines.of("a") is not lines.of("b")
