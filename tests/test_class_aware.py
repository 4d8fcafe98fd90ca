"""The class-aware policy over views written by hand: who gets into a step, in which order, and how
much of its time. A launch costs 1 ms and a token 1 ms; the target between tokens is 21 ms."""

from dataclasses import replace
from math import ceil, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.class_aware import class_aware
from prelude.batcher.rules import Rules
from prelude.batcher.view import PolicyState, PrefixHit, ScheduleConfig
from prelude.conf.schema import ClassConfig
from prelude.graphs.buckets import Buckets
from prelude.types.plan import Plan
from prelude.types.service import SERVICE_CLASSES, ServiceClass
from tests.policies import PRICES, config, partial, prompt, rows, rules, stream, streams
from tests.views import Seq, View


def decide(
    view: View, state: PolicyState | None = None, schedule: ScheduleConfig | None = None
) -> tuple[Plan, PolicyState]:
    return class_aware(view, state or PolicyState(), PRICES, schedule or config())


def plan(view: View, made: Rules | None = None, **changes: object) -> Plan:
    return decide(view, schedule=config(made, **changes))[0]


def test_an_idle_system_plans_nothing() -> None:
    assert plan(View()) == Plan(budget_ms=101.0)


def test_a_step_is_composed_class_by_class() -> None:
    running = [stream(0, "deep"), stream(1), stream(2, "batch"), partial(3, 300, 40)]
    waiting = [prompt(5, 4), prompt(4, 3, "batch")]
    view = View(running=running, waiting=waiting)
    step = plan(view, rules(target_ms=100.0))
    assert list(rows(step)) == [1, 0, 2, 5]
    assert rows(step)[5] == (0, 4), "who has come to ask waits for nothing else"
    view.waiting = [prompt(4, 3, "batch")]
    step = plan(view, rules(target_ms=100.0))
    assert list(rows(step)) == [1, 0, 2, 3]
    assert rows(step)[3] == (40, 96)  # what is left of 100 ms
    assert step.price_ms == pytest.approx(step.budget_ms)


def test_the_example_of_the_documentation() -> None:
    running = [*streams(6), *streams(12, "deep", first=6), partial(18, 500, 100)]
    view = View(running=running, waiting=[prompt(19, 5)])
    step, state = decide(view)
    served = rows(step)
    assert step.budget_ms == 21.0
    assert [i for i in served if 6 <= i < 18] == [6, 7, 8, 9]  # 7 ms and a fifth of 21
    assert served[19] == (0, 5)
    assert 18 not in served and state.owed_ms == 1.0
    assert step.price_ms == 16.0
    view.waiting = []
    step, _ = decide(view, state)
    assert [i for i in rows(step) if 6 <= i < 18] == [10, 11, 12, 13, 14, 15, 16, 17, 6]
    assert rows(step)[18] == (100, 5)
    assert step.price_ms == 21.0


@pytest.mark.parametrize(
    ("fast", "deep", "waits", "budget_ms"),
    [
        (0, 0, True, 101.0),  # nobody feels a long step
        (5, 0, False, 21.0),
        (5, 5, True, 21.0),
        (19, 0, False, 21.0),
        (19, 0, True, 20.0 + 0.3 * 21.0),
        (19, 3, False, 20.0 + 0.2 * 21.0),
        (19, 3, True, 20.0 + 0.5 * 21.0),
        (0, 40, True, 21.0),
        (40, 3, True, 41.0 + 0.5 * 21.0),
    ],
)
def test_the_budget_is_the_target_or_what_everybody_is_sure_of(
    fast: int, deep: int, waits: bool, budget_ms: float
) -> None:
    running = [*streams(fast), *streams(deep, "deep", first=fast)]
    view = View(running=running, waiting=[prompt(99, 400)] if waits else [])
    step = plan(view, rules(off="stretch"))
    assert step.budget_ms == pytest.approx(budget_ms)
    assert step.price_ms <= budget_ms


