"""Orders given from outside, over views written by hand and in whole engines."""

import msgspec
import pytest

from prelude.batcher.priority import priority, srpt_oracle
from prelude.batcher.view import PolicyState
from prelude.conf.schema import Policy
from prelude.types.plan import Plan
from prelude.types.request import Request, SamplingParams
from prelude.types.service import Hints
from tests.engines import Clock, make_core, request, run
from tests.policies import PRICES, config, partial, prompt, rows, stream
from tests.views import Seq, View


def important(seq: Seq, rank: int) -> Seq:
    """The smaller, the more."""
    seq.request = Request(
        uid=0, prompt_ids=[1], params=SamplingParams(temperature=0), hints=Hints(priority=rank)
    )
    return seq


def by_priority(view: View, **changes: float) -> Plan:
    return priority(view, PolicyState(), PRICES, config(None, **changes))[0]


def by_length(view: View, **changes: float) -> Plan:
    return srpt_oracle(view, PolicyState(), PRICES, config(None, **changes))[0]


# Priority.


def test_the_more_important_comes_first_and_equals_by_age() -> None:
    waiting = [important(prompt(i, 4), rank) for i, rank in enumerate((0, 2, -1, 0))]
    assert by_priority(View(waiting=waiting)).admit == (2, 0, 3, 1)


def test_decodes_come_before_prompts() -> None:
    view = View(running=[important(stream(0), 5)], waiting=[important(prompt(1, 400), -5)])
    assert rows(by_priority(view)) == {0: (8, 1), 1: (0, 19)}


def test_a_resident_prompt_is_overtaken_by_a_more_important_one() -> None:
    view = View(running=[important(partial(0, 400, 40), 1)], waiting=[important(prompt(1, 30), 0)])
    assert rows(by_priority(view)) == {1: (0, 30), 0: (40, 70)}
    important(view.running[0], -1)
    assert rows(by_priority(view)) == {0: (40, 100)}


@pytest.mark.parametrize(("rank", "goes"), [(0, True), (1, False), (2, False)])
def test_the_least_important_makes_room_for_who_is_more_so(rank: int, goes: bool) -> None:
    running = [important(stream(0, tokens=10), 0), important(stream(1, tokens=10), 1)]
    waiting = [important(prompt(9, 4), rank)]
    for view in (
        View(running=running, waiting=waiting, num_free_slots=0),
        View(running=running, waiting=waiting, num_available_blocks=1),
    ):
        step = by_priority(view)
        assert step.preempt == ((1,) if goes else ())
        assert step.admit == (), "what it leaves is there from the next step on"
        assert set(rows(step)) == ({0} if goes else {0, 1})


def test_equals_keep_what_they_have_though_an_older_one_waits() -> None:
    view = View(running=[stream(5), stream(6)], waiting=[prompt(1, 4)], num_free_slots=0)
    assert by_priority(view).preempt == ()


def test_who_does_not_fit_is_not_overtaken_by_less_important_ones() -> None:
    waiting = [important(prompt(0, 400), 0), important(prompt(1, 4), 1)]
    view = View(running=[important(stream(9), -1)], waiting=waiting, num_available_blocks=8)
    assert by_priority(view).admit == ()


def test_prompts_move_by_a_minimum_and_choices_wait_for_their_leader() -> None:
    view = View(running=[stream(i) for i in range(30)], waiting=[prompt(40, 400)])
    assert rows(by_priority(view, step_ms=3.0))[40] == (0, 4)
    assert by_priority(View(waiting=[prompt(0, 4, is_held=True), prompt(1, 4)])).admit == (1,)


def test_the_same_plan_holds_while_nobody_waits() -> None:
    running = [stream(0, tokens=10)]
    assert by_priority(View(running=running)).holds_for > 1
    assert by_priority(View(running=running, waiting=[prompt(1, 400)])).holds_for == 1


def test_an_engine_serves_by_priority() -> None:
    core = make_core(policy=Policy.priority, max_seqs=1, clock=Clock())
    for uid, rank in enumerate((1, 1, 0, 2)):
        made = request([uid + 1, 5], uid=uid, max_tokens=3)
        core.add(msgspec.structs.replace(made, hints=Hints(priority=rank)))
    assert [e.uid for e in run(core) if e.finish_reason] == [2, 0, 1, 3]


# The oracle.


def test_what_has_least_left_comes_first() -> None:
    waiting = [prompt(i, 4, num_remaining=left) for i, left in enumerate((30, 10, 20))]
    assert by_length(View(waiting=waiting)).admit == (1, 2, 0)


def test_prompts_count_by_their_price() -> None:
    waiting = [
        prompt(0, 400, num_remaining=5, token_ms=1.0),
        prompt(1, 40, num_remaining=5, token_ms=1.0),
        prompt(2, 4, num_remaining=80, token_ms=1.0),  # a decode step is 2 ms
    ]
    assert list(rows(by_length(View(waiting=waiting), idle_step_ms=999.0))) == [1, 2, 0]


def test_who_has_most_left_gives_up_its_slot_and_no_more() -> None:
    running = [stream(0, num_remaining=50), stream(1, num_remaining=90)]
    view = View(running=running, waiting=[prompt(9, 4, num_remaining=60)], num_free_slots=0)
    step = by_length(view)
    assert (step.park, step.preempt, step.admit) == ((1,), (), (9,))
    view.waiting = [prompt(9, 4, num_remaining=95)]
    assert by_length(view).park == ()


def test_shortest_first_has_the_least_mean_time() -> None:
    """Where everybody is there from the beginning and one runs at a time."""
    means = {}
    for policy in (Policy.fcfs, Policy.class_aware, Policy.srpt_oracle):
        clock = Clock()
        core = make_core(policy=policy, max_seqs=1, clock=clock, num_blocks=200, probation_ms=5.0)
        for uid, length in enumerate((40, 3, 17, 8, 30, 1)):
            core.add(request([uid + 1], uid=uid, max_tokens=length))
        ends = []
        while core.has_work:
            ends += [clock() for event in core.step() if event.finish_reason]
        means[policy] = sum(ends) / len(ends)
    assert means[Policy.srpt_oracle] < means[Policy.class_aware] < means[Policy.fcfs]
