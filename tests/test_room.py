"""Slots and blocks for newcomers, in views written by hand: who waits, who is parked, who is
evicted. Blocks hold four tokens, and every sequence is granted one token of growth."""

import pytest

from prelude.batcher.class_aware import class_aware
from prelude.batcher.rules import Rules
from prelude.batcher.view import PolicyState, PrefixHit
from prelude.conf.schema import ClassConfig
from prelude.types.plan import Plan
from prelude.types.service import SERVICE_CLASSES, Prediction, ServiceClass
from tests.policies import PRICES, config, partial, prompt, rows, rules, stream, streams
from tests.views import Seq, View


def plan(view: View, made: Rules | None = None, **changes: object) -> Plan:
    made = made or rules(target_ms=500.0)
    return class_aware(view, PolicyState(), PRICES, config(made, **changes))[0]


def roomy(**changes: object) -> Rules:
    """Time is no matter here."""
    return rules(**({"target_ms": 500.0} | changes))  # type: ignore[arg-type]


def idle(name: ServiceClass, seq_id: int, tokens: int = 9) -> Seq:
    """A resident that grows into no new block with its next token."""
    return stream(seq_id, name, tokens=tokens + 1)


# Slots.


def test_a_fast_one_takes_the_slot_of_the_youngest_deep_one() -> None:
    view = View(running=streams(4, "deep"), waiting=[prompt(9, 4)], num_free_slots=0)
    step = plan(view)
    assert (step.park, step.admit, step.preempt) == ((3,), (9,), ())
    assert list(rows(step)) == [0, 1, 2, 9]


def test_batch_goes_before_deep_and_deep_before_documents() -> None:
    running = [stream(0, "batch"), stream(1, "deep"), partial(2, 90, 40), stream(3)]
    for gone in (0, 1, 2):
        view = View(running=running, waiting=[prompt(9, 4)], num_free_slots=0)
        assert plan(view).park == (gone,)
        running = [seq for seq in running if seq.seq_id != gone]
    assert plan(View(running=running, waiting=[prompt(9, 4)], num_free_slots=0)).park == ()


def test_a_free_slot_is_taken_first() -> None:
    waiting = [prompt(8, 4), prompt(9, 4)]
    step = plan(View(running=streams(4, "deep"), waiting=waiting, num_free_slots=1))
    assert (step.park, step.admit) == ((3,), (8, 9))


@pytest.mark.parametrize(
    ("num_fast", "num_deep", "parks"), [(8, 2, 0), (7, 3, 1), (0, 2, 1), (3, 1, 1), (4, 1, 0)]
)
def test_deep_ones_keep_their_share_of_the_slots(num_fast: int, num_deep: int, parks: int) -> None:
    running = [*streams(num_fast), *streams(num_deep, "deep", first=num_fast)]
    view = View(running=running, waiting=[prompt(20, 4)], num_free_slots=0)
    assert len(plan(view).park) == parks


@pytest.mark.parametrize("name", ["doc", "deep", "batch"])
def test_others_take_nobodys_slot(name: ServiceClass) -> None:
    view = View(running=streams(4, "deep"), waiting=[prompt(9, 4, name)], num_free_slots=0)
    assert plan(view).admit == plan(view).park == ()


def test_parking_can_be_switched_off() -> None:
    view = View(running=streams(4, "deep"), waiting=[prompt(9, 4)], num_free_slots=0)
    step = plan(view, roomy(off="park"))
    assert (step.park, step.admit, len(rows(step))) == ((), (), 4)


def test_who_is_parked_goes_on_where_it_stands() -> None:
    parked = stream(0, "deep", tokens=41)
    parked.is_decoding = False
    view = View(waiting=[parked], parked=[parked], hits={0: PrefixHit(40, 10)})
    step = plan(view)
    assert (step.admit, rows(step)) == ((0,), {0: (40, 1)})


def test_who_is_parked_alone_and_lacks_a_block_is_computed_again() -> None:
    parked = stream(0, "deep", tokens=41)
    view = View(
        waiting=[parked], parked=[parked], hits={0: PrefixHit(40, 10)}, num_available_blocks=0
    )
    step = plan(view)
    assert (step.preempt, rows(step)) == ((0,), {})


def test_only_so_many_prompts_of_others_are_half_computed() -> None:
    running = [partial(i, 900, 40) for i in range(4)]
    waiting = [prompt(8, 900, "doc"), prompt(9, 5, "doc", due_s=1.0), prompt(10, 900)]
    made = roomy(idle_ms=700.0)
    step = plan(View(running=running, waiting=waiting), made, max_step_tokens=4000)
    assert step.admit == (10,), "of fast ones there is no limit"
    view = View(running=[partial(i, 60, 40) for i in range(4)], waiting=waiting[:2])
    assert plan(view, made).admit == (9,), "one that is computed whole is no matter"


# Blocks.


