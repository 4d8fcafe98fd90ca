"""The engine step over the fake runner: every answer is what the model says, whatever memory,
budgets and neighbours do to it, and every block and slot comes home."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.batcher.rules import budgets
from prelude.conf.schema import BatcherConfig, Policy
from prelude.engine.steplog import StepLog
from prelude.runner.fake import FakeRunner
from prelude.types.plan import BucketKey, Launch, Row
from prelude.types.prices import Sums, flat_prices
from prelude.types.request import Request, TokenEvent
from tests.engines import EOS, VOCAB, Clock, expected, make_core, moody, request, run, tokens_of


def prompts(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, VOCAB) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def test_one_prompt_is_continued_to_its_limit() -> None:
    core = make_core()
    prompt = [5, 6, 7]
    core.add(request(prompt, uid=1, max_tokens=9))
    events = run(core)
    assert tokens_of(events) == {(1, 0): expected(prompt, 9)}
    assert [e.finish_reason for e in events] == [None] * 8 + ["length"]
    assert core.ledger.pool.num_referenced == 0


def test_without_max_tokens_the_context_is_filled() -> None:
    core = make_core(max_len=20)
    core.add(request([1, 2, 3], uid=1))
    events = run(core)
    assert len(tokens_of(events)[1, 0]) == 17
    assert events[-1].finish_reason == "length"


def test_eos_ends_a_sequence_and_is_reported() -> None:
    clock = Clock()
    runner = FakeRunner(
        block_size=4,
        max_len=128,
        vocab_size=VOCAB,
        model=lambda ctx: EOS if len(ctx) == 6 else len(ctx),
    )
    core = make_core(runner=runner, clock=clock)
    core.add(request([1, 2], uid=1, max_tokens=50))
    events = run(core)
    assert tokens_of(events)[1, 0] == [2, 3, 4, 5, EOS]
    assert (events[-1].finish_reason, events[-1].stop_reason) == ("stop", EOS)


def test_ignored_eos_and_stop_token_ids() -> None:
    runner = FakeRunner(
        block_size=4,
        max_len=128,
        vocab_size=VOCAB,
        model=lambda ctx: EOS if len(ctx) == 6 else len(ctx),
    )
    core = make_core(runner=runner)
    core.add(request([1, 2], uid=1, max_tokens=50, ignore_eos=True, stop_token_ids=(9,)))
    events = run(core)
    assert tokens_of(events)[1, 0] == [2, 3, 4, 5, EOS, 7, 8, 9]
    assert (events[-1].finish_reason, events[-1].stop_reason) == ("stop", 9)


def test_min_tokens_keeps_a_sequence_going_past_its_eos() -> None:
    runner = FakeRunner(block_size=4, max_len=128, vocab_size=VOCAB, model=lambda ctx: EOS)
    core = make_core(runner=runner)
    core.add(request([1, 2], uid=1, max_tokens=50, min_tokens=5))
    assert len(tokens_of(run(core))[1, 0]) == 5


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("mix", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
def test_many_prompts_in_little_memory_all_get_their_own_answer(
    prefix: bool, mix: bool, depth: int
) -> None:
    core = make_core(num_blocks=34, prefix=prefix, depth=depth)
    core._schedule = core._schedule.__class__(
        **{f: getattr(core._schedule, f) for f in core._schedule.__slots__} | {"mix": mix}
    )
    asked = prompts(40, 60)
    for uid, prompt in enumerate(asked):
        core.add(request(prompt, uid=uid, max_tokens=30))
    answers = tokens_of(run(core))
    assert core.stats().num_preemptions > 0
    assert answers == {(uid, 0): expected(p, 30) for uid, p in enumerate(asked)}


def test_equal_prompts_share_their_prefix() -> None:
    core = make_core()
    prompt = list(range(1, 42))
    core.add(request(prompt, uid=1, max_tokens=4))
    run(core)
    core.add(request(prompt, uid=2, max_tokens=4))
    events = run(core)
    assert events[0].num_cached_tokens == 40
    assert tokens_of(events)[2, 0] == expected(prompt, 4)
    assert core.stats().cached_prompt_tokens == 40


def test_tenants_do_not_share() -> None:
    core = make_core()
    prompt = list(range(1, 42))
    core.add(request(prompt, uid=1, max_tokens=1, salt="a"))
    run(core)
    core.add(request(prompt, uid=2, max_tokens=1, salt="b"))
    assert run(core)[0].num_cached_tokens == 0


def test_an_answer_is_part_of_the_next_turns_prefix() -> None:
    core = make_core()
    first = list(range(1, 18))
    core.add(request(first, uid=1, max_tokens=16))
    answer = tokens_of(run(core))[1, 0]
    core.add(request([*first, *answer, 7, 8, 9], uid=2, max_tokens=2))
    assert run(core)[0].num_cached_tokens == 32


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("prefix", [True, False])
def test_choices_share_the_prompt_blocks(prefix: bool, depth: int) -> None:
    core = make_core(num_blocks=64, prefix=prefix, depth=depth)
    prompt = list(range(1, 42))
    core.add(request(prompt, uid=1, max_tokens=6, n=4))
    most = 0
    events: list[TokenEvent] = []
    while core.has_work:
        events += core.step()
        most = max(most, core.ledger.pool.num_referenced)
        core.ledger.check()
    assert tokens_of(events) == {(1, i): expected(prompt, 6) for i in range(4)}
    assert most <= 10 + 4 * 2  # ten shared blocks of four tokens, two of its own for each choice


def test_choices_that_sample_have_seeds_of_their_own() -> None:
    core = make_core()
    group = core.ledger.make(request([1, 2, 3], n=3, seed=11))
    assert len({seq.seed for seq in group}) == 3
    again = core.ledger.make(request([1, 2, 3], n=3, seed=11))
    assert [seq.seed for seq in group] == [seq.seed for seq in again]


def test_requests_that_can_never_be_served_end_at_once() -> None:
    core = make_core(max_len=32)
    cases = [
        (request([], uid=1), "at least one token"),
        (request(list(range(1, 33)), uid=2), "32 tokens leave no room"),
        (request([VOCAB], uid=3), f"between 0 and {VOCAB - 1}"),
        (request([1], uid=4, stop_token_ids=(VOCAB,)), "stop_token_ids"),
        (request([1], uid=5, min_tokens=1, stop_token_ids=(1,) * 49), "stop_token_ids"),
        (request([1], uid=5, logit_bias={VOCAB: 1.0}), "logit_bias"),
        (request([1], uid=6, allowed_token_ids=(-1,)), "allowed_token_ids"),
    ]
    for bad, message in cases:
        (event,) = core.add(bad)
        assert event.finish_reason == "error"
        assert message in str(event.error)
    assert not core.has_work


def test_a_full_queue_refuses_every_choice() -> None:
    core = make_core(max_waiting=3)
    assert core.add(request([1], n=3)) == []
    events = core.add(request([1], n=2))
    assert [e.finish_reason for e in events] == ["error", "error"]
    assert str(events[0].error).startswith("overloaded: 3")
    run(core)


def test_abort_frees_everything_at_once() -> None:
    core = make_core()
    core.add(request(list(range(1, 60)), uid=1, n=2, max_tokens=50))
    core.add(request([3], uid=2, max_tokens=5))
    for _ in range(4):
        core.step()
    events = core.abort(1)
    assert [e.finish_reason for e in events] == ["abort", "abort"]
    core.ledger.check()
    assert core.abort(1) == []
    assert tokens_of(run(core))[2, 0]
    assert core.ledger.pool.num_referenced == 0


def test_truncate_ends_a_choice_and_publishes_nothing_past_it() -> None:
    core = make_core()
    prompt = [1, 2, 3, 4]
    core.add(request(prompt, uid=1, max_tokens=60, stop=("x",)))
    produced: list[int] = []
    while len(produced) < 17:
        produced += [t for e in core.step() for t in e.token_ids]
    (event,) = core.truncate(1, 0, 9)
    assert event.finish_reason == "stop"
    assert core.stats().wasted_tokens == 8
    assert core.truncate(1, 0, 9) == []
    core.ledger.check()
    core.add(request([*prompt, *produced], uid=2, max_tokens=1))
    assert run(core)[0].num_cached_tokens == 12  # 4 prompt tokens and 9 kept ones, full blocks


def test_timings_add_up() -> None:
    clock = Clock()
    core = make_core(clock=clock)
    core.add(
        Request(
            uid=1,
            prompt_ids=[1, 2],
            params=request([1], max_tokens=4).params,
            arrival_s=clock.now_s - 1.0,
        )
    )
    timings = run(core)[-1].timings
    assert timings is not None
    assert timings.queue_ms == pytest.approx(1000.0)
    assert timings.prefill_ms > 0
    assert timings.decode_ms > 0


def test_the_step_log_tells_what_happened() -> None:
    core = make_core(num_blocks=34)
    for uid, prompt in enumerate(prompts(12, 50)):
        core.add(request(prompt, uid=uid, max_tokens=20))
    run(core)
    records = list(core.log)
    assert [r.step for r in records] == list(range(1, len(records) + 1))
    assert sum(len(r.admitted) for r in records) == 12 + sum(len(r.preempted) for r in records)
    assert all(r.launches[0].price_ms > 0 for r in records)


def test_prices_follow_what_steps_really_take() -> None:
    clock = Clock()
    core = make_core(clock=clock)
    one = Sums(1, 1, ctx=1, sampled=1)
    before = core.profile.prices.table.step_ms(one)
    launch = Launch(BucketKey("decode", 1, 1), (Row(0, 0, 0, 1),), before)
    core.profile.prices.observe(launch, 3 * before)
    assert before < core.profile.prices.table.step_ms(one) < 3 * before


def test_step_budgets_follow_from_the_price_of_a_decode() -> None:
    slow, quick = flat_prices(79.0, 1.0), flat_prices(1.0)
    assert budgets(BatcherConfig(), slow) == pytest.approx((240.0, 2400.0))
    assert budgets(BatcherConfig(), quick) == (50.0, 500.0)
    assert budgets(BatcherConfig(step_ms=30.0), slow) == (30.0, 300.0)
    assert budgets(BatcherConfig(step_ms=30.0, idle_step_ms=40.0), slow) == (30.0, 40.0)


@pytest.mark.parametrize(("prompt_len", "output_len"), [(400, 200), (40, 400)])
def test_under_pressure_little_is_computed_twice(prompt_len: int, output_len: int) -> None:
    log = StepLog(keep=100_000)
    core = make_core(
        num_blocks=250,
        max_len=640,
        max_seqs=64,
        log=log,
        headroom=64,
        max_step_tokens=512,
        policy=Policy.fcfs,
    )
    for uid in range(24):
        core.add(request([uid + 1] * prompt_len, uid=uid, max_tokens=output_len, ignore_eos=True))
    run(core, check=False)
    computed = sum(count for record in log for x in record.launches for _, _, count in x.rows)
    assert computed < 1.7 * 24 * (prompt_len + output_len)


def test_choices_count_once_in_the_prefix_statistics() -> None:
    core = make_core()
    core.add(request(list(range(1, 42)), uid=1, max_tokens=2, n=4))
    run(core)
    assert core.stats().cached_prompt_tokens == 0


def test_more_choices_than_may_ever_wait_are_refused_for_good() -> None:
    (event, *_) = make_core(max_waiting=3).add(request([1], n=4))
    assert str(event.error).startswith("n: at most 3")


@given(st.data())
@settings(max_examples=25)
def test_any_mix_of_arrivals_aborts_and_stops_loses_nothing(data: st.DataObject) -> None:
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    core = make_core(
        num_blocks=rng.choice([34, 48, 80]),
        max_seqs=rng.choice([1, 3, 8]),
        depth=rng.choice([1, 2]),
        model=moody,
    )
    finished = _storm(core, rng, 80)
    assert all(count == 1 for count in finished.values())
    assert core.ledger.pool.num_referenced == 0


@pytest.mark.parametrize("depth", [1, 2])
def test_ten_thousand_events_lose_no_block_and_no_slot(depth: int) -> None:
    rng = random.Random(7)
    core = make_core(num_blocks=40, max_seqs=6, depth=depth, model=moody)
    finished = _storm(core, rng, 10_000)
    assert all(count == 1 for count in finished.values())
    assert core.stats().num_preemptions > 150
    assert core.ledger.pool.num_referenced == 0
    assert core.ledger.num_free_slots == 6


def _storm(core: object, rng: random.Random, num_events: int) -> dict[tuple[int, int], int]:
    """Random arrivals, aborts, truncations and steps. Returns how often each choice ended, and
    checks every answer on the way."""
    from prelude.engine.core import EngineCore

    assert isinstance(core, EngineCore)
    asked: dict[int, Request] = {}
    answers: dict[tuple[int, int], list[int]] = {}
    finished: dict[tuple[int, int], int] = {}

    def note(events: list[TokenEvent]) -> None:
        for event in events:
            key = (event.uid, event.index)
            answers.setdefault(key, []).extend(event.token_ids)
            if (scores := event.prompt_logprobs) is not None:
                got = [score and -score.logprob for score in scores]
                assert got == [None, *range(1, len(asked[event.uid].prompt_ids))]
            if event.finish_reason:
                finished[key] = finished.get(key, 0) + 1

    shared = [rng.randrange(1, VOCAB) for _ in range(30)]
    for uid in range(num_events):
        action = rng.random()
        if action < 0.3 and core.ledger.num_waiting < 20:
            head = shared[: rng.randrange(30)]
            prompt = head + [rng.randrange(1, VOCAB) for _ in range(rng.randint(1, 40))]
            asked[uid] = request(
                prompt,
                uid=uid,
                n=rng.choice([1, 1, 1, 3]),
                max_tokens=rng.randint(1, 50),
                prompt_logprobs=rng.choice([None, None, None, 0]),
            )
            note(core.add(asked[uid]))
        elif action < 0.36 and asked:
            note(core.abort(rng.choice(list(asked))))
        elif action < 0.4 and asked:
            note(core.truncate(rng.choice(list(asked)), 0, rng.randint(1, 5)))
        elif core.has_work:
            note(core.step())
        core.ledger.check()
    note(run(core))
    for (uid, _), tokens in answers.items():
        assert tokens == expected(asked[uid].prompt_ids, len(tokens), moody)
        assert EOS not in tokens[:-1]
    assert len(finished) == sum(r.params.n for r in asked.values())
    return finished
