"""First come, first served: budgets, chunks, bypass and eviction, decided over a view by hand."""

import pytest

from prelude.batcher.fcfs import fcfs
from prelude.batcher.view import PolicyState, PrefixHit, ScheduleConfig
from prelude.types.plan import Plan
from prelude.types.prices import Curve, PriceTable
from prelude.types.request import Request, SamplingParams
from tests.views import Seq, View, decoding

# One millisecond a launch and one for each new token.
PRICES = PriceTable(Curve((1, 1000), (2.0, 1001.0)))


def config(**changes: object) -> ScheduleConfig:
    values: dict[str, object] = {
        "max_step_tokens": 512,
        "step_ms": 21.0,
        "idle_step_ms": 101.0,
        "min_chunk": 4,
        "max_bypass": 2,
        "headroom": 1,
    }
    return ScheduleConfig(**(values | changes))  # type: ignore[arg-type]


def plan(view: View, state: PolicyState | None = None, **changes: object) -> Plan:
    return fcfs(view, state or PolicyState(), PRICES, config(**changes))[0]


def rows(plan: Plan) -> dict[int, tuple[int, int]]:
    return {row.seq_id: (row.start, row.num_tokens) for x in plan.launches for row in x.rows}


def test_an_idle_system_plans_nothing() -> None:
    assert plan(View()) == Plan(budget_ms=101.0)


def test_a_prompt_fills_the_idle_budget_and_no_more() -> None:
    step = plan(View(waiting=[Seq(0, 400)]))
    assert rows(step) == {0: (0, 100)}
    assert step.price_ms == pytest.approx(101.0)
    assert not step.launches[0].rows[0].samples


def test_the_token_budget_holds_too() -> None:
    assert rows(plan(View(waiting=[Seq(0, 400)]), max_step_tokens=30)) == {0: (0, 30)}


def test_a_long_prompt_leaves_streams_their_step_time() -> None:
    step = plan(View(running=[decoding(0, 9), decoding(1, 9)], waiting=[Seq(2, 3000)]))
    assert rows(step) == {0: (8, 1), 1: (8, 1), 2: (0, 18)}
    assert step.price_ms <= step.budget_ms == 21.0


def test_prefill_moves_by_a_minimum_even_without_time_left() -> None:
    view = View(running=[decoding(0, 9), Seq(1, 300, 100, 25)])
    assert rows(plan(view, step_ms=0.5))[1] == (100, 4)


def test_prefill_moves_even_where_decodes_fill_the_token_budget() -> None:
    view = View(running=[decoding(i, 9) for i in range(6)], waiting=[Seq(6, 50)])
    assert rows(plan(view, max_step_tokens=4))[6] == (0, 4)


def test_only_one_chunk_a_step_is_granted_beyond_the_budget() -> None:
    view = View(running=[decoding(0, 9), Seq(1, 300, 100, 25)], waiting=[Seq(2, 50), Seq(3, 50)])
    assert set(rows(plan(view, step_ms=0.5))) == {0, 1}


def test_newcomers_get_half_of_what_a_long_prompt_would_take() -> None:
    view = View(running=[Seq(0, 900, 40, 10)], waiting=[Seq(1, 3), Seq(2, 900)])
    assert rows(plan(view)) == {1: (0, 3), 2: (0, 46), 0: (40, 51)}
    alone = View(running=[Seq(0, 900, 40, 10)], waiting=[Seq(1, 3)])
    assert rows(plan(alone)) == {1: (0, 3), 0: (40, 97)}


def test_a_preempted_sequence_is_never_overtaken() -> None:
    waiting = [Seq(0, 100, num_preemptions=1), Seq(1, 4)]
    assert plan(View(waiting=waiting, num_available_blocks=5)).admit == ()


def test_growth_of_residents_is_kept_free() -> None:
    view = View(running=[decoding(0, 9)], waiting=[Seq(1, 8)], num_available_blocks=7)
    assert plan(view, headroom=1).admit == (1,)
    assert plan(view, headroom=16).admit == ()  # 4 blocks for one, 6 for the other
    view.num_available_blocks = 11
    assert plan(view, headroom=16).admit == (1,)


def test_a_cached_prefix_is_not_computed_again() -> None:
    view = View(waiting=[Seq(0, 90)], hits={0: PrefixHit(80, 20, 20)})
    step = plan(view)
    assert rows(step) == {0: (80, 10)}
    assert step.launches[0].rows[0].samples


