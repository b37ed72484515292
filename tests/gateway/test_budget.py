import os

import pytest

from gateway.board import Board
from gateway.budget import Budget
from gateway.errors import Overloaded, RequestTooLarge

FREE = 2**16
LARGE = 10 * FREE


def test_requests_share_a_limit_until_they_end() -> None:
    bodies = Budget("request bodies", LARGE, LARGE, FREE)
    with bodies.hold("") as first:
        first.grow(LARGE)
        with bodies.hold("") as second, pytest.raises(Overloaded, match="request bodies in flight reached the memory"):
            second.grow(LARGE)
        assert bodies.size == LARGE - FREE
    assert bodies.size == 0
    with bodies.hold("") as third:
        third.grow(LARGE)


def test_each_byte_is_counted() -> None:
    bodies = Budget("request bodies", LARGE, LARGE, FREE)
    with bodies.hold("") as other, bodies.hold("") as body:
        other.grow(FREE + 1)
        for _ in range(LARGE + FREE - 1):
            body.grow(1)
        with pytest.raises(Overloaded):
            body.grow(1)


def test_small_requests_are_always_accepted() -> None:
    bodies = Budget("request bodies", LARGE, LARGE, FREE)
    with bodies.hold("") as large:
        large.grow(LARGE + FREE)
        for _ in range(100):
            with bodies.hold("") as small:
                small.grow(FREE)


def test_request_that_never_fits_is_not_told_to_try_again() -> None:
    with Budget("responses", 2 * LARGE, LARGE, FREE).hold("one") as held:
        with pytest.raises(RequestTooLarge, match=f"of responses exceed the memory limit of {LARGE} bytes"):
            held.resize(LARGE + FREE + 1)
        held.resize(LARGE + FREE)


def test_memory_that_is_not_needed_is_free_for_others() -> None:
    responses = Budget("responses", LARGE, LARGE, FREE)
    with responses.hold("") as first, responses.hold("") as second:
        first.resize(LARGE + FREE)
        first.resize(LARGE // 2)
        second.resize(LARGE // 2)
        first.resize(FREE // 2)
        assert responses.size == LARGE // 2 - FREE


def test_one_key_cannot_use_all_of_the_memory() -> None:
    bodies = Budget("request bodies", 2 * LARGE, LARGE, FREE)
    with bodies.hold("one") as first, bodies.hold("one") as second, bodies.hold("other") as other:
        first.grow(LARGE)
        with pytest.raises(Overloaded, match="with this API key"):
            second.grow(LARGE)
        other.grow(LARGE)


def test_one_key_has_one_limit_over_all_workers() -> None:
    shared = Board.create(2)
    first, second = (
        Budget("request bodies", 2 * LARGE, LARGE, FREE, Board(2, shared.file, column)) for column in range(2)
    )
    with second.hold("one") as there, second.hold("other") as other:
        with first.hold("one") as here:
            here.grow(LARGE)
            with pytest.raises(Overloaded, match="with this API key"):
                there.grow(LARGE)
            other.grow(LARGE)
        there.grow(LARGE)
    assert (first.size, second.size) == (0, 0)
    os.close(shared.file)


def test_budgets_on_one_board_count_apart() -> None:
    board = Board()
    bodies, responses = (Budget(what, LARGE, LARGE, FREE, board) for what in ("request bodies", "responses"))
    with bodies.hold("one") as body, responses.hold("one") as response:
        body.grow(LARGE)
        response.grow(LARGE)
        assert bodies.size == responses.size == LARGE - FREE