@pytest.mark.parametrize("name", SERVICE_CLASSES)
def test_the_tightest_target_of_those_that_decode_counts(name: ServiceClass) -> None:
    itl_ms: dict[ServiceClass, float] = {"fast": 50.0, "deep": 60.0, "doc": 60.0, "batch": 60.0}
    made = rules(itl_ms=itl_ms | {name: 30.0})
    running = [stream(0, "deep"), stream(1, name)]
    assert plan(View(running=running), made).budget_ms == 30.0
    alone = 30.0 if name == "deep" else 60.0
    assert plan(View(running=running[:1]), made).budget_ms == alone


@pytest.mark.parametrize(
    ("waited_s", "cost_ms", "budget_ms"),
    [
        (0.0, 7.0, 21.0),  # what they wait is no more than the target
        (0.03, 1.0, 30.0),
        (0.0, 15.0, 36.0),  # two prompts of 15 ms, and the streams
        (9.0, 1.0, 63.0),
    ],
)
def test_steps_are_longer_while_fast_prompts_queue(
    waited_s: float, cost_ms: float, budget_ms: float
) -> None:
    waiting = [prompt(n, 30, queued_s=9.0 - waited_s, cost_ms=cost_ms) for n in (10, 11)]
    view = View(running=streams(5), waiting=waiting, now_s=9.0)
    assert plan(view).budget_ms == pytest.approx(budget_ms)
    assert plan(view, rules(off="stretch")).budget_ms == 21.0
    view.num_free_slots = 0  # nobody is served by a longer step
    assert plan(view).budget_ms == 21.0


def test_steps_are_not_stretched_far_beside_a_long_prompt() -> None:
    running = [*streams(5), partial(18, 500, 100)]
    waiting = [prompt(20, 60, queued_s=0.0, cost_ms=60.0)]
    assert plan(View(running=running, waiting=waiting, now_s=9.0)).budget_ms == 26.25
    view = View(running=streams(5), waiting=[*waiting, prompt(21, 300, "doc")], now_s=9.0)
    assert plan(view).budget_ms == 26.25
    assert plan(View(running=streams(5), waiting=waiting, now_s=9.0)).budget_ms == 63.0


def test_documents_do_not_make_steps_longer() -> None:
    waiting = [prompt(10, 300, "doc", cost_ms=300.0)]
    assert plan(View(running=streams(5), waiting=waiting, now_s=9.0)).budget_ms == 21.0


def test_documents_keep_their_share_once_they_are_owed_a_target() -> None:
    view = View(
        running=[*streams(5), partial(18, 500, 100)],
        waiting=[prompt(20 + n, 30, cost_ms=30.0) for n in range(5)],
    )
    state, got = PolicyState(), []
    for _ in range(12):
        step, state = decide(view, state, config(rules(off="stretch")))
        got.append(rows(step).get(18, (0, 0))[1])
    assert got == [0] * 7 + [3] * 5  # 15 ms of each step are for prompts, a fifth of it theirs
    view.waiting = []
    _, state = decide(view, state, config(rules(off="stretch")))
    assert 0.0 < state.owed_ms < 21.0
    view.running = streams(5)
    assert decide(view, state)[1].owed_ms == 0.0


def test_without_a_budget_only_tokens_bound_a_step() -> None:
    view = View(running=[*streams(20), *streams(20, "deep", first=20)], waiting=[prompt(40, 900)])
    step = plan(view, rules(off="budget"))
    assert step.budget_ms == inf
    assert len(rows(step)) == 41
    assert rows(step)[40] == (0, 472)


# Deep sequences.


def test_deep_ones_have_a_share_that_fast_prompts_cannot_take() -> None:
    running = [*streams(10), *streams(8, "deep", first=10)]
    step = plan(View(running=running, waiting=[prompt(20, 400)]))
    assert step.budget_ms == 21.5
    assert sum(10 <= i < 18 for i in rows(step)) == 4  # 11 ms, and a fifth of the target
    assert rows(step)[20] == (0, 6)