def test_slots_bound_admission() -> None:
    step = plan(View(waiting=[Seq(i, 4) for i in range(5)], num_free_slots=2))
    assert step.admit == (0, 1)


def test_a_choice_waits_for_its_leader() -> None:
    step = plan(View(waiting=[Seq(0, 4), Seq(1, 4, is_held=True), Seq(2, 4)]))
    assert step.admit == (0, 2)


def test_what_does_not_fit_is_overtaken_a_bounded_number_of_times() -> None:
    state = PolicyState()
    admitted = []
    for i in range(4):
        view = View(waiting=[Seq(0, 100), Seq(10 + i, 4)], num_available_blocks=5)
        step, state = fcfs(view, state, PRICES, config())
        admitted.append(step.admit)
    assert admitted == [(10,), (11,), (), ()]
    assert state.bypassed == {0: 2}


def test_a_sequence_that_left_the_queue_is_forgotten() -> None:
    state = PolicyState({0: 2})
    view = View(waiting=[Seq(0, 100), Seq(1, 4)], num_available_blocks=5)
    assert fcfs(View(waiting=[Seq(5, 4)]), state, PRICES, config())[1].bypassed == {}
    assert fcfs(view, state, PRICES, config())[0].admit == ()


def test_an_older_sequence_evicts_the_youngest() -> None:
    full = [decoding(0, 9), decoding(1, 9), decoding(2, 9)]
    step = plan(View(running=full, num_available_blocks=0))
    assert step.preempt == (2,)
    assert set(rows(step)) == {0, 1}


def test_the_youngest_never_evicts_an_older_one() -> None:
    running = [decoding(0, 8), decoding(1, 9)]  # the older one has room in its last block
    step = plan(View(running=running, num_available_blocks=0))
    assert step.preempt == ()
    assert set(rows(step)) == {0}


def test_nothing_is_admitted_into_memory_just_won_by_eviction() -> None:
    full = [decoding(0, 9), decoding(1, 9)]
    step = plan(View(running=full, waiting=[Seq(2, 4)], num_available_blocks=0))
    assert step.preempt == (1,)
    assert step.admit == ()


def test_a_chunk_shrinks_to_the_blocks_there_are() -> None:
    view = View(running=[Seq(0, 100, 8, 2)], num_available_blocks=3)
    assert rows(plan(view)) == {0: (8, 12)}


def test_decode_and_prefill_share_a_launch_or_not() -> None:
    view = View(running=[decoding(0, 9), Seq(1, 20, 10, 3)])
    mixed = plan(view)
    assert [x.key.kind for x in mixed.launches] == ["prefill"]
    split = plan(view, mix=False)
    assert [x.key.kind for x in split.launches] == ["decode", "prefill"]
    assert rows(mixed) == rows(split)


def test_a_pure_decode_plan_says_how_long_it_holds() -> None:
    running = [decoding(0, 10), decoding(1, 8)]
    one = View(running=running, num_available_blocks=1)
    assert plan(one).holds_for == 1  # the second needs a block next, and there are no others
    running = [decoding(0, 10), decoding(1, 10)]
    assert plan(View(running=running, num_available_blocks=1)).holds_for == 3
    assert plan(View(running=running, num_available_blocks=4)).holds_for == 8  # two blocks each
    running[0].num_remaining = 2
    assert plan(View(running=running)).holds_for == 2
    assert plan(View(running=running, waiting=[Seq(2, 4)])).holds_for == 1


def test_the_launch_mode_is_the_widest_that_a_sampling_row_needs() -> None:
    def with_params(seq: Seq, **params: object) -> Seq:
        sampling = SamplingParams(**params)  # type: ignore[arg-type]
        seq.request = Request(uid=0, prompt_ids=[1], params=sampling)
        return seq

    greedy = with_params(decoding(0, 9), temperature=0.0)
    drawn = with_params(decoding(1, 9), temperature=1.0)
    scored = with_params(decoding(2, 9), temperature=0.0, logprobs=2)
    unfinished = with_params(Seq(3, 500, 4, 1), temperature=1.0)
    assert plan(View(running=[greedy])).launches[0].key.mode == "greedy"
    assert plan(View(running=[greedy, unfinished])).launches[0].key.mode == "greedy"
    assert plan(View(running=[greedy, drawn])).launches[0].key.mode == "filtered"
    assert plan(View(running=[greedy, drawn, scored])).launches[0].key.mode == "full"
