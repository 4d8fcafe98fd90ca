"""The runner that only takes time: what launches cost, when answers end, what is computed twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.graphs.buckets import Buckets
from prelude.runner.protocol import Runner
from prelude.simulate.prices import analytic
from prelude.simulate.prompts import EOS_ID
from prelude.simulate.runner import SimClock, SimRunner, Truth
from prelude.types.plan import BlockCopy, BucketKey, Launch, Plan, Row, SlotAdmit
from prelude.types.prices import Sums
from prelude.types.request import SamplingParams
from tests.simulations import device

TABLE = analytic(device())


def make_runner(truth: Truth | None = None) -> tuple[SimRunner, SimClock]:
    clock = SimClock()
    runner = SimRunner(
        truth or Truth(TABLE),
        clock,
        prices=TABLE,
        num_blocks=64,
        block_size=16,
        max_len=512,
        rng=np.random.default_rng(0),
    )
    return runner, clock


def decode(*rows: tuple[int, int]) -> Launch:
    """Rows as (sequence, position)."""
    found = tuple(Row(seq_id, seq_id, start, 1) for seq_id, start in rows)
    return Launch(BucketKey("decode", len(rows), len(rows)), found, 0.0)


def prefill(seq_id: int, start: int, count: int, *, samples: bool = True) -> Launch:
    row = Row(seq_id, seq_id, start, count, (1,) * count, samples)
    return Launch(BucketKey("prefill", count, 1), (row,), 0.0)


def admit(seq_id: int, num_tokens: int) -> SlotAdmit:
    return SlotAdmit(seq_id, seq_id, SamplingParams(), 0, (1,) * num_tokens, num_tokens, ())


def step(runner: SimRunner, *launches: Launch, **plan: tuple[object, ...]) -> float:
    runner.submit(Plan(launches=launches, **plan))  # type: ignore[arg-type]
    return sum(runner.collect().actual_ms)


def test_it_is_a_runner() -> None:
    runner: Runner = make_runner()[0]
    assert runner.depth == 1 and runner.prices is TABLE


def test_copies_take_time() -> None:
    runner, clock = make_runner(Truth(TABLE, bias=2.0))
    runner.swap_ms = 0.25
    copy = BlockCopy((1, 2, 3), (0, 1, 2))
    runner.submit(Plan(copies_out=(copy,), copies_in=(copy,)))
    output = runner.collect()
    assert output.copy_ms == output.run_ms == runner.copy_ms == runner.busy_ms == 3.0
    assert clock.now_s == pytest.approx(0.003) and output.sampled == ()


def test_a_step_lasts_as_long_as_the_list_says() -> None:
    runner, clock = make_runner()
    runner.expect(0, 5, None)
    runner.expect(1, 6, None)
    ms = step(runner, decode((0, 10), (1, 30)))
    assert ms == pytest.approx(TABLE.step_ms(Sums().plus_decodes(42, ["greedy"] * 2)))
    assert clock.now_s == pytest.approx(ms / 1e3) and runner.busy_ms == pytest.approx(ms)


def test_bias_and_overhead_come_on_top() -> None:
    plain, _ = make_runner()
    slow, clock = make_runner(Truth(TABLE, bias=1.5, overhead_ms=2.0, overhead_row_ms=0.25))
    for runner in (plain, slow):
        runner.expect(0, 5, None)
    ms = step(slow, decode((0, 10)))
    assert ms == pytest.approx(1.5 * step(plain, decode((0, 10))))
    assert clock.now_s * 1e3 == pytest.approx(ms + 2.25)


def test_a_static_shape_costs_all_of_its_bucket() -> None:
    truth = Truth(TABLE, Buckets((8,), (64,), 8))
    runner, _ = make_runner(truth)
    runner.expect(0, 5, None)
    launch = Launch(BucketKey("decode", 8, 8), decode((0, 3)).rows, 0.0)
    assert step(runner, launch) == pytest.approx(TABLE.body.at(8) + 4 * 1e-4 + 8 * 0.01)


def test_noise_has_the_asked_spread() -> None:
    truth = Truth(TABLE, noise=0.2)
    logs = np.log(truth.draw("decode", 20_000, np.random.default_rng(1)))
    assert logs.std() == pytest.approx(0.2, rel=0.05) and abs(logs.mean()) < 0.01


def test_factors_are_drawn_from_those_of_the_same_kind() -> None:
    truth = Truth(TABLE, factors={"decode": np.array([2.0, 3.0])})
    rng = np.random.default_rng(1)
    assert set(truth.draw("decode", 100, rng)) == {2.0, 3.0}
    assert set(truth.draw("prefill", 100, rng)) == {1.0}


def test_an_answer_is_its_token_until_it_ends() -> None:
    runner, _ = make_runner()
    runner.expect(0, 5, end=12)
    runner.expect(1, 6, None)
    ids = []
    for position in (9, 10, 11):
        runner.submit(Plan(launches=(decode((0, position), (1, position)),)))
        ids.append([sampled.token_id for sampled in runner.collect().sampled])
    assert ids == [[5, 6], [EOS_ID, 6], [5, 6]]
    assert (runner.own_end(0, 99), runner.own_end(1, 99)) == (12, 99)


def test_an_unfinished_prompt_samples_nothing() -> None:
    runner, _ = make_runner()
    runner.expect(0, 5, None)
    runner.submit(Plan(launches=(prefill(0, 0, 8, samples=False),)))
    assert runner.collect().sampled == ()


def test_what_an_evicted_sequence_computes_again_is_wasted() -> None:
    runner, _ = make_runner()
    runner.expect(0, 5, None)
    step(runner, prefill(0, 0, 20))
    assert runner.wasted_ms == 0.0
    step(runner, preempt=(0,))
    ms = step(runner, prefill(0, 0, 40), admits=(admit(0, 31),))
    assert runner.wasted_ms == pytest.approx(ms * 30 / 40)
    step(runner, decode((0, 40)))
    assert runner.wasted_ms == pytest.approx(ms * 30 / 40)


@given(
    starts=st.lists(st.integers(1, 2000), min_size=1, max_size=12),
    most=st.integers(0, 60),
    within_ms=st.floats(0.0, 400.0),
)
def test_many_steps_at_once_take_what_they_take_one_by_one(
    starts: list[int], most: int, within_ms: float
) -> None:
    at_once, clock = make_runner(Truth(TABLE, overhead_ms=0.5))
    rows = list(enumerate(starts))
    took_ms = at_once.repeated_ms(decode(*rows), most, within_ms)
    single, slow_clock = make_runner(Truth(TABLE, overhead_ms=0.5))
    for seq_id, _ in rows:
        single.expect(seq_id, 5, None)
    num = 0
    while num < most and slow_clock.now_s * 1e3 < within_ms:
        num += 1
        step(single, decode(*((seq_id, start + num) for seq_id, start in rows)))
    assert len(took_ms) == num
    assert clock.now_s == pytest.approx(slow_clock.now_s)
    assert at_once.busy_ms == pytest.approx(single.busy_ms)


@given(st.integers(1, 4000), st.integers(1, 500), st.integers(1, 600))
def test_alone_is_the_sum_of_its_steps(num_prompt: int, num_output: int, chunk: int) -> None:
    truth = Truth(TABLE, overhead_ms=0.1)
    ms, start = 0.0, 0
    while start < num_prompt:
        count = min(chunk, num_prompt - start)
        sampled = start + count == num_prompt
        ms += TABLE.step_ms(Sums().plus(start, count, "greedy" if sampled else None)) + 0.1
        start += count
    for position in range(num_prompt, num_prompt + num_output - 1):
        ms += TABLE.step_ms(Sums().plus(position, 1, "greedy")) + 0.1
    assert truth.alone_ms(num_prompt, num_output, chunk) == pytest.approx(ms, rel=1e-3)
