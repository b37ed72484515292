import os

import pytest

from gateway.board import Board
from gateway.errors import Overloaded
from gateway.routes.body_budget import SMALL_BYTES, Bodies

LARGE = 10 * SMALL_BYTES


def test_bodies_share_a_limit_until_their_requests_end() -> None:
    bodies = Bodies(max_bytes=LARGE, max_bytes_per_key=LARGE)
    with bodies.hold("") as first:
        first.grow(LARGE)
        with bodies.hold("") as second, pytest.raises(Overloaded, match="in flight reached the memory limit"):
            second.grow(LARGE)
        assert bodies.size == LARGE - SMALL_BYTES
    assert bodies.size == 0
    with bodies.hold("") as third:
        third.grow(LARGE)


def test_received_bytes_are_counted() -> None:
    bodies = Bodies(max_bytes=LARGE, max_bytes_per_key=LARGE)
    with bodies.hold("") as body:
        for _ in range(LARGE + SMALL_BYTES):
            body.grow(1)
        with pytest.raises(Overloaded):
            body.grow(1)


def test_small_bodies_are_always_accepted() -> None:
    bodies = Bodies(max_bytes=LARGE, max_bytes_per_key=LARGE)
    with bodies.hold("") as large:
        large.grow(LARGE + SMALL_BYTES)
        for _ in range(100):
            with bodies.hold("") as small:
                small.grow(SMALL_BYTES)


def test_one_key_cannot_use_all_of_the_memory() -> None:
    bodies = Bodies(max_bytes=2 * LARGE, max_bytes_per_key=LARGE)
    with bodies.hold("one") as first, bodies.hold("one") as second, bodies.hold("other") as other:
        first.grow(LARGE)
        with pytest.raises(Overloaded, match="with this API key"):
            second.grow(LARGE)
        other.grow(LARGE)


def test_one_key_has_one_limit_over_all_workers() -> None:
    shared = Board.create(2)
    first, second = (Bodies(2 * LARGE, LARGE, Board(2, shared.file, column)) for column in range(2))
    with first.hold("one") as here, second.hold("one") as there, second.hold("other") as other:
        here.grow(LARGE)
        with pytest.raises(Overloaded, match="with this API key"):
            there.grow(LARGE)
        other.grow(LARGE)
        here.release()
        there.grow(LARGE)
    assert (first.size, second.size) == (0, 0)
    os.close(shared.file)
