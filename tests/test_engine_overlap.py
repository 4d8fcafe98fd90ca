"""Planning a step while another runs: every answer is the same, nothing that a step under way may
need is touched, and whoever arrives during a step still gets into the next."""

import random
from dataclasses import dataclass
from typing import Any

import pytest

from prelude.engine.core import EngineCore
from prelude.engine.steplog import StepLog
from prelude.types.prices import flat_prices
from prelude.types.request import Request, TokenEvent
from tests.engines import (
    EOS,
    VOCAB,
    CarefulRunner,
    Clock,
    expected,
    make_core,
    moody,
    request,
    run,
    tokens_of,
)


def some_requests(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    shared = [rng.randrange(1, VOCAB) for _ in range(30)]
    made = []
    for uid in range(count):
        prompt = shared[: rng.choice([0, 9, 30])] + [rng.randrange(1, VOCAB) for _ in range(9)]
        params: dict[str, Any] = {
            "n": rng.choice([1, 1, 3]),
            "max_tokens": rng.randint(1, 40),
            "min_tokens": rng.choice([0, 1]),
            "ignore_eos": rng.random() < 0.3,
            "stop_token_ids": rng.choice([(), (24, 25, 26)]),
            "stop": rng.choice([(), ("x",)]),
            "logprobs": rng.choice([None, 1]),
            "prompt_logprobs": rng.choice([None, None, 0]),
        }
        made.append(request(prompt, uid=uid, **params))
    return made


def stories(core: EngineCore, requests: list[Request], seed: int) -> dict[tuple[int, int], Any]:
    """Everything said about each choice, with requests that arrive while others run."""
    rng = random.Random(seed)
    waiting = list(reversed(requests))
    events: list[TokenEvent] = []
    while waiting or core.has_work:
        while waiting and (not core.has_work or rng.random() < 0.4):
            events += core.add(waiting.pop())
        events += core.step()
        core.ledger.check()
    assert core.ledger.pool.num_referenced == core.ledger.num_steps_under_way == 0
    told: dict[tuple[int, int], Any] = {}
    for e in events:
        told.setdefault((e.uid, e.index), []).append(
            (e.token_ids, e.finish_reason, e.stop_reason, e.logprobs, e.prompt_logprobs)
        )
    return told


@pytest.mark.parametrize("num_blocks", [36, 400])
@pytest.mark.parametrize("prefix", [True, False])
def test_overlap_changes_no_answer(num_blocks: int, prefix: bool) -> None:
    requests = some_requests(150, num_blocks)
    plain, overlapped = (
        make_core(num_blocks=num_blocks, prefix=prefix, depth=depth, model=moody)
        for depth in (1, 2)
    )
    told = stories(plain, requests, 1)
    assert stories(overlapped, requests, 2) == told
    assert len(told) == sum(r.params.n for r in requests)
    assert all(sum(bool(event[1]) for event in story) == 1 for story in told.values())
    assert (overlapped.stats().num_preemptions > 0) == (num_blocks == 36)


def test_the_first_turn_fills_the_runner_and_the_last_ones_empty_it() -> None:
    core = make_core(depth=2)
    core.add(request([5, 6, 7], uid=1, max_tokens=3))
    turns = [[event.token_ids for event in core.step()] for _ in range(4)]
    first, second, third = expected([5, 6, 7], 3)
    assert turns == [[], [[first]], [[second]], [[third]]]
    assert not core.has_work


def test_overlap_can_be_switched_off() -> None:
    core = make_core(depth=2, overlap=False)
    core.add(request([5, 6, 7], uid=1, max_tokens=3))
    turns = [[event.token_ids for event in core.step()] for _ in range(3)]
    assert turns == [[[token]] for token in expected([5, 6, 7], 3)]
    assert core.slack_ms == 0.0


def test_a_known_end_is_not_run_past() -> None:
    log = StepLog()
    core = make_core(depth=2, log=log)
    core.add(request([5, 6, 7], uid=1, max_tokens=3))
    run(core)
    assert [x.rows for record in log for x in record.launches] == [
        [(0, 0, 3)],
        [(0, 3, 1)],
        [(0, 4, 1)],
    ]
    assert core.stats().wasted_tokens == 0


def test_an_end_found_late_costs_one_row_whose_token_is_dropped() -> None:
    core = make_core(depth=2, model=lambda ctx: EOS if len(ctx) == 6 else len(ctx))
    core.add(request([1, 2], uid=1, max_tokens=50))
    events: list[TokenEvent] = []
    while not any(event.finish_reason for event in events):
        events += core.step()
    assert tokens_of(events)[1, 0] == [2, 3, 4, 5, EOS]
    pool = core.ledger.pool
    assert (core.ledger.num_running, pool.num_quarantined) == (0, 2)
    assert core.ledger.num_free_slots == 7, "its slot is still in a step under way"
    assert core.has_work
    assert core.step() == []
    assert (core.has_work, pool.num_quarantined, core.ledger.num_free_slots) == (False, 0, 8)
    assert core.stats().wasted_tokens == 1


def test_a_request_aborted_under_way_ends_once_and_leaves_nothing() -> None:
    core = make_core(depth=2)
    core.add(request(list(range(1, 30)), uid=1, n=2, max_tokens=50))
    core.add(request([3], uid=2, max_tokens=5))
    for _ in range(4):
        core.step()
    assert [e.finish_reason for e in core.abort(1)] == ["abort", "abort"]
    core.ledger.check()
    events = run(core)
    assert {event.uid for event in events} == {2}
    assert core.ledger.pool.num_referenced == core.ledger.pool.num_quarantined == 0


def test_a_stop_string_found_under_way_publishes_nothing_past_it() -> None:
    core = make_core(depth=2)
    prompt = [1, 2, 3, 4]
    core.add(request(prompt, uid=1, max_tokens=60, stop=("x",)))
    produced: list[int] = []
    while len(produced) < 17:
        produced += [t for e in core.step() for t in e.token_ids]
    (event,) = core.truncate(1, 0, 9)
    assert event.finish_reason == "stop"
    assert core.stats().wasted_tokens == 8
    core.add(request([*prompt, *produced], uid=2, max_tokens=1))
    assert run(core)[0].num_cached_tokens == 12


def test_nobody_is_evicted_while_a_step_is_under_way() -> None:
    log = StepLog()
    core = make_core(depth=2, num_blocks=34, log=log, max_len=128)
    for uid in range(12):
        core.add(request([uid + 1] * 20, uid=uid, max_tokens=40))
    run(core)
    preempting = [record for record in log if record.preempted]
    assert preempting
    assert core.stats().num_preemptions == sum(len(r.preempted) for r in preempting)


@dataclass(slots=True)
class Planning(CarefulRunner):
    """A runner to which handing over a plan takes 2 ms of the host's time."""

    def submit(self, plan: Any) -> None:
        assert self.clock is not None
        assert isinstance(self.clock, Clock)
        self.clock.sleep_ms(2.0)
        CarefulRunner.submit(self, plan)


def _waits_ms(depth: int, *, patient: bool) -> tuple[list[float], float]:
    """Arrivals at random moments beside a stream that never ends, served as the engine loop does;
    how long each waited for the end of a step that includes it, and how long steps are apart."""
    clock, rng = Clock(), random.Random(3)
    prices = flat_prices(20.0, 0.0)
    runner = Planning(
        num_blocks=600, max_len=4096, sleep=clock.sleep_ms, clock=clock, depth=depth, prices=prices
    )
    log = StepLog(keep=10_000)
    core = make_core(runner=runner, clock=clock, max_len=4096, log=log)
    core.add(request([1], uid=0, max_tokens=4000))
    arrivals = [clock() + 1.0 + i * 0.0237 + rng.random() * 0.02 for i in range(600)]
    begun_s, waits_ms = clock(), list[float]()
    while len(waits_ms) < 600:
        due_s = clock() + max(core.slack_ms, 0.0) / 1e3 if patient else clock()
        while arrivals and arrivals[0] <= due_s:
            clock.now_s = max(clock.now_s, arrivals[0])
            wanted = Request(
                uid=1000 - len(arrivals),
                prompt_ids=[2, 3],
                params=request([2], max_tokens=1).params,
                arrival_s=arrivals.pop(0),
            )
            assert core.add(wanted) == []
        clock.now_s = max(clock.now_s, due_s)
        ended = [e.timings for e in core.step() if e.uid and e.timings]
        waits_ms += [timings.queue_ms + timings.prefill_ms for timings in ended]
    return waits_ms, (clock() - begun_s) * 1e3 / core.stats().num_steps


def test_who_arrives_during_a_step_gets_into_the_next() -> None:
    plain, plain_ms = _waits_ms(1, patient=True)
    late, late_ms = _waits_ms(2, patient=True)
    early, early_ms = _waits_ms(2, patient=False)
    assert plain_ms == pytest.approx(22.0, abs=0.1)
    assert [late_ms, early_ms] == pytest.approx([20.0, 20.0], abs=0.1), "planning is hidden"
    assert sum(late) <= sum(plain)
    assert max(late) <= max(plain)
    assert sum(early) > 1.3 * sum(plain)
