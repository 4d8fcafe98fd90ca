"""Latencies of one request, under the right class."""

from typing import Any

import pytest

from prelude.client.client import EngineClient
from prelude.server.metrics import Metrics
from prelude.server.tally import Tally, Timings, server_timing
from prelude.types.request import RequestTimings, TokenEvent
from prelude.types.service import ServiceClass
from tests.fakes import scripted_client


@pytest.fixture
async def metrics() -> Metrics:
    client: EngineClient = scripted_client()[0]
    await client.close()
    return Metrics(client, "m")


def told(
    service_class: ServiceClass, waited_as: ServiceClass = "fast", predicted: float = 0.0
) -> RequestTimings:
    return RequestTimings(1.0, 2.0, 3.0, 0, service_class, predicted, waited_as)


def token(timings: RequestTimings | None = None) -> TokenEvent:
    return TokenEvent(1, 0, [5], timings=timings)


def num(metrics: Metrics) -> dict[str, Any]:
    """How many latencies of each kind each class has; only those there are."""
    kinds = {"ttft": metrics.ttft, "itl": metrics.inter_token, "e2e": metrics.e2e}
    counts: dict[str, Any] = {
        kind: {name: sum(one.counts) for name, one in of.items() if any(one.counts)}
        for kind, of in kinds.items()
    }
    return {kind: found for kind, found in counts.items() if found}


async def test_gaps_belong_to_the_class_at_their_time(metrics: Metrics) -> None:
    tally = Tally(metrics, 1, arrival_s=10.0)
    tally.note(0, token(told("fast")), 10.5)
    tally.note(0, token(), 10.6)
    tally.note(0, token(told("deep")), 10.7)  # the token that used its quantum up
    for n in range(5):
        tally.note(0, token(), 10.8 + n / 10)
    tally.note(0, token(told("fast")), 11.3)  # the end of its reasoning
    tally.note(0, token(), 11.4)
    tally.ended(11.4, [2])
    assert num(metrics) == {
        "ttft": {"fast": 1},
        "itl": {"fast": 3, "deep": 6},
        "e2e": {"deep": 1},
    }
    assert metrics.ttft["fast"].sum_s == pytest.approx(0.5)
    assert metrics.inter_token["deep"].sum_s == pytest.approx(0.6)
    assert metrics.e2e["deep"].sum_s == pytest.approx(1.4)


async def test_a_finished_request_is_taken_apart(metrics: Metrics) -> None:
    tally = Tally(metrics, 2, arrival_s=10.0)
    for index, seconds in ((0, 10.5), (1, 10.6), (0, 11.0), (0, 11.5), (1, 11.6)):
        tally.note(index, token(told("fast") if seconds < 11 else None), seconds)
    tally.ended(11.7, [3, 2])
    assert sum(metrics.per_token["fast"].counts) == 2
    assert metrics.per_token["fast"].sum_s == pytest.approx(0.5 + 1.0)
    assert metrics.prefill["fast"].sum_s == pytest.approx(0.002)
    assert metrics.decode["fast"].sum_s == pytest.approx(1.1)
    assert metrics.inference["fast"].sum_s == pytest.approx(1.102)


async def test_a_document_waits_as_one_and_speaks_fast(metrics: Metrics) -> None:
    tally = Tally(metrics, 1, arrival_s=0.0)
    tally.note(0, token(told("fast", "doc")), 5.0)
    tally.note(0, token(told("fast", "doc")), 5.1)
    tally.ended(5.1, [0])
    assert num(metrics) == {"ttft": {"doc": 1}, "itl": {"fast": 1}, "e2e": {"doc": 1}}
    assert tally.service_class == "doc"


async def test_batch_stays_batch(metrics: Metrics) -> None:
    tally = Tally(metrics, 1, arrival_s=0.0)
    tally.note(0, token(told("batch", "batch")), 1.0)
    tally.note(0, token(), 2.0)
    tally.ended(2.0, [1])
    assert num(metrics) == {"ttft": {"batch": 1}, "itl": {"batch": 1}, "e2e": {"batch": 1}}


async def test_choices_have_classes_of_their_own(metrics: Metrics) -> None:
    tally = Tally(metrics, 2, arrival_s=0.0)
    for index in (0, 1):
        tally.note(index, token(told("deep" if index else "fast")), 1.0)
    for index in (0, 1, 1):
        tally.note(index, token(), 2.0)
    assert num(metrics) == {"ttft": {"fast": 1}, "itl": {"fast": 1, "deep": 2}}
    assert tally.service_class == "deep"


async def test_an_event_without_a_token_is_no_gap(metrics: Metrics) -> None:
    tally = Tally(metrics, 1, arrival_s=0.0)
    tally.note(0, TokenEvent(1, 0, [], "stop", timings=told("fast")), 1.0)
    assert num(metrics) == {}
    assert tally.timings(1.0, 0) == {
        "service_class": "fast",
        "queue_ms": 1.0,
        "prefill_ms": 2.0,
        "total_ms": 1000.0,
    }


async def test_timings(metrics: Metrics) -> None:
    tally = Tally(metrics, 1, arrival_s=0.0)
    assert tally.timings(0.25, 0) == {"total_ms": 250.0}
    tally.note(0, token(told("fast", predicted=12.34)), 0.5)
    tally.note(0, token(), 1.5)
    assert tally.timings(1.5, 1) == {
        "service_class": "fast",
        "predicted_tokens": 12.3,
        "queue_ms": 1.0,
        "prefill_ms": 2.0,
        "ttft_ms": 500.0,
        "decode_ms": 1000.0,
        "tokens_per_second": 1.0,
        "total_ms": 1500.0,
    }


def test_server_timing() -> None:
    assert server_timing({"total_ms": 2.0}, is_end=False) == ""
    assert server_timing({"total_ms": 2.0}, is_end=True) == "total;dur=2.0"
    full: Timings = {"service_class": "deep", "queue_ms": 1.0, "ttft_ms": 3.5, "total_ms": 9.0}
    assert server_timing(full, is_end=False) == 'class;desc="deep", queue;dur=1.0, ttft;dur=3.5'
    assert server_timing(full, is_end=True).endswith("ttft;dur=3.5, total;dur=9.0")
