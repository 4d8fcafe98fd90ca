"""Who is let in, who is refused and told why, who expires: on a whole engine, on a clock that only
steps move."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.batcher.predictor import Predictor
from prelude.conf.schema import ClassConfig, ClassesConfig, Policy
from prelude.engine.core import EngineCore
from prelude.types.errors import REFUSAL_CODES, Refusal, RefusalCode
from prelude.types.request import Request, SamplingParams, TokenEvent
from prelude.types.service import Hints, Prediction
from tests.engines import Clock, make_core, moody, run


def ask(
    uid: int = 0, *, num_prompt: int = 4, arrival_s: float = 0.0, n: int = 1, **hints: Any
) -> Request:
    params: dict[str, Any] = {
        name: hints.pop(name) for name in ("max_tokens", "ignore_eos") if name in hints
    }
    params = {"temperature": 0, "max_tokens": 4, "n": n} | params
    return Request(
        uid=uid,
        prompt_ids=[1 + uid % 9] * num_prompt,
        params=SamplingParams(**params),
        arrival_s=arrival_s,
        hints=Hints(**hints),
    )


def limited(**limits: int) -> ClassesConfig:
    return ClassesConfig(**{name: ClassConfig(max_waiting=most) for name, most in limits.items()})


def the_refusal(events: list[TokenEvent]) -> Refusal:
    assert {event.finish_reason for event in events} == {"error"}
    assert len({event.refusal for event in events}) == 1
    assert events[0].refusal is not None
    assert events[0].error == str(events[0].refusal)
    return events[0].refusal


def counts(core: EngineCore) -> dict[RefusalCode, int]:
    found = dict(zip(REFUSAL_CODES, core.stats().refused, strict=True))
    return {code: num for code, num in found.items() if num}


def test_a_full_queue_refuses_with_the_wait_of_who_comes_last() -> None:
    core = make_core(max_waiting=2, max_seqs=1)
    assert not core.add(ask(1, num_prompt=60))
    assert not core.add(ask(2, num_prompt=60))
    refusal = the_refusal(core.add(ask(3)))
    assert (refusal.code, refusal.num_waiting) == ("queue_full", 2)
    assert refusal.retry_after_s > 0.0
    assert counts(core) == {"queue_full": 1}
    run(core)
    assert not core.add(ask(4))


def test_a_request_refused_leaves_no_trace() -> None:
    core = make_core(max_waiting=1, classes=limited(batch=1))
    core.add(ask(1))
    for uid in (2, 3):
        hints: dict[str, Any] = {"service_class": "batch"} if uid == 3 else {}
        the_refusal(core.add(ask(uid, client=f"client {uid}", **hints)))
        assert core.ledger.group(uid) == []
    assert core.ledger.fairness.num_clients == 1
    run(core)
    assert not core.has_work
    core.ledger.check()


def test_a_class_has_a_queue_of_its_own() -> None:
    core = make_core(classes=limited(batch=2), max_seqs=1)
    for uid in range(2):
        assert not core.add(ask(uid, service_class="batch"))
    refusal = the_refusal(core.add(ask(2, service_class="batch")))
    assert (refusal.code, refusal.service_class, refusal.num_waiting) == ("class_full", "batch", 2)
    assert not core.add(ask(3))
    run(core)
    assert counts(core) == {"class_full": 1}


def test_more_choices_than_may_ever_wait_can_never_be_served() -> None:
    core = make_core(max_waiting=3, classes=limited(batch=2))
    for request in (ask(1, n=4), ask(2, n=3, service_class="batch")):
        events = core.add(request)
        assert len(events) == request.params.n
        assert all(event.refusal is None for event in events)
        assert str(events[0].error).startswith("n: at most")
    assert counts(core) == {}


def test_a_first_token_that_would_be_late_is_refused_at_once() -> None:
    core = make_core()
    for uid in range(4):
        assert not core.add(ask(uid, num_prompt=100))
    refusal = the_refusal(core.add(ask(9, ttft_deadline_ms=2.0)))
    assert (refusal.code, refusal.limit_ms) == ("ttft_infeasible", 2.0)
    assert refusal.estimate_ms > 2.0
    assert refusal.retry_after_s == pytest.approx(refusal.estimate_ms / 1e3, rel=0.5)
    assert not core.add(ask(10, ttft_deadline_ms=1000.0))
    run(core)
    assert counts(core) == {"ttft_infeasible": 1}


def test_time_lost_on_the_way_counts() -> None:
    clock = Clock()
    core = make_core(clock=clock)
    sent_s = clock.now_s - 0.3
    late = ask(1, arrival_s=sent_s, ttft_deadline_ms=250.0)
    assert the_refusal(core.add(late)).code == "ttft_infeasible"
    assert not core.add(ask(2, arrival_s=sent_s, ttft_deadline_ms=350.0))


def test_a_clock_ahead_of_ours_gives_nobody_more_time() -> None:
    clock = Clock()
    core = make_core(clock=clock)
    core.add(ask(1, arrival_s=clock.now_s + 500.0, deadline_ms=100.0))
    clock.sleep_ms(150.0)
    assert the_refusal(core.step()).code == "deadline_expired"


@pytest.mark.parametrize(
    ("num_tokens", "is_refused"), [({"max_tokens": 100}, False), ({"max_tokens": 400}, True)]
)
def test_a_whole_answer_that_would_be_late(num_tokens: dict[str, int], is_refused: bool) -> None:
    core = make_core(max_len=500, num_blocks=200)
    core.add(ask(1, max_tokens=400, ignore_eos=True))
    for _ in range(3):
        core.step()
    decode_ms = core.stats().step_ms
    events = core.add(ask(2, ignore_eos=True, deadline_ms=200 * decode_ms, **num_tokens))
    assert bool(events) == is_refused
    if is_refused:
        refusal = the_refusal(events)
        assert refusal.code == "deadline_infeasible"
        assert refusal.estimate_ms == pytest.approx(400 * decode_ms, rel=0.2)


def test_an_answer_of_unknown_length_gets_a_chance_and_a_foreseen_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    foreseen = Prediction(2.0, 9.0, 0.0)
    monkeypatch.setattr(Predictor, "predict", lambda *_, **__: foreseen)
    core = make_core(max_len=500, num_blocks=200, policy=Policy.class_aware)
    core.add(ask(1, max_tokens=400, ignore_eos=True))
    for _ in range(3):
        core.step()
    limit_ms = 50 * core.stats().step_ms
    assert not core.add(ask(2, max_tokens=400, deadline_ms=limit_ms))
    foreseen = Prediction(200.0, 400.0, 1.0)
    refusal = the_refusal(core.add(ask(3, max_tokens=400, deadline_ms=limit_ms)))
    assert refusal.code == "deadline_infeasible"


def test_batch_is_never_refused_for_the_time_it_waits() -> None:
    core = make_core(max_seqs=1)
    for uid in range(4):
        core.add(ask(uid, num_prompt=100))
    assert not core.add(ask(9, service_class="batch", ttft_deadline_ms=0.001))
    run(core)
    assert counts(core) == {"ttft_expired": 1}


def test_who_expires_while_it_waits_never_runs() -> None:
    core = make_core(max_seqs=1)
    core.add(ask(1, num_prompt=20, max_tokens=30, ignore_eos=True))
    core.step()
    core.add(ask(2, n=2, service_class="batch", ttft_deadline_ms=5.0))
    events = [event for event in run(core) if event.uid == 2]
    assert [event.index for event in events] == [0, 1]
    assert the_refusal(events).code == "ttft_expired"
    assert all(not event.token_ids for event in events)
    rows = [row[0] for record in core.log for part in record.launches for row in part.rows]
    assert set(rows) == {0}
    assert counts(core) == {"ttft_expired": 2}
    assert core.stats().wasted_tokens == 0


@pytest.mark.parametrize("depth", [1, 2])
def test_who_expires_while_it_runs_is_ended_and_frees_everything(depth: int) -> None:
    core = make_core(depth=depth)
    core.add(ask(1, max_tokens=100, ignore_eos=True, service_class="batch", deadline_ms=20.0))
    core.add(ask(2, max_tokens=100, ignore_eos=True))
    events = run(core)
    last = [event for event in events if event.uid == 1][-1]
    assert the_refusal([last]).code == "deadline_expired"
    num_output = sum(len(event.token_ids) for event in events if event.uid == 1)
    assert 0 < num_output < 100
    stats = core.stats()
    assert num_output <= stats.wasted_tokens <= num_output + depth - 1
    assert sum(len(event.token_ids) for event in events if event.uid == 2) == 100
    assert stats.num_blocks_referenced == 0


def test_prompts_begun_are_computed_though_their_first_token_is_late() -> None:
    core = make_core()
    core.add(ask(1, num_prompt=100, service_class="batch", ttft_deadline_ms=1.5))
    events = run(core)
    assert sum(len(event.token_ids) for event in events) == 4
    assert counts(core) == {}


def test_waits_are_foretold_better_with_time() -> None:
    """A slot is held for twice as long as a step: at first nobody knows that. Who is refused comes
    one place behind the last."""
    core = make_core(max_seqs=1, probation_ms=2.0, policy=Policy.fcfs)
    uid = 0
    errors = []
    for _ in range(30):
        for _ in range(4):
            core.add(ask(uid := uid + 1, max_tokens=100, ignore_eos=True))
            seq = core.ledger.group(uid)[0]
        refusal = the_refusal(core.add(ask(uid + 100_000, ttft_deadline_ms=1e-3)))
        run(core)
        assert seq.first_token_s is not None
        errors.append(refusal.retry_after_s / (seq.first_token_s - seq.arrival_s))
    assert errors[0] < 0.8
    assert errors[-1] == pytest.approx(4 / 3, rel=0.2)


def test_an_idle_engine_serves_what_it_refused_under_load() -> None:
    """Whatever it has learned of waiting, there is none now."""
    core = make_core(max_seqs=1)
    for uid in range(20):
        core.add(ask(uid, max_tokens=60, ignore_eos=True))
    assert core.add(ask(100, ttft_deadline_ms=20.0))
    run(core)
    assert not core.add(ask(101, ttft_deadline_ms=20.0))


_HINTS = st.fixed_dictionaries(
    {},
    optional={
        "service_class": st.sampled_from(["fast", "deep", "doc", "batch"]),
        "client": st.sampled_from("abc"),
        "ttft_deadline_ms": st.floats(0.1, 60.0),
        "deadline_ms": st.floats(0.1, 120.0),
    },
)
_JOB = st.tuples(_HINTS, st.integers(1, 60), st.integers(1, 30), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(
    jobs=st.lists(_JOB, min_size=1, max_size=25),
    seed=st.integers(0, 2**16),
    policy=st.sampled_from([Policy.fcfs, Policy.class_aware]),
    depth=st.integers(1, 2),
    max_waiting=st.integers(1, 20),
    class_limit=st.integers(1, 6),
)
def test_every_choice_ends_exactly_once_and_all_is_counted(
    jobs: list[tuple[dict[str, Any], int, int, int]],
    seed: int,
    policy: Policy,
    depth: int,
    max_waiting: int,
    class_limit: int,
) -> None:
    rng = random.Random(seed)
    limits = limited(fast=class_limit, deep=class_limit, doc=class_limit, batch=class_limit)
    core = make_core(
        num_blocks=40,
        max_len=100,
        max_seqs=3,
        depth=depth,
        model=moody,
        policy=policy,
        max_waiting=max_waiting,
        classes=limits,
    )
    events: list[TokenEvent] = []
    for uid, (hints, num_prompt, max_tokens, n) in enumerate(jobs):
        events += core.add(ask(uid, num_prompt=num_prompt, max_tokens=max_tokens, n=n, **hints))
        assert core.ledger.num_waiting <= max_waiting + 3 * depth  # and who was preempted
        for _ in range(rng.randrange(4)):
            events += core.step()
        if rng.random() < 0.1:
            events += core.abort(rng.randrange(uid + 1))
        if rng.random() < 0.1:
            events += core.truncate(rng.randrange(uid + 1), 0, 1)
    events += run(core)
    ends = Counter((event.uid, event.index) for event in events if event.finish_reason)
    choices = [(uid, index) for uid, job in enumerate(jobs) for index in range(job[3])]
    assert ends == Counter(choices)
    refusals = [event.refusal for event in events if event.refusal]
    expired = [refusal.code for refusal in refusals if refusal.is_expired]
    refused = {event.uid: event.refusal for event in events if event.refusal}
    codes = [one.code for one in refused.values() if not one.is_expired]
    assert counts(core) == Counter(expired + codes)
    assert core.stats().num_blocks_referenced == 0


def test_what_costs_too_much_of_the_device_is_never_let_in() -> None:
    core = make_core()
    events = core.add(ask(1, max_tokens=100, ignore_eos=True, n=2, max_cost_ms=50.0))
    assert {event.refusal for event in events} == {None}
    assert str(events[0].error).startswith("max_tokens: this would take about ")
    assert not core.has_work
    assert not core.add(ask(2, max_tokens=100, ignore_eos=True, n=2, max_cost_ms=5000.0))
    assert not core.add(ask(3, max_tokens=1, max_cost_ms=50.0))
    run(core)
    assert counts(core) == {}


def test_an_answer_costs_what_is_foreseen_or_else_its_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = make_core(policy=Policy.fcfs)
    assert str(core.add(ask(1, max_tokens=200, max_cost_ms=60.0))[0].error).startswith("max_tokens")
    core = make_core(policy=Policy.class_aware)
    foreseen = Prediction(2.0, 4.0, 0.0)
    monkeypatch.setattr(Predictor, "predict", lambda *_, **__: foreseen)
    assert not core.add(ask(1, max_tokens=200, max_cost_ms=60.0))
