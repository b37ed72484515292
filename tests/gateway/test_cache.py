import asyncio
import random
from collections.abc import Sequence

from gateway.cache import OVERHEAD_BYTES, Cache, Lookup

ROWS = [([1, 2, 3],), ([1, 2],), ([1, 2, 3],), ([],)]


def look_up(cache: Cache, *rows: Sequence[Sequence[int]], state: str = "1", prefixes: Sequence[int] = ()) -> Lookup:
    return asyncio.run(cache.lookup(state, rows, prefixes))


def keep(cache: Cache, *rows: Sequence[Sequence[int]], result: bytes = b"") -> None:
    lookup = look_up(cache, *rows)
    lookup.keep(lookup.missing, lambda row: result or bytes([row]))


def is_kept(cache: Cache, row: Sequence[Sequence[int]]) -> bool:
    return bool(look_up(cache, row).found)


def test_rows_are_found_once_they_are_kept() -> None:
    cache = Cache(2**20)
    first = look_up(cache, *ROWS)
    assert (first.found, first.missing, first.repeated) == ([], [0, 1, 3], [(2, 0)])
    first.keep([1, 3], lambda row: bytes([row]))
    second = look_up(cache, *ROWS)
    assert (second.found, second.missing, second.repeated) == ([(1, b"\1"), (3, b"\3")], [0], [(2, 0)])


def test_all_that_a_result_depends_on_tells_rows_apart() -> None:
    cache = Cache(2**20)
    rows = [([1, 2],), ([2, 1],), ([1], [2]), ([], [1, 2]), ([1, 2], []), ([1, 2, 0],), ([0, 1, 2],)]
    keys = {*look_up(cache, *rows).keys}
    for state in ("2", "1 embedding"):
        keys |= {*look_up(cache, *rows, state=state).keys}
    for prefix in (1, 2):
        keys |= {*look_up(cache, *rows, prefixes=[prefix] * len(rows)).keys}
    assert len(keys) == 5 * len(rows)


def test_digests_of_another_process_are_others() -> None:
    assert not {*look_up(Cache(1), *ROWS).keys} & {*look_up(Cache(1), *ROWS).keys}


def test_least_recently_used_results_make_room() -> None:
    evicted: list[int] = []
    cache = Cache(3 * (OVERHEAD_BYTES + 100), evicted.append)
    for number in range(3):
        keep(cache, ([number],), result=bytes(100))
    assert is_kept(cache, ([0],))  # and with that, it is the most recently used
    keep(cache, ([3],), result=bytes(100))
    assert [is_kept(cache, ([number],)) for number in range(4)] == [True, False, True, True]
    assert evicted == [1]
    keep(cache, ([4],), result=bytes(2 * 100 + OVERHEAD_BYTES))  # as large as two others
    assert [is_kept(cache, ([number],)) for number in range(5)] == [False, False, False, True, True]
    assert evicted == [1, 2]


def test_size_is_that_of_what_is_kept_and_never_above_the_limit() -> None:
    chance = random.Random(0)
    cache, limit = Cache(20_000), 20_000
    sizes: dict[int, int] = {}
    for _ in range(500):
        number = chance.randrange(200)
        sizes.setdefault(number, chance.randrange(4, 3000))
        keep(cache, ([number],), result=bytes(sizes[number]))
        assert cache.size <= limit
    kept = [size for number, size in sizes.items() if is_kept(cache, ([number],))]
    assert cache.size == sum(kept) + OVERHEAD_BYTES * len(kept)


def test_result_that_is_too_large_evicts_nothing() -> None:
    cache = Cache(1000)
    keep(cache, ([1],), result=bytes(100))
    keep(cache, ([2],), result=bytes(1000))
    assert [is_kept(cache, ([number],)) for number in (1, 2)] == [True, False]


def test_result_that_two_requests_computed_counts_once() -> None:
    cache = Cache(1000)
    first, second = look_up(cache, ([1],)), look_up(cache, ([1],))
    for lookup in (first, second):
        lookup.keep([0], lambda _: b"four")
    assert cache.size == OVERHEAD_BYTES + 4


def test_long_calls_let_others_run() -> None:
    cache = Cache(1000)
    turns: list[int] = []

    async def run() -> None:
        call = asyncio.create_task(cache.lookup("1", [([1] * 512,)] * 512, ()))
        while not call.done():
            await asyncio.sleep(0)
            turns.append(1)

    asyncio.run(run())
    assert len(turns) >= 8
