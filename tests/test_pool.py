"""The block pool: every block has exactly one home, whatever happens in whatever order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prelude.cache.pool import BlockPool, extend_digest, root_digest
from prelude.types.errors import OutOfBlocksError

SIZE = 4


def chain(tokens: list[int], salt: str = "") -> list[bytes]:
    digests = []
    parent = root_digest(salt)
    for i in range(len(tokens) // SIZE):
        parent = extend_digest(parent, tokens[i * SIZE : (i + 1) * SIZE])
        digests.append(parent)
    return digests


def filled(pool: BlockPool, tokens: list[int], salt: str = "") -> list[int]:
    """Allocate and publish the full blocks of a prompt."""
    digests = chain(tokens, salt)
    blocks = pool.allocate(len(digests))
    for i, (block, digest) in enumerate(zip(blocks, digests, strict=True)):
        pool.publish(block, digest, tokens[i * SIZE : (i + 1) * SIZE])
    return blocks


def test_a_new_pool_is_all_free_but_the_dummy() -> None:
    pool = BlockPool(8, SIZE)
    assert (pool.num_usable, pool.num_available, pool.num_referenced) == (7, 7, 0)
    assert 0 not in pool.allocate(7)
    pool.check()


def test_allocating_more_than_there_is_says_how_much_there_is() -> None:
    pool = BlockPool(4, SIZE)
    with pytest.raises(OutOfBlocksError, match=r"4 KV blocks wanted, 3 available"):
        pool.allocate(4)
    assert pool.num_available == 3


@pytest.mark.parametrize(("blocks", "size"), [(1, 4), (0, 4), (4, 0)])
def test_a_pool_that_can_hold_nothing_is_an_error(blocks: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"at least 2 blocks"):
        BlockPool(blocks, size)


def test_released_blocks_stay_warm_and_are_found_again() -> None:
    pool = BlockPool(8, SIZE)
    tokens = list(range(12))
    blocks = filled(pool, tokens)
    pool.release(blocks)
    assert (pool.num_referenced, pool.num_cached, pool.num_available) == (0, 3, 7)
    assert pool.match(chain(tokens), tokens) == blocks
    other = [*range(8), 99, 99, 99, 99]
    assert pool.match(chain(other), other) == blocks[:2]
    pool.acquire(blocks)
    assert pool.num_referenced == 3
    pool.check()


def test_another_salt_finds_nothing() -> None:
    pool = BlockPool(8, SIZE)
    tokens = list(range(8))
    pool.release(filled(pool, tokens, salt="a"))
    assert pool.match(chain(tokens, "b"), tokens) == []
    assert len(pool.match(chain(tokens, "a"), tokens)) == 2


def test_a_hit_is_verified_against_the_tokens() -> None:
    pool = BlockPool(8, SIZE)
    tokens = list(range(4))
    filled(pool, tokens)
    assert pool.match(chain(tokens), [7, 7, 7, 7]) == []


def test_an_earlier_answer_saves_the_second_look_but_not_the_lookup() -> None:
    pool = BlockPool(8, SIZE)
    tokens = list(range(12))
    blocks = filled(pool, tokens)
    known = pool.match(chain(tokens), tokens)
    before = pool.version
    assert pool.match(chain(tokens), [9] * 12, known=known) == blocks  # trusted, not compared
    pool.release(blocks)
    assert pool.version == before
    pool.allocate(5)  # evicts the tail
    assert pool.version > before
    assert pool.match(chain(tokens), tokens, known=known) == blocks[:2]


def test_without_prefix_reuse_nothing_is_indexed() -> None:
    pool = BlockPool(8, SIZE, prefix=False)
    tokens = list(range(8))
    pool.release(filled(pool, tokens))
    assert pool.num_cached == 0
    assert pool.match(chain(tokens), tokens) == []


def test_eviction_takes_the_least_recently_used_and_tails_before_heads() -> None:
    pool = BlockPool(6, SIZE)
    old, new = list(range(8)), list(range(100, 108))
    old_blocks = filled(pool, old)
    pool.release(old_blocks)
    pool.release(filled(pool, new))
    pool.allocate(2)  # one free block, then the tail of the old chain
    assert pool.match(chain(old), old) == old_blocks[:1]
    assert len(pool.match(chain(new), new)) == 2


def test_the_first_block_of_a_digest_stays_the_indexed_one() -> None:
    pool = BlockPool(8, SIZE)
    tokens = list(range(4))
    first, second = filled(pool, tokens), filled(pool, tokens)
    assert pool.match(chain(tokens), tokens) == first
    pool.release(second)
    assert pool.num_cached == 0
    pool.check()


def test_blocks_released_during_a_step_wait_for_its_end() -> None:
    pool = BlockPool(4, SIZE)
    blocks = pool.allocate(3)
    pool.begin_step()
    pool.release(blocks)
    assert (pool.num_available, pool.num_quarantined) == (0, 3)
    pool.check()
    with pytest.raises(OutOfBlocksError):
        pool.allocate(1)
    pool.end_step()
    assert (pool.num_available, pool.num_quarantined) == (3, 0)


def test_a_block_waits_for_the_steps_under_way_at_its_release_and_no_later_one() -> None:
    pool = BlockPool(6, SIZE)
    first, second = pool.allocate(2), pool.allocate(2)
    pool.begin_step()
    pool.release(first)
    pool.begin_step()
    pool.release(second)
    pool.begin_step()
    pool.check()
    waiting = []
    for _ in range(3):
        waiting.append(pool.num_quarantined)
        pool.end_step()
    assert waiting == [4, 2, 0]
    assert pool.num_available == 5


def test_a_quarantined_block_may_be_shared_again() -> None:
    pool = BlockPool(4, SIZE)
    tokens = list(range(4))
    blocks = filled(pool, tokens)
    pool.begin_step()
    pool.release(blocks)
    pool.acquire(pool.match(chain(tokens), tokens))
    pool.check()
    pool.end_step()
    assert pool.num_referenced == 1
    pool.check()


class PoolMachine(RuleBasedStateMachine):
    """Random allocate, publish, share, release, step boundaries; the invariant after each."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12, SIZE)
        self.held: list[list[int]] = []
        self.under_way = 0

    @rule(tokens=st.lists(st.integers(0, 1), min_size=SIZE, max_size=4 * SIZE))
    def prompt(self, tokens: list[int]) -> None:
        digests = chain(tokens)
        hit = self.pool.match(digests, tokens)
        missing = len(digests) - len(hit)
        warm = sum(map(self.pool.is_cached, hit))
        if missing + warm > self.pool.num_available:
            return
        self.pool.acquire(hit)
        fresh = self.pool.allocate(missing)
        for i, block in enumerate(fresh, len(hit)):
            self.pool.publish(block, digests[i], tokens[i * SIZE : (i + 1) * SIZE])
        self.held.append(hit + fresh)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @rule()
    def forget(self) -> None:
        self.pool.forget()
        assert self.pool.num_cached == 0

    @precondition(lambda self: self.under_way < 2)
    @rule()
    def begin(self) -> None:
        self.under_way += 1
        self.pool.begin_step()

    @precondition(lambda self: self.under_way)
    @rule()
    def end(self) -> None:
        self.under_way -= 1
        self.pool.end_step()

    @invariant()
    def every_block_has_one_home(self) -> None:
        self.pool.check()
        referenced = {block for blocks in self.held for block in blocks}
        assert self.pool.num_referenced == len(referenced)
        assert self.under_way or self.pool.num_quarantined == 0


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_forgotten_blocks_are_free_and_found_no_more() -> None:
    pool = BlockPool(8, 4)
    kept, left = list(range(8)), list(range(100, 108))
    held = filled(pool, kept)
    pool.release(filled(pool, left))
    assert pool.num_cached == 2
    version = pool.version
    assert pool.forget() == 4
    assert (pool.num_cached, pool.num_referenced) == (0, 2)
    assert pool.version > version
    assert pool.match(chain(kept), kept) == pool.match(chain(left), left) == []
    pool.release(held)
    assert pool.num_available == pool.num_usable
    pool.check()
