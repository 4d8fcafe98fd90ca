"""Where launches are static, prefill fills its buckets exactly: decided by hand, then simulated."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelude.batcher.fcfs import fcfs
from prelude.batcher.view import PolicyState, ScheduleConfig
from prelude.conf.schema import BatcherConfig, CacheConfig
from prelude.engine.core import EngineCore
from prelude.graphs.buckets import Buckets, ladder
from prelude.runner.fake import FakeRunner
from prelude.types.plan import Launch, Plan, StepOutput
from prelude.types.prices import Curve, PriceTable
from tests.engines import request
from tests.views import Seq, View, decoding

BUCKETS = Buckets(decode=(1, 2, 4, 8), prefill=(16, 32, 64, 128), max_rows=8)
PRICES = PriceTable(Curve((1, 16, 128), (2.0, 2.0, 16.0)))  # memory, then an eighth ms a token


def plan(view: View, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "max_step_tokens": 512,
        "step_ms": 100.0,
        "idle_step_ms": 100.0,
        "min_chunk": 4,
        "max_bypass": 2,
        "mix": False,
        "buckets": BUCKETS,
    }
    return fcfs(view, PolicyState(), PRICES, ScheduleConfig(**(values | changes)))[0]


def counts(launch: Launch) -> list[int]:
    return [row.num_tokens for row in launch.rows]


def test_the_last_chunks_are_cut_to_fill_a_bucket_while_more_waits() -> None:
    view = View(waiting=[Seq(0, 50), Seq(1, 40), Seq(2, 40)])
    (launch,) = plan(view, max_step_tokens=70).launches
    assert (launch.key.num_tokens, counts(launch)) == (64, [50, 14])
    assert [row.samples for row in launch.rows] == [True, False]


def test_a_chunk_that_is_cut_off_altogether_is_not_admitted() -> None:
    step = plan(View(waiting=[Seq(0, 50), Seq(1, 18), Seq(2, 40)]), max_step_tokens=72)
    assert step.admit == (0, 1)
    assert counts(step.launches[0]) == [50, 14]


def test_one_token_is_never_left_of_a_chunk() -> None:
    (launch,) = plan(View(waiting=[Seq(0, 63), Seq(1, 90)]), max_step_tokens=70).launches
    assert (launch.key.num_tokens, counts(launch)) == (128, [63, 7])


def test_a_cut_that_costs_more_than_the_padding_is_left() -> None:
    (launch,) = plan(View(waiting=[Seq(0, 60)])).launches
    assert (launch.key[:3], counts(launch)) == (("prefill", 64, 8), [60])
    assert launch.price_ms == pytest.approx(PRICES.body.at(64)), "padding is paid for"


def test_a_cut_that_costs_less_than_the_padding_is_made() -> None:
    (launch,) = plan(View(waiting=[Seq(0, 70)])).launches
    assert (launch.key.num_tokens, counts(launch)) == (64, [64])


def test_what_is_beyond_all_buckets_runs_at_its_size() -> None:
    (launch,) = plan(View(waiting=[Seq(0, 141)])).launches
    assert (launch.key[:3], counts(launch)) == (("prefill", 141, 1), [141])


def test_a_budget_ends_at_a_bucket() -> None:
    (launch,) = plan(View(waiting=[Seq(0, 400)]), idle_step_ms=9.0).launches
    assert counts(launch) == [64]


def test_decodes_have_a_launch_and_a_bucket_of_their_own() -> None:
    view = View(running=[decoding(i, 9) for i in range(3)], waiting=[Seq(3, 32)])
    decode, prefill = plan(view).launches
    assert (decode.key[:3], counts(decode)) == (("decode", 4, 4), [1, 1, 1])
    assert (prefill.key[:3], counts(prefill)) == (("prefill", 32, 4), [32])


def test_the_last_token_of_a_prompt_goes_with_the_decodes() -> None:
    (launch,) = plan(View(running=[Seq(0, 30, 29, 8)])).launches
    assert launch.key[:3] == ("decode", 1, 1)


def test_many_short_prompts_get_a_bucket_with_room_for_their_rows() -> None:
    (launch,) = plan(View(waiting=[Seq(i, 4) for i in range(8)])).launches
    assert launch.key[:3] == ("prefill", 64, 8), "32 tokens would fit into 32, but not 8 rows"


lengths = st.lists(st.integers(1, 200), min_size=1, max_size=12)


@settings(max_examples=100)
@given(lengths, st.integers(0, 6), st.floats(1.0, 40.0), st.integers(4, 300))
def test_a_plan_holds_what_its_launches_say(
    prompts: list[int], decodes: int, step_ms: float, tokens: int
) -> None:
    view = View(
        running=[decoding(i, 9) for i in range(decodes)],
        waiting=[Seq(10 + i, n) for i, n in enumerate(prompts)],
        num_free_slots=8 - decodes,
    )
    step = plan(view, step_ms=step_ms, idle_step_ms=step_ms, max_step_tokens=tokens)
    assert sum(len(launch.rows) for launch in step.launches) == decodes + len(step.admit)
    for launch in step.launches:
        assert min(counts(launch)) >= 1
        assert sum(counts(launch)) <= launch.key.num_tokens
        assert len(launch.rows) <= launch.key.num_rows
        assert (launch.key.kind == "decode") == (max(counts(launch)) == 1)
        longest = {seq.seq_id: seq.num_tokens for seq in [*view.running, *view.waiting]}
        for row in launch.rows:
            assert row.samples == (row.start + row.num_tokens == longest[row.seq_id])
    assert step.price_ms == pytest.approx(sum(launch.price_ms for launch in step.launches))


@dataclass(slots=True)
class Counting(FakeRunner):
    """Counts what a static device would run for each launch."""

    padded: int = 0
    exact: int = 0
    uncaptured: int = 0
    output: list[Plan] = field(default_factory=list)

    def submit(self, plan: Plan) -> None:
        for launch in plan.launches:
            if launch.key.kind == "prefill":
                self.padded += launch.key.num_tokens
                self.exact += sum(counts(launch))
        FakeRunner.submit(self, plan)

    def collect(self) -> StepOutput:
        return FakeRunner.collect(self)


def padding_of(buckets: Buckets, lengths: list[int], concurrency: int, max_tokens: int) -> float:
    """Share of padding in prefill launches of a closed loop."""
    body = {n: max(2.0, n / 100) for n in (1, *buckets.prefill)}
    runner = Counting(
        num_blocks=8192, block_size=16, max_len=1024, prices=PriceTable(Curve.of(body))
    )
    core = EngineCore(
        runner,
        batcher=BatcherConfig(max_step_tokens=2048),
        cache=CacheConfig(prefix=False),
        max_seqs=buckets.max_rows,
        eos_ids=(0,),
        buckets=buckets,
        seed=0,
    )
    rng, open_requests, queue = Random(0), 0, list(lengths)
    while queue or core.has_work:
        while queue and open_requests < concurrency:
            prompt = [rng.randrange(1, 512) for _ in range(queue.pop())]
            core.add(request(prompt, max_tokens=max_tokens))
            open_requests += 1
        open_requests -= sum(event.finish_reason is not None for event in core.step())
    return 1.0 - runner.exact / runner.padded


@pytest.mark.parametrize(("concurrency", "most"), [(96, 0.03), (32, 0.03), (8, 0.03)])
def test_padding_under_load_stays_below_three_percent(concurrency: int, most: float) -> None:
    rng = Random(1)
    lengths = [rng.randint(256, 768) for _ in range(150)]
    buckets = Buckets(ladder(1, 128), ladder(16, 2048), 128)
    assert padding_of(buckets, lengths, concurrency, max_tokens=1) < most