def test_deep_ones_have_no_more_of_a_step_for_its_being_stretched() -> None:
    running = [*streams(10), *streams(30, "deep", first=10)]
    waiting = [prompt(50, 400, queued_s=0.0, cost_ms=400.0)]
    step = plan(View(running=running, waiting=waiting, now_s=9.0))
    assert step.budget_ms == 63.0
    assert sum(10 <= i < 40 for i in rows(step)) == 4  # 11 ms, and a fifth of 21
    assert rows(step)[50] == (0, 48)


def test_documents_have_that_share_against_deep_ones() -> None:
    step = plan(View(running=streams(40, "deep"), waiting=[prompt(50, 400, "doc")]))
    assert sum(i < 40 for i in rows(step)) == 15  # eight tenths of 21 ms
    assert rows(step)[50] == (0, 5)


@pytest.mark.parametrize("num_fast", [0, 4, 10, 18, 30])
@pytest.mark.parametrize("name", [None, "fast", "doc"])
def test_decodes_keep_to_the_budget_and_leave_prompts_their_part(
    num_fast: int, name: ServiceClass | None
) -> None:
    running = [*streams(num_fast), *streams(60, "deep", first=num_fast)]
    waiting = [prompt(99, 400, name)] if name else []
    step = plan(View(running=running, waiting=waiting))
    part = {None: 0.0, "fast": 0.3, "doc": 0.2}[name]
    decodes = sum(seq_id != 99 for seq_id in rows(step))
    assert 1 + decodes <= max(step.budget_ms - part * 21.0, num_fast + 2)
    assert step.price_ms <= step.budget_ms
    launch = num_fast == 0  # is paid from the deep ones' share where they are alone
    assert decodes - num_fast + launch >= int(0.2 * 21.0)


def test_one_deep_sequence_at_least_has_its_token() -> None:
    running = [*streams(30), *streams(5, "deep", first=30)]
    step = plan(View(running=running), rules(target_ms=3.0, deep_share=0.0))
    assert sum(i >= 30 for i in rows(step)) == 1
    assert step.price_ms == step.budget_ms + 1.0


def test_what_documents_leave_goes_to_deep_ones() -> None:
    running = [*streams(4), *streams(30, "deep", first=4)]
    step = plan(View(running=running, waiting=[prompt(40, 3, "doc")]))
    assert rows(step)[40] == (0, 3)
    assert sum(4 <= i < 34 for i in rows(step)) == 13
    assert step.price_ms == step.budget_ms == 21.0


def test_what_a_question_leaves_goes_to_nobody_for_it_ends_the_sooner() -> None:
    running = [*streams(4), *streams(30, "deep", first=4), partial(40, 300, 40)]
    view = View(running=running, waiting=[prompt(41, 3)])
    step = plan(view)
    assert rows(step)[41] == (0, 3) and 40 not in rows(step)
    assert sum(4 <= i < 34 for i in rows(step)) == 4
    assert step.price_ms == 12.0 < step.budget_ms
    view.num_available_blocks = 0
    step = plan(view)
    assert 41 not in rows(step), "it has no blocks, and nobody waits for it"
    assert step.price_ms == step.budget_ms == 21.0


def test_a_step_ends_before_a_prompt_that_the_others_had_better_not_wait_for() -> None:
    waiting = [prompt(n, 30, cost_ms=31.0, token_ms=1.0, due_s=float(n)) for n in range(10, 12)]
    view = View(running=streams(5), waiting=waiting)
    assert rows(plan(view)).keys() & {10, 11} == {10}, "30 ms for the first, one step for both"
    assert rows(plan(view, rules(off="split")))[11] == (0, 27)
    view.waiting += [prompt(n, 30, cost_ms=31.0, due_s=float(n)) for n in range(12, 14)]
    assert 11 in rows(plan(view)), "one more step would hold up three others"
    view.waiting = [prompt(10, 30, cost_ms=31.0), prompt(11, 4, cost_ms=5.0, token_ms=1.0)]
    assert rows(plan(view))[11] == (0, 4), "it costs less than a step"


