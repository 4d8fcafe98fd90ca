"""What is kept of each request, and the bins that gaps are counted in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.simulate.records import Gaps, Recorder
from prelude.simulate.traffic import draw
from prelude.types.request import RequestTimings, TokenEvent
from tests.simulations import small

REQUESTS = draw(small(num_requests=4).traffic, 1.0)


def recorder(first: int = 0, end: int = 4) -> Recorder:
    found = Recorder(first, end)
    for request in REQUESTS:
        found.arrived(request, 0)
    return found


def token(uid: int, *, last: bool = False) -> TokenEvent:
    timings = RequestTimings(3.0, 4.0, 5.0, 2, "deep") if last else None
    return TokenEvent(uid, 0, [1], "length" if last else None, timings=timings)


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=200))
def test_percentiles_are_good_to_a_percent(values: list[float]) -> None:
    gaps = Gaps()
    for value in values:
        gaps.add(value)
    summary = gaps.summary()
    assert summary is not None and summary.count == len(values)
    assert summary.mean == pytest.approx(np.mean(values))
    for share, point in ((0.5, summary.p50), (0.9, summary.p90), (0.99, summary.p99)):
        exact = np.quantile(values, share, method="inverted_cdf")
        assert point.value == pytest.approx(exact, rel=0.011)


def test_no_gaps_have_no_summary() -> None:
    assert Gaps().summary() is None


def test_gaps_can_be_pooled() -> None:
    one, other = Gaps(), Gaps()
    one.add(10.0, 3)
    other.add(20.0)
    summary = Gaps().merged([one, other]).summary()
    assert summary is not None
    assert summary.count == 4 and summary.mean == pytest.approx(12.5)


def test_a_life_is_what_its_events_say() -> None:
    found = recorder()
    found.events([token(0)], 1.0)
    found.events([token(0), token(1)], 1.5)
    (done,) = found.events([token(0, last=True), token(1)], 3.5)
    life = found.lives[0]
    assert done is life and life.is_done
    assert (life.ready_s, life.end_s, life.num_tokens, life.max_gap_s) == (1.0, 3.5, 3, 2.0)
    assert (life.queue_ms, life.num_preemptions, life.service_class) == (3.0, 2, "deep")
    assert not found.lives[1].is_done and found.num_output == 5
    pooled = Gaps().merged(found.gaps.values())
    assert pooled.total_ms == pytest.approx(500.0 + 2 * 2000.0)


def test_a_refused_request_has_no_tokens() -> None:
    found = recorder()
    found.events([TokenEvent(2, 0, [], "error", error="full")], 1.0)
    life = found.lives[2]
    assert (life.failure, life.num_tokens, life.is_done) == ("error", 0, False)


def test_gaps_of_those_who_do_not_count_are_not_counted() -> None:
    found = recorder(first=1, end=2)
    for now_s in (1.0, 2.0):
        found.events([token(0), token(1)], now_s)
    assert Gaps().merged(found.gaps.values()).bins.sum() == 1
    assert [found.counts(uid) for uid in range(4)] == [False, True, False, False]


@given(st.lists(st.floats(0.001, 2.0), min_size=1, max_size=20), st.integers(1, 4))
def test_many_steps_at_once_leave_what_single_ones_leave(steps_s: list[float], rows: int) -> None:
    single, at_once = recorder(), recorder()
    for found in (single, at_once):
        found.events([token(uid) for uid in range(rows)], 1.0)
    now_s = 1.0
    for step_s in steps_s:
        now_s += step_s
        single.events([token(uid) for uid in range(rows)], now_s)
    at_once.repeated(range(rows), np.array(steps_s), now_s)
    assert single.num_output == at_once.num_output
    for uid in range(rows):
        a, b = single.lives[uid], at_once.lives[uid]
        assert (a.num_tokens, a.last_s) == (b.num_tokens, b.last_s)
        assert a.max_gap_s == pytest.approx(b.max_gap_s)
    slow, quick = (Gaps().merged(found.gaps.values()) for found in (single, at_once))
    assert slow.total_ms == pytest.approx(quick.total_ms)
    assert slow.bins.sum() == quick.bins.sum()