def test_what_does_not_fit_does_not_keep_out_what_does() -> None:
    for name in SERVICE_CLASSES:
        waiting = [prompt(i, 100, name) for i in (1, 2)] + [prompt(9, 4, name, due_s=1.0)]
        view = View(running=[stream(0)], waiting=waiting, num_available_blocks=8)
        assert plan(view, roomy(off="evict")).admit == (9,), name


def test_three_that_find_no_room_are_enough_while_others_run() -> None:
    waiting = [prompt(i, 100, "deep") for i in range(1, 4)] + [prompt(9, 4, "deep", due_s=1.0)]
    view = View(running=[idle("fast", 0)], waiting=waiting[1:], num_available_blocks=8)
    assert plan(view).admit == (9,)
    view.waiting = waiting
    assert plan(view).admit == ()
    stuck = Seq(0, 11, 10, 3, service_class="fast", is_held=True)
    view = View(waiting=[*waiting, stuck], parked=[stuck], num_available_blocks=8)
    assert plan(view).admit == (9,), "where nothing else can be done, all are tried"


def test_others_leave_alone_what_a_fast_one_waits_for() -> None:
    waiting = [prompt(8, 100), prompt(9, 4, "doc")]
    view = View(running=[stream(0)], waiting=waiting, num_available_blocks=8)
    assert plan(view, roomy(off="evict")).admit == ()


def test_growth_of_who_runs_is_kept_free() -> None:
    deep = [idle("deep", 0), idle("deep", 1)]
    view = View(running=deep, waiting=[prompt(9, 7, "deep")], num_available_blocks=8)
    assert plan(view, headroom=1).admit == (9,)
    assert plan(view, headroom=16).admit == ()
    view.waiting = [prompt(9, 7)]
    assert plan(view, headroom=16).admit == (9,), "a fast one need not mind the deep ones"
    view.running = [idle("fast", 0), idle("fast", 1)]
    assert plan(view, headroom=16).admit == ()


@pytest.mark.parametrize("name", SERVICE_CLASSES)
def test_only_fast_ones_are_admitted_to_the_reserve(name: ServiceClass) -> None:
    view = View(
        running=[idle("fast", 0)],
        waiting=[prompt(9, 31, name)],
        num_available_blocks=20,
        num_usable_blocks=100,
    )
    assert plan(view, roomy(reserve=0.1)).admit == (9,)
    assert plan(view, roomy(reserve=0.15)).admit == ((9,) if name == "fast" else ())


def test_an_empty_engine_takes_whatever_there_is() -> None:
    made = roomy(reserve=0.9, idle_ms=700.0)
    view = View(waiting=[prompt(9, 300, "batch")], num_available_blocks=80, num_usable_blocks=80)
    assert plan(view, made).admit == (9,)


def test_a_class_may_fill_its_share_of_the_pool_and_no_more() -> None:
    view = View(
        running=[idle("deep", 0, tokens=160)],
        waiting=[prompt(8, 40, "deep", cost_ms=99.0), prompt(9, 40, "doc")],
        num_usable_blocks=100,
    )
    shares: dict[ServiceClass, ClassConfig] = {"deep": ClassConfig(kv_share=0.5)}
    assert plan(view, roomy(classes=shares)).admit == (9,)
    shares = {"deep": ClassConfig(kv_share=0.6)}
    assert plan(view, roomy(classes=shares)).admit == (8, 9)


def test_the_forecast_keeps_out_who_would_not_fit_later() -> None:
    long = Prediction(200.0, 200.0, 1.0)
    running = [idle("deep", 0, tokens=40)]
    running[0].prediction, running[0].num_remaining = long, 300
    newcomer = prompt(9, 40, "deep", prediction=long, num_remaining=300)
    view = View(
        running=running, waiting=[newcomer], num_available_blocks=100, num_usable_blocks=112
    )
    assert plan(view, roomy(quantum=300)).admit == ()
    assert plan(view, roomy(off="forecast", quantum=300)).admit == (9,)
    assert plan(view, roomy(quantum=50)).admit == (9,), "nobody looks further than a quantum"
    newcomer.num_remaining = 20  # ends before the other is long
    assert plan(view, roomy(quantum=300)).admit == (9,)
    assert plan(view, roomy(off="contract", quantum=300)).admit == (), (
        "which only the contract tells"
    )
    newcomer.num_remaining, newcomer.prediction = 300, None
    assert plan(view, roomy(quantum=300)).admit == (9,), (
        "of whom nothing is known, nothing is feared"
    )
    newcomer.prediction, newcomer.service_class = long, "fast"
    assert plan(view, roomy(quantum=300)).admit == (9,), "fast ones are not held up"


# Evictions.


def crowded(*victims: Seq, tokens: int = 20, available: int = 2) -> View:
    """A fast one that lacks blocks. Each victim of ten tokens holds three."""
    return View(running=list(victims), waiting=[prompt(99, tokens)], num_available_blocks=available)