def test_a_step_does_not_end_before_what_fills_its_bucket_for_nothing() -> None:
    """Only the time by which the step gets longer counts, and that is none."""
    waiting = [prompt(n, 30, cost_ms=31.0, token_ms=1.0) for n in (10, 11)]
    static = config(rules(target_ms=70.0), buckets=Buckets((1, 2, 4), (64,), 8), mix=False)
    step, _ = decide(View(waiting=waiting), schedule=static)
    assert rows(step) == {10: (0, 30), 11: (0, 30)}


def test_batch_has_its_turn_after_all_deep_ones() -> None:
    running = [*streams(3, "batch"), *streams(3, "deep", first=3)]
    step = plan(View(running=running), rules(target_ms=5.0))
    assert list(rows(step)) == [3, 4, 5, 0]


def test_turns_go_round() -> None:
    view = View(running=streams(7, "deep"))
    state, served = PolicyState(), []
    for _ in range(4):
        step, state = decide(view, state, config(rules(target_ms=4.0)))
        served.append(list(rows(step)))
    assert served == [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]


def test_who_had_the_last_turn_may_leave() -> None:
    view = View(running=streams(7, "deep"))
    schedule = config(rules(target_ms=4.0))
    state = decide(view, schedule=schedule)[1]
    view.running = [seq for seq in view.running if seq.seq_id != state.rotor]
    assert list(rows(decide(view, state, schedule)[0])) == [3, 4, 5]


@given(
    num_fast=st.integers(0, 12),
    num_deep=st.integers(1, 20),
    waits=st.lists(st.sampled_from(["", "fast", "doc"]), min_size=1, max_size=12),
    target_ms=st.floats(2.0, 30.0),
)
def test_nobody_has_two_turns_between_two_of_another(
    num_fast: int, num_deep: int, waits: list[str], target_ms: float
) -> None:
    deep = streams(num_deep, "deep", first=num_fast)
    schedule = config(rules(target_ms=target_ms))
    state = PolicyState()
    since: dict[int, dict[int, int]] = {seq.seq_id: {} for seq in deep}
    least, waited = num_deep, dict.fromkeys(since, 0)
    for name in waits * 4:
        waiting = [prompt(99, 50, name)] if name in SERVICE_CLASSES else []
        view = View(running=[*streams(num_fast), *deep], waiting=waiting)
        step, state = decide(view, state, schedule)
        served = [seq_id for seq_id in rows(step) if seq_id in since]
        least = min(least, len(served))
        for other in since:
            waited[other] = 0 if other in served else waited[other] + 1
            for seq_id in served:
                since[other][seq_id] = since[other].get(seq_id, 0) + 1
            assert max(since[other].values()) <= 1 or other in served
        for seq_id in served:
            since[seq_id] = {}
        assert max(waited.values()) < ceil(num_deep / least)


# Prompts.


def test_prompts_of_others_keep_their_share_against_fast_ones() -> None:
    view = View(running=[partial(0, 900, 40)], waiting=[prompt(1, 900), prompt(2, 900)])
    assert rows(plan(view)) == {1: (0, 79), 0: (40, 21)}
    assert rows(plan(view, rules(prompt_share=0.5))) == {1: (0, 49), 0: (40, 51)}
    assert rows(plan(view, rules(prompt_share=0.0)))[1] == (0, 100)


def test_fast_prompts_have_what_others_leave_of_their_share() -> None:
    view = View(running=[partial(0, 45, 40)], waiting=[prompt(1, 900), prompt(2, 900)])
    assert rows(plan(view)) == {1: (0, 79), 0: (40, 5), 2: (0, 16)}


