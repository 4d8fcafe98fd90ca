"""Room for KV on the host: nothing is lost, nothing is given twice, neighbours stay together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.cache.host import HostPool, runs_of
from prelude.types.errors import OutOfBlocksError


def test_blocks_are_neighbours_as_long_as_there_are_any() -> None:
    pool = HostPool(10)
    a, b, c = pool.allocate(3), pool.allocate(2), pool.allocate(4)
    assert [list(runs_of(ids)) for ids in (a, b, c)] == [[(0, 3)], [(3, 5)], [(5, 9)]]
    pool.release(b)
    assert pool.allocate(1) == [9]  # the shortest stretch that holds it
    assert pool.allocate(2) == b
    assert pool.num_free == 0


def test_scattered_blocks_are_better_than_none() -> None:
    pool = HostPool(9)
    parts = [pool.allocate(1) for _ in range(9)]
    for i in (0, 2, 3, 4, 7):
        pool.release(parts[i])
    assert pool.allocate(5) == [2, 3, 4, 0, 7]
    with pytest.raises(OutOfBlocksError):
        pool.allocate(1)


def test_no_host_memory_is_a_pool_too() -> None:
    pool = HostPool(0)
    assert (pool.num_free, pool.allocate(0)) == (0, [])
    with pytest.raises(OutOfBlocksError):
        pool.allocate(1)
    pool.check([])


@pytest.mark.parametrize(
    ("block_ids", "runs"),
    [
        ([], []),
        ([4], [(4, 5)]),
        ([4, 5, 6], [(4, 7)]),
        ([0, 1, 5, 4, 9, 10], [(0, 2), (5, 6), (4, 5), (9, 11)]),
        ([3, 2, 1], [(3, 4), (2, 3), (1, 2)]),
    ],
)
def test_runs_keep_the_order(block_ids: list[int], runs: list[tuple[int, int]]) -> None:
    assert list(runs_of(block_ids)) == runs


@given(st.lists(st.integers(0, 40)))
def test_runs_are_the_blocks_again(block_ids: list[int]) -> None:
    assert [block for run in runs_of(block_ids) for block in range(*run)] == block_ids


@given(st.integers(0, 40), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40))
def test_whatever_is_taken_comes_home(num_blocks: int, turns: list[tuple[bool, int]]) -> None:
    pool = HostPool(num_blocks)
    held: list[list[int]] = []
    for takes, number in turns:
        if takes and number <= pool.num_free:
            held.append(pool.allocate(number))
            assert len(held[-1]) == number
        elif held and not takes:
            pool.release(held.pop(number % len(held)))
        pool.check([block for blocks in held for block in blocks])
    for blocks in held:
        pool.release(blocks)
    pool.check([])
    assert pool.allocate(num_blocks) == list(range(num_blocks))