def test_deep_ones_lose_their_blocks_to_a_fast_one() -> None:
    view = crowded(idle("deep", 0), idle("deep", 1), idle("deep", 2))
    view.now_s = 10.0
    step = plan(view)
    assert (step.preempt, step.admit) == ((1, 2)[::-1], ()), "who gains comes with the next step"
    assert list(rows(step)) == [0]


def test_no_more_than_needed_go() -> None:
    view = crowded(idle("deep", 0), idle("deep", 1), idle("deep", 2), tokens=16)
    view.now_s = 10.0
    assert plan(view).preempt == (2,)


def test_nobody_goes_where_it_would_not_help() -> None:
    view = crowded(idle("deep", 0), idle("deep", 1), tokens=60)
    view.now_s = 10.0
    step = plan(view)
    assert step.preempt == ()
    assert set(rows(step)) == {0, 1}


def test_batch_goes_first_and_neither_fast_ones_nor_documents_go() -> None:
    view = crowded(idle("batch", 0), idle("deep", 1), tokens=12)
    view.now_s = 10.0
    assert plan(view).preempt == (0,)
    view = crowded(idle("fast", 0), partial(1, 90, 40), tokens=30)
    view.now_s = 10.0
    assert plan(view).preempt == ()


def test_who_is_parked_may_lose_its_blocks_too() -> None:
    parked = idle("deep", 3)
    parked.is_decoding = False
    view = crowded(idle("deep", 0), tokens=12)
    view.waiting.append(parked)
    view.parked = [parked]
    view.now_s = 10.0
    assert plan(view).preempt == (3,)


def test_a_newcomer_waits_as_long_as_it_costs_others() -> None:
    """Nine tokens each, at 10 ms."""
    view = crowded(idle("deep", 0), idle("deep", 1))
    for victim in view.running:
        victim.token_ms = 10.0
    view.now_s = 0.179
    assert plan(view).preempt == ()
    view.now_s = 0.181
    assert plan(view).preempt == (1, 0)


def test_where_nothing_else_can_be_done_it_waits_no_longer() -> None:
    parked = idle("deep", 3)
    parked.is_decoding, parked.is_held, parked.token_ms = False, True, 1e3
    view = View(waiting=[parked, prompt(9, 20)], parked=[parked], num_available_blocks=3)
    assert plan(view).preempt == (3,)


@pytest.mark.parametrize(
    ("num_output", "num_preemptions", "goes"),
    [
        (0, 0, True),
        (8, 0, True),
        (8, 1, False),
        (15, 1, False),
        (16, 1, True),
        (31, 2, False),
        (33, 2, True),
        (64, 3, True),
        (64, 4, False),
    ],
)
def test_nobody_goes_more_often_than_its_output_doubled(
    num_output: int, num_preemptions: int, goes: bool
) -> None:
    victim = idle("deep", 0)
    victim.num_output, victim.num_preemptions = num_output, num_preemptions
    view = crowded(victim, tokens=12)
    view.now_s = 10.0
    assert plan(view, roomy(quantum=8)).preempt == ((0,) if goes else ())


def test_eviction_can_be_switched_off() -> None:
    view = crowded(idle("deep", 0), idle("deep", 1))
    view.now_s = 10.0
    assert plan(view, roomy(off="evict")).preempt == ()


@pytest.mark.parametrize("name", ["doc", "deep", "batch"])
def test_others_evict_nobody_however_long_they_wait(name: ServiceClass) -> None:
    classes: dict[ServiceClass, ClassConfig] = {name: ClassConfig(max_wait_s=20.0)}
    view = crowded(idle("deep", 0), idle("deep", 1))
    view.waiting[0].service_class = name
    view.now_s = 1000.0
    assert plan(view, roomy(classes=classes)).preempt == ()


def test_what_a_late_one_waits_for_is_kept_from_others_but_not_from_fast_ones() -> None:
    classes: dict[ServiceClass, ClassConfig] = {"doc": ClassConfig(max_wait_s=5.0)}
    waiting = [prompt(7, 100, "doc"), prompt(8, 4, "doc", due_s=1.0)]
    view = View(running=[idle("fast", 0)], waiting=waiting, num_available_blocks=8)
    made = roomy(classes=classes)
    assert plan(view, made).admit == (8,)
    view.now_s = 5.1
    waiting[1].queued_s = 5.0
    assert plan(view, made).admit == ()
    waiting.append(prompt(9, 4))
    assert plan(view, made).admit == (9,)


def test_blocks_that_others_share_are_no_gain() -> None:
    class Shared(View):
        def reclaimable(self, seq: object) -> int:
            return 0

    base = crowded(idle("deep", 0), idle("deep", 1))
    view = Shared(base.running, base.waiting, num_available_blocks=2, now_s=10.0)
    assert plan(view).preempt == ()