def test_without_others_fast_prompts_have_it_all() -> None:
    assert rows(plan(View(waiting=[prompt(1, 900)]))) == {1: (0, 100)}


def test_a_prompt_half_computed_is_overtaken() -> None:
    view = View(running=[partial(0, 900, 400, "fast", due_s=2.0)], waiting=[prompt(1, 30)])
    assert rows(plan(view)) == {1: (0, 30)}
    assert rows(plan(view, rules(off="split"))) == {1: (0, 30), 0: (400, 70)}
    view = View(
        running=[partial(0, 900, 400, due_s=2.0)], waiting=[prompt(1, 60, "doc", due_s=1.0)]
    )
    assert rows(plan(view)) == {1: (0, 60), 0: (400, 40)}
    view.waiting[0].due_s = 3.0
    assert rows(plan(view)) == {0: (400, 100)}


def test_without_interleaving_it_is_not() -> None:
    view = View(running=[partial(0, 900, 400)], waiting=[prompt(1, 30)])
    assert rows(plan(view, rules(off="interleave"))) == {0: (400, 100)}


def test_the_minimum_is_smaller_where_a_token_is_dear() -> None:
    """Far into a prompt each token looks at very many others."""
    prices = replace(PRICES, ms_per_pair=0.01)
    view = View(running=[*streams(20), partial(30, 900, 800)])
    for min_chunk, count in ((4, 4), (16, 8), (40, 10), (50, 12)):
        step, _ = class_aware(view, PolicyState(), prices, config(min_chunk=min_chunk))
        assert rows(step)[30] == (800, count), "9 ms a token, and 21 for the streams"
    view.running[-1] = partial(30, 900, 1)
    step, _ = class_aware(view, PolicyState(), prices, config(min_chunk=16))
    assert rows(step)[30] == (1, 8), "1 ms a token, and 25 at most"


def test_prompts_move_by_a_minimum_whatever_time_is_left() -> None:
    view = View(running=[*streams(40), partial(50, 900, 40)])
    assert rows(plan(view, rules(target_ms=1.0)))[50] == (40, 4)


def test_only_one_prompt_moves_beyond_the_budget() -> None:
    view = View(running=[*streams(40), partial(50, 900, 40), partial(51, 900, 40)])
    step = plan(view, rules(target_ms=1.0))
    assert (50 in rows(step), 51 in rows(step)) == (True, False)


def test_who_is_due_first_comes_first_in_every_line() -> None:
    for here, others in (("fast", "deep"), ("doc", "doc")):
        waiting = [prompt(i, 10, here, due_s=10.0 - i) for i in range(4)]  # type: ignore[arg-type]
        waiting.append(prompt(9, 10, others, due_s=7.5))  # type: ignore[arg-type]
        assert plan(View(waiting=waiting)).admit == (3, 9, 2, 1, 0)


def test_what_a_deep_one_has_to_compute_is_long_or_short_like_any_prompt() -> None:
    short = prompt(0, 30, "deep", cost_ms=50.0, due_s=1.0)
    long = prompt(1, 30, "deep", cost_ms=51.0, due_s=2.0)
    waiting = [short, long, prompt(2, 30, "doc", due_s=3.0), prompt(3, 30, due_s=4.0)]
    assert plan(View(waiting=waiting)).admit == (0, 3, 1, 2)
    running = [partial(i, 30, 20, "deep", cost_ms=51.0 - i, due_s=0.0) for i in range(2)]
    assert list(rows(plan(View(running=running, waiting=[prompt(3, 70)])))) == [1, 3, 0]


def test_batch_has_what_others_leave() -> None:
    waiting = [prompt(0, 10, "batch"), prompt(1, 95, "doc", due_s=9.0)]
    assert rows(plan(View(waiting=waiting))) == {1: (0, 95), 0: (0, 5)}


