import math
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.board import ROWS, Board

COUNT = """
import sys
from gateway.board import Board
board = Board(2, int(sys.argv[1]), int(sys.argv[2]))
row = board.row("common")
for number in range(2000):
    board.row(f"row {number} of both")
    with board.locked():
        board.common[row] += 1
board.own[board.row("own")] = 1
"""


@pytest.fixture
def shared() -> Iterator[Board]:
    """A board of two workers, seen by the parent."""
    board = Board.create(2)
    yield board
    os.close(board.file)


def seen_by(board: Board, column: int) -> Board:
    return Board(board.workers, board.file, column)


def test_workers_see_what_others_write(shared: Board) -> None:
    first, second = seen_by(shared, 0), seen_by(shared, 1)
    row = first.row("waiting")
    first.own[row] = 2
    assert second.row("waiting") == row
    assert second.values(row) == [2]
    second.own[row] = 3
    assert (first.total(row), sorted(first.values(row))) == (5, [2, 3])


def test_state_ends_with_its_worker_and_counts_do_not(shared: Board) -> None:
    first = seen_by(shared, 0)
    counts, state = first.row("counts", lasts=True), first.row("state")
    first.own[counts] = first.own[state] = 4
    shared.leave(0)
    assert (shared.total(counts), shared.values(state)) == (4, [])
    assert math.isnan(seen_by(shared, 0).own[state])


def test_rows_of_one_name_lie_together(shared: Board) -> None:
    first, second = shared.row("histogram", 17, lasts=True), shared.row("next")
    assert second == first + 17


def test_full_board_has_a_place_for_what_does_not_fit() -> None:
    board = Board()
    last = [board.row(f"row {number}", ROWS // 4) for number in range(6)][-1]
    board.own[last] += 1
    assert last == ROWS - ROWS // 4


def test_processes_agree_on_rows_and_lose_no_update(shared: Board) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", COUNT, str(shared.file), str(column)], pass_fds=[shared.file])
        for column in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert shared.common[shared.row("common")] == 4000
    assert shared.total(shared.row("own")) == 2
    names = list(shared.rows())
    assert len(names) == len(set(names)) == 2002
