"""Latencies by definition, goodput by class, failures counted and never averaged in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.bench.exchange import Exchange
from prelude.bench.load import Job, Load
from prelude.bench.metrics import meets, report, samples_of
from prelude.bench.result import RequestSample
from prelude.conf.bench import Slo
from tests.bench_server import DONE, text, usage

START_S = 50.0


def exchange_of(
    sent_s: float, chunks: list[float], *, tokens: int | None = None, failure: str | None = None
) -> Exchange:
    exchange = Exchange(stream=True)
    exchange.sent_s = sent_s
    exchange.on_head(sent_s, 200)
    for now in chunks:
        exchange.on_body(now, text("x"))
    if tokens is not None:
        exchange.on_body(chunks[-1] + 1.0, usage(10, tokens, 4))
    if failure:
        exchange.fail(failure)
    else:
        exchange.on_body(sent_s + 9.0, DONE)
        exchange.finish()
    return exchange


def sample_of(exchange: Exchange, arrival_s: float | None = None, **slo: float) -> RequestSample:
    load = Load(start_s=START_S, sent=[(Job(3, "chat", arrival_s, b""), exchange)])
    (sample,) = samples_of(load, {"chat": Slo(**slo)})
    return sample


def sample(**fields: Any) -> RequestSample:
    return RequestSample(index=0, kind="chat", scheduled_ms=0.0, slip_ms=0.0, **fields)


def test_definitions() -> None:
    made = sample_of(exchange_of(51.0, [51.25, 51.5, 52.25], tokens=5))
    assert made.ttft_ms == pytest.approx(250)
    assert made.first_content_ms == pytest.approx(250)
    assert made.e2e_ms == pytest.approx(1250)
    assert made.itl_ms == pytest.approx([250, 750])
    assert made.stall_ms == pytest.approx(750)
    assert made.tpot_ms == pytest.approx((1250 - 250) / 4), "tokens come from the usage chunk"
    assert (made.prompt_tokens, made.output_tokens, made.cached_tokens) == (10, 5, 4)
    assert (made.index, made.kind, made.failure) == (3, "chat", None)


def test_one_token_has_no_tpot_and_no_gap() -> None:
    made = sample_of(exchange_of(51.0, [51.5], tokens=1))
    assert made.tpot_ms is None
    assert made.stall_ms is None
    assert made.itl_ms == []


def test_slip_is_sent_minus_scheduled() -> None:
    made = sample_of(exchange_of(51.5, [52.0]), arrival_s=1.25)
    assert made.scheduled_ms == pytest.approx(1250)
    assert made.slip_ms == pytest.approx(250)


def test_the_first_arrival_may_be_at_zero() -> None:
    assert sample_of(exchange_of(50.5, [52.0]), arrival_s=0.0).slip_ms == pytest.approx(500)


def test_a_closed_loop_is_never_late() -> None:
    made = sample_of(exchange_of(51.5, [52.0]))
    assert made.scheduled_ms == pytest.approx(1500)
    assert made.slip_ms == 0.0


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ({}, True),
        ({"ttft_ms": 250.0}, True),
        ({"ttft_ms": 249.0}, False),
        ({"tpot_ms": 500.0}, True),
        ({"tpot_ms": 499.0}, False),
        ({"stall_ms": 749.0}, False),
        ({"e2e_ms": 1249.0}, False),
        ({"ttft_ms": 250.0, "tpot_ms": 1.0}, False),
    ],
)
def test_targets(slo: dict[str, float], good: bool) -> None:
    assert sample_of(exchange_of(51.0, [51.25, 51.5, 52.25]), **slo).good is good


def test_a_failed_request_is_never_good() -> None:
    made = sample_of(exchange_of(51.0, [51.25], failure="timeout"))
    assert (made.good, made.failure) == (False, "timeout")
    assert made.ttft_ms == pytest.approx(250), "what was seen of it stays in the record"


def test_a_latency_that_does_not_exist_misses_no_target() -> None:
    assert meets(Slo(tpot_ms=1.0, stall_ms=1.0), 5.0, None, None, 5.0)


@given(st.lists(st.sampled_from([None, "timeout", "http_429"]), max_size=30), st.integers(0, 3))
def test_counts_add_up(failures: list[str | None], every: int) -> None:
    samples = [
        sample(failure=failure, good=failure is None and index % (every + 1) == 0, output_tokens=2)
        for index, failure in enumerate(failures)
    ]
    made = report(samples, 2.0, resamples=0, seed=0)
    assert made.num_sent == len(failures)
    assert made.num_completed + sum(made.failures.values()) == made.num_sent
    assert made.req_s == made.num_completed / 2.0
    assert made.output_tokens == 2 * len(failures)
    assert made.goodput_req_s <= made.req_s
    assert made.attainment * made.num_sent == pytest.approx(2.0 * made.goodput_req_s)


def test_goodput_and_attainment() -> None:
    samples = [sample(good=True), sample(good=False), sample(failure="timeout"), sample(good=True)]
    made = report(samples, 4.0, resamples=0, seed=0)
    assert made.goodput_req_s == 0.5
    assert made.attainment == 0.5, "failed requests count as sent"
    assert made.failures == {"timeout": 1}


def test_latencies_pool_completed_requests_only() -> None:
    samples = [
        sample(ttft_ms=10.0, itl_ms=[1.0, 2.0]),
        sample(ttft_ms=30.0, itl_ms=[3.0]),
        sample(ttft_ms=9999.0, itl_ms=[9999.0], failure="timeout"),
    ]
    made = report(samples, 1.0, resamples=10, seed=0)
    assert made.ttft_ms is not None and made.itl_ms is not None
    assert (made.ttft_ms.count, made.ttft_ms.max) == (2, 30.0)
    assert (made.itl_ms.count, made.itl_ms.mean) == (3, 2.0)
    assert made.tpot_ms is None


def test_rates() -> None:
    samples = [sample(prompt_tokens=10, output_tokens=4, cached_tokens=8) for _ in range(3)]
    made = report(samples, 2.0, resamples=0, seed=0)
    assert (made.prompt_tok_s, made.output_tok_s, made.cached_tokens) == (15.0, 6.0, 24)


def test_no_requests() -> None:
    made = report([], 1.0, resamples=10, seed=0)
    assert (made.num_sent, made.attainment, made.e2e_ms) == (0, 0.0, None)