def test_batch_that_has_waited_too_long_comes_before_other_classes() -> None:
    waiting = [prompt(0, 10, "batch"), prompt(1, 95, "doc", due_s=9.0)]
    late = View(waiting=waiting, now_s=60.1)
    assert rows(plan(late)) == {0: (0, 10), 1: (0, 90)}


def test_a_choice_waits_for_its_leader() -> None:
    waiting = [prompt(0, 4), prompt(1, 4, is_held=True), prompt(2, 4)]
    assert plan(View(waiting=waiting)).admit == (0, 2)


def test_a_cached_prefix_is_not_computed_again() -> None:
    view = View(waiting=[prompt(0, 90)], hits={0: PrefixHit(80, 20, 20)})
    assert rows(plan(view)) == {0: (80, 10)}


# Those who have waited too long.


def late_classes(max_wait_s: float = 5.0) -> dict[ServiceClass, ClassConfig]:
    return {name: ClassConfig(max_wait_s=max_wait_s) for name in SERVICE_CLASSES}


@pytest.mark.parametrize("name", ["doc", "deep", "batch"])
def test_late_ones_take_a_deep_slot(name: ServiceClass) -> None:
    view = View(running=streams(4, "deep"), waiting=[prompt(9, 4, name)], num_free_slots=0)
    made = rules(classes=late_classes())
    assert plan(view, made).admit == ()
    view.now_s = 5.1
    step = plan(view, made)
    assert (step.park, step.admit) == ((3,), (9,))


def test_a_late_one_comes_before_fast_ones() -> None:
    waiting = [prompt(8, 4), prompt(9, 4, "doc")]
    view = View(running=streams(4), waiting=waiting, num_free_slots=1)
    made = rules(classes=late_classes())
    assert plan(view, made).admit == (8,)
    view.now_s = 5.1
    assert plan(view, made).admit == (9,)


def test_a_late_one_has_no_more_than_its_share_before_fast_ones() -> None:
    view = View(waiting=[prompt(8, 900), prompt(9, 900, "doc")], now_s=5.1)
    assert rows(plan(view, rules(classes=late_classes()))) == {9: (0, 19), 8: (0, 64)}


# Clients.


def test_clients_that_are_ahead_come_behind_others_of_their_class() -> None:
    waiting = [prompt(0, 40), prompt(1, 40), prompt(2, 40, "doc")]
    view = View(waiting=waiting, ahead={0})
    assert plan(view).admit == (1, 0, 2)
    assert plan(view, rules(off="fairness")).admit == (0, 1, 2)


def test_they_do_so_however_many_of_theirs_come_first() -> None:
    waiting = [prompt(i, 4) for i in range(200)] + [prompt(300, 4), prompt(301, 4, "deep")]
    view = View(waiting=waiting, ahead=set(range(200)), num_free_slots=3)
    assert plan(view).admit == (300, 301, 0)


# What a plan says of itself.


def test_a_decision_holds_only_while_nobody_waits_and_all_are_served() -> None:
    deep: list[Seq] = [stream(i, "deep", tokens=10) for i in range(3)]
    assert plan(View(running=deep)).holds_for > 1
    assert plan(View(running=deep), rules(target_ms=3.0)).holds_for == 1
    assert plan(View(running=deep, waiting=[prompt(9, 4)])).holds_for == 1


def test_a_plan_depends_on_its_arguments_alone() -> None:
    running = [*streams(5), *streams(5, "deep", first=5), partial(20, 90, 40)]
    view = View(running=running, waiting=[prompt(30, 9), prompt(31, 70, "doc")])
    assert decide(view) == decide(view)


def test_who_waits_for_a_leader_hides_nobody() -> None:
    held = [prompt(seq_id, 9, is_held=True) for seq_id in range(200)]
    view = View(waiting=[*held, prompt(200, 9)], num_available_blocks=500, num_usable_blocks=500)
    assert plan(view).admit == (200,)
