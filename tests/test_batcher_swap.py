"""Host memory for who makes room: chosen by price, within limits, and what comes back goes on where
it stood."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.compose import Composer
from prelude.batcher.ledger import Ledger
from prelude.batcher.rules import Rules
from prelude.batcher.swap import Copies
from prelude.batcher.view import PrefixHit, ScheduleConfig
from prelude.cache.pool import BlockPool
from prelude.conf.schema import MechanismsConfig
from prelude.types.plan import BlockCopy, BucketKey, Launch, Plan, Row
from prelude.types.prices import flat_prices
from prelude.types.request import Request, SamplingParams
from tests.views import Seq, View, decoding


def config(swap_ms: float = 0.1, step_ms: float = 50.0, **use: bool) -> ScheduleConfig:
    return ScheduleConfig(
        max_step_tokens=64,
        step_ms=step_ms,
        idle_step_ms=10 * step_ms,
        min_chunk=2,
        max_bypass=4,
        headroom=1,
        swap_ms=swap_ms,
        rules=Rules(use=MechanismsConfig(**use)),
    )


# The choice. A victim of 40 tokens has 10 blocks; a token costs 0.1 ms to compute.


@pytest.mark.parametrize(
    ("swap_ms", "room", "is_swapped"),
    [
        (0.1, 10, True),  # 2 ms against 4 ms
        (0.19, 10, True),
        (0.2, 10, False),  # no sooner
        (0.1, 9, False),  # no room
        (0.0, 0, False),  # nothing there at all
    ],
)
def test_what_is_sooner_done_is_chosen(swap_ms: float, room: int, is_swapped: bool) -> None:
    view = View(num_free_host_blocks=room)
    copies = Copies(view, config(swap_ms))
    assert copies.take(Seq(7, 41, 40, num_blocks=10)) == is_swapped
    assert copies.out == [7] * is_swapped
    assert copies.ms == pytest.approx(10 * swap_ms * is_swapped)


def test_it_can_be_switched_off() -> None:
    copies = Copies(View(num_free_host_blocks=99), config(0.0, swap=False))
    assert not copies.take(Seq(7, 41, 40, num_blocks=10))


def test_no_copy_lasts_longer_than_a_step() -> None:
    victim = Seq(7, 41, 40, num_blocks=10, token_ms=100.0)
    view = View(num_free_host_blocks=99)
    assert Copies(view, config(5.0, step_ms=50.0)).take(victim)
    assert not Copies(view, config(5.1, step_ms=50.0)).take(victim)


def test_what_others_hold_need_not_be_computed_again() -> None:
    class Shared(View):
        def reclaimable(self, seq: object) -> int:
            return 4  # of 10: 1.6 ms to compute

    copies = Copies(Shared(num_free_host_blocks=99), config(0.1))
    assert not copies.take(Seq(7, 41, 40, num_blocks=10))
    assert Copies(Shared(num_free_host_blocks=99), config(0.07)).take(Seq(7, 41, 40, num_blocks=10))


def test_room_is_given_once() -> None:
    copies = Copies(View(num_free_host_blocks=15), config(0.01))
    taken = [copies.take(Seq(i, 41, 40, num_blocks=10 if i else 5)) for i in (1, 2, 0)]
    assert taken == [True, False, True]
    assert copies.out == [1, 0]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.floats(0.0, 1.0)), max_size=12),
    st.integers(0, 60),
    st.floats(0.0, 1.0),
)
def test_the_room_is_never_exceeded_and_the_price_is_that_of_the_blocks(
    victims: list[tuple[int, float]], room: int, swap_ms: float
) -> None:
    copies, taken = Copies(View(num_free_host_blocks=room), config(swap_ms)), 0
    for seq_id, (num, token_ms) in enumerate(victims):
        seq = Seq(seq_id, 4 * num + 1, 4 * num, num_blocks=num, token_ms=token_ms)
        if copies.take(seq):
            taken += num
            assert 2 * num * swap_ms < token_ms * 4 * num
    assert taken <= room
    assert copies.ms == pytest.approx(taken * swap_ms)


# A step.


def composer(view: View, **changes: Any) -> Composer:
    return Composer(view, flat_prices(), config(**changes), 50.0)


def test_a_step_pays_for_its_copies() -> None:
    seqs = [decoding(0, 41), decoding(1, 41)]
    view = View(running=seqs, num_free_host_blocks=99)
    step, plain = composer(view), composer(View(running=seqs))
    for each in (step, plain):
        each.evict(seqs[1])
        each.decode([seqs[0]])
    plan, dropped = step.plan(), plain.plan()
    assert (plan.swap_out, plan.preempt) == ((1,), ())
    assert (dropped.swap_out, dropped.preempt) == ((), (1,))
    assert plan.leaves and dropped.leaves
    assert plan.price_ms == pytest.approx(dropped.price_ms + 10 * 0.1)
    assert plan.holds_for == 1


def test_growth_makes_room_in_the_same_way() -> None:
    """The older of two needs a block and there is none."""
    seqs = [decoding(0, 41), decoding(1, 38)]
    view = View(running=seqs, num_available_blocks=0, num_free_host_blocks=99)
    step = composer(view)
    step.decode()
    plan = step.plan()
    assert plan.swap_out == (1,)
    assert [row.seq_id for launch in plan.launches for row in launch.rows] == [0]


def test_both_ways_out_in_one_step() -> None:
    seqs = [decoding(0, 5), decoding(1, 41), decoding(2, 41)]
    step = composer(View(running=seqs, num_free_host_blocks=10))
    step.evict(seqs[2])
    step.evict(seqs[1])
    assert step.gone == {1, 2}
    plan = step.plan()
    assert (plan.swap_out, plan.preempt) == ((2,), (1,))


def test_who_comes_back_needs_blocks_and_time() -> None:
    seq = Seq(3, 41, 40)
    view = View(waiting=[seq], num_available_blocks=20)
    step = composer(view)
    before = step.chunk(seq, 0)
    assert before == 41
    step.admit(seq, PrefixHit(40, 2, 1, 8), 1)
    assert step.num_available == 20 - (11 - 2 + 1)
    assert step.plan().price_ms == pytest.approx(8 * 0.1 + flat_prices().body.at(1))


def test_copies_leave_less_time_for_others() -> None:
    seq, other = Seq(3, 41, 40), Seq(4, 64)
    step = composer(View(waiting=[seq, other]), swap_ms=49.4 / 8)
    step.admit(seq, PrefixHit(40, 2, 0, 8), 1)
    assert step.chunk(other, 0) < 63


def test_a_return_that_is_put_off_costs_nothing() -> None:
    copies = Copies(View(), config(0.5))
    copies.bring(Seq(3, 41, 40), PrefixHit(40, 2, 0, 8))
    copies.bring(Seq(4, 41, 40), PrefixHit(40, 10, 0, 0))
    assert copies.ms == pytest.approx(4.0)
    copies.leave(4)
    copies.leave(3)
    assert copies.ms == 0.0


# Memory.


def ledger(num_blocks: int = 12, num_host_blocks: int = 8, *, prefix: bool = True) -> Ledger:
    return Ledger(
        BlockPool(num_blocks, 4, prefix=prefix),
        max_seqs=3,
        max_len=24,
        vocab_size=100,
        eos_ids=(),
        num_host_blocks=num_host_blocks,
    )


def arrive(books: Ledger, uid: int, prompt: list[int]) -> int:
    group = books.make(Request(uid=uid, prompt_ids=prompt, params=SamplingParams(max_tokens=9)))
    books.queue(group)
    return group[0].seq_id


def compute(books: Ledger, *parts: tuple[int, int, int], **plan: tuple[int, ...]) -> Plan:
    """One step: rows as (sequence, start, tokens). Nothing is sampled."""
    rows = tuple(Row(seq_id, -1, start, count, (), False) for seq_id, start, count in parts)
    launches = (Launch(BucketKey("prefill", 1, 1), rows, 1.0),) if rows else ()
    bound = books.bind(Plan(launches=launches, **plan))  # type: ignore[arg-type]
    for row in rows:
        books.settle(row)
    books.end_step()
    books.check()
    return bound


def test_a_sequence_goes_and_comes_back_where_it_stood() -> None:
    books = ledger(prefix=False)
    seq_id = arrive(books, 1, list(range(1, 15)))
    compute(books, (seq_id, 0, 10), admit=(seq_id,))
    out = compute(books, swap_out=(seq_id,))
    assert out.runs and not out.launches
    (copy,) = out.copies_out
    assert copy.host_ids == (0, 1, 2) and len(copy.device_ids) == 3
    assert (books.num_available_blocks, books.num_free_host_blocks) == (11, 5)
    (seq,) = books.waiting
    assert (seq.num_computed, seq.blocks, seq.num_preemptions) == (10, [], 1)
    assert books.match(seq) == PrefixHit(10, 0, 0, 3)
    back = compute(books, (seq_id, 10, 4), admit=(seq_id,))
    (copy,) = back.copies_in
    assert copy.host_ids == (0, 1, 2)
    (first, second) = back.grants
    assert (first.first, first.block_ids) == (0, copy.device_ids)
    assert (second.first, len(second.block_ids)) == (3, 1)
    assert books.num_free_host_blocks == 8
    assert (books.shelf.num_swaps, books.shelf.num_copied, books.num_preemptions) == (1, 6, 0)


def test_what_is_still_cached_is_not_copied_back() -> None:
    books = ledger()
    seq_id = arrive(books, 1, list(range(1, 15)))
    compute(books, (seq_id, 0, 10), admit=(seq_id,))
    out = compute(books, swap_out=(seq_id,))
    (seq,) = books.waiting
    assert books.match(seq) == PrefixHit(10, 2, 2, 1)
    back = compute(books, (seq_id, 10, 4), admit=(seq_id,))
    (copy,) = back.copies_in
    assert copy.host_ids == out.copies_out[0].host_ids[2:]
    assert back.grants[0].block_ids[:2] == out.copies_out[0].device_ids[:2]
    books.finish(seq, "abort")
    books.check()


def test_all_of_it_may_still_be_there() -> None:
    books = ledger()
    seq_id = arrive(books, 1, list(range(1, 15)))
    compute(books, (seq_id, 0, 8), admit=(seq_id,))
    compute(books, swap_out=(seq_id,))
    back = compute(books, (seq_id, 8, 6), admit=(seq_id,))
    assert back.copies_in == ()
    assert books.num_free_host_blocks == 8


def test_blocks_that_come_back_do_not_take_what_another_found() -> None:
    """Both come in one step: one needs any blocks, the other warm ones, which are the oldest."""
    books = ledger(num_blocks=7)
    gone = arrive(books, 1, list(range(20, 32)))
    warm = arrive(books, 2, list(range(50, 59)))
    compute(books, (gone, 0, 11), (warm, 0, 9), admit=(gone, warm))
    compute(books, swap_out=(gone,))
    compute(books, preempt=(warm,))
    passing = arrive(books, 3, list(range(70, 86)))
    compute(books, (passing, 0, 16), admit=(passing,))
    books.finish(books.group(3)[0], "abort")
    by_id = {seq.seq_id: seq for seq in books.waiting}
    assert books.match(by_id[gone]) == PrefixHit(11, 0, 0, 3)
    assert books.match(by_id[warm]) == PrefixHit(8, 2, 2)
    bound = compute(books, (gone, 11, 1), (warm, 8, 1), admit=(gone, warm))
    assert books.num_available_blocks == 0
    assert not set(bound.grants[0].block_ids) & set(bound.grants[1].block_ids)


def test_a_swapped_sequence_that_ends_gives_its_room_back() -> None:
    books = ledger()
    seq_id = arrive(books, 1, list(range(1, 15)))
    compute(books, (seq_id, 0, 14), admit=(seq_id,))
    compute(books, swap_out=(seq_id,))
    (seq,) = books.waiting
    books.finish(seq, "abort")
    books.check()
    assert books.num_free_host_blocks == 8 and not books.num_waiting


def test_a_parked_sequence_may_go_too() -> None:
    books = ledger()
    seq_id = arrive(books, 1, list(range(1, 15)))
    compute(books, (seq_id, 0, 13), admit=(seq_id,))
    compute(books, park=(seq_id,))
    assert len(books.parked) == 1
    out = compute(books, swap_out=(seq_id,))
    assert len(books.parked) == 0 and books.num_waiting == 1
    assert out.num_copies == 4
    back = compute(books, (seq_id, 13, 1), admit=(seq_id,))
    assert back.admits[0].token_ids == tuple(range(1, 15))


def test_nobody_goes_while_a_step_is_under_way() -> None:
    books = ledger()
    seq_id = arrive(books, 1, list(range(1, 15)))
    row = Row(seq_id, -1, 0, 4, (), False)
    books.bind(Plan(launches=(Launch(BucketKey("prefill", 4, 1), (row,), 1.0),), admit=(seq_id,)))
    with pytest.raises(AssertionError, match="still need"):
        books.bind(Plan(swap_out=(seq_id,)))


def test_what_a_plan_says_of_itself() -> None:
    copy = BlockCopy((1, 2), (3, 4))
    assert Plan(copies_out=(copy,), copies_in=(copy,)).num_copies == 4
    assert not Plan().runs and not Plan().leaves
    assert Plan(copies_out=(copy,)).runs and Plan(swap_out=(1,)).leaves
