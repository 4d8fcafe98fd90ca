"""Counting latencies in buckets: quantiles are near the true ones, windows forget."""

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.server.latency import BOUNDS_S, Latencies, Window, by_class, quantile_ms, since
from prelude.types.service import SERVICE_CLASSES

LATENCIES = st.floats(min_value=1e-4, max_value=999.0)


def counted(*seconds: float) -> Latencies:
    latencies = Latencies()
    for value in seconds:
        latencies.add(value)
    return latencies


def test_buckets_grow_by_a_quarter_or_so_over_seven_decades() -> None:
    assert (BOUNDS_S[0], BOUNDS_S[-1]) == (1e-4, 1000.0)
    assert all(1.2 < high / low < 1.3 for low, high in pairwise(BOUNDS_S))
    assert {0.001, 0.01, 0.1, 1.0, 10.0} <= set(BOUNDS_S)


def test_a_bound_is_inside_its_bucket() -> None:
    assert counted(0.001).counts.index(1) == BOUNDS_S.index(0.001)
    assert counted(0.0010001).counts.index(1) == BOUNDS_S.index(0.001) + 1


@given(st.lists(st.floats(min_value=0.0, max_value=1e5), max_size=50))
def test_nothing_is_lost(seconds: list[float]) -> None:
    latencies = counted(*seconds)
    assert sum(latencies.counts) == len(seconds)
    assert latencies.sum_s == pytest.approx(sum(seconds))


@given(st.lists(LATENCIES, min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_quantile_is_off_by_one_bucket_at_most(seconds: list[float], share: float) -> None:
    found = quantile_ms(counted(*seconds).counts, share)
    assert found is not None
    true_ms = 1e3 * sorted(seconds)[max(ceil(share * len(seconds) - 1e-9), 1) - 1]
    assert true_ms / 1.3 <= found <= true_ms * 1.3 or true_ms <= 0.1


@given(st.lists(LATENCIES, min_size=1, max_size=50))
def test_quantiles_are_ordered(seconds: list[float]) -> None:
    counts = counted(*seconds).counts
    found = [quantile_ms(counts, share) for share in (0.1, 0.5, 0.9, 0.99, 1.0)]
    values = [value for value in found if value is not None]
    assert len(values) == len(found)
    assert values == sorted(values)


def test_quantiles_of_nothing_and_of_what_is_beyond() -> None:
    assert quantile_ms(Latencies().counts, 0.5) is None
    assert quantile_ms(counted(5000.0).counts, 0.99) == 1e6
    assert quantile_ms(counted(0.0).counts, 0.5) == pytest.approx(0.05)


def test_every_class_has_its_own() -> None:
    found = by_class()
    assert tuple(found) == SERVICE_CLASSES
    found["deep"].add(1.0)
    assert sum(sum(one.counts) for one in found.values()) == 1


def test_a_window_has_what_came_within_its_span() -> None:
    latencies = Latencies()
    window = Window([latencies], span_s=60.0, mark_s=5.0)
    for now_s in range(200):
        window.tick(float(now_s))
        latencies.add(0.01)
        total = sum(window.counts()[0])
        assert min(now_s + 1, 60) <= total <= min(now_s + 1, 66)


def test_a_quiet_minute_empties_a_window() -> None:
    latencies = counted(0.01, 0.02)
    window = Window([latencies, counted()])
    window.tick(0.0)
    latencies.add(0.5)
    assert [sum(counts) for counts in window.counts()] == [1, 0]
    for now_s in range(1, 80):
        window.tick(float(now_s))
    assert [sum(counts) for counts in window.counts()] == [0, 0]


def test_before_the_first_tick_a_window_has_everything() -> None:
    latencies = counted(0.01)
    window = Window([latencies])
    (counts,) = window.counts()
    assert counts == latencies.counts
    assert counts is not latencies.counts


@given(st.lists(st.floats(0.0, 30.0), min_size=1, max_size=60))
def test_marks_are_bounded_whenever_ticks_come(gaps_s: list[float]) -> None:
    window, now_s = Window([Latencies()], span_s=60.0, mark_s=5.0), 0.0
    for gap_s in gaps_s:
        now_s += gap_s
        window.tick(now_s)
        assert len(window._marks) <= 14


def test_since_is_what_was_added() -> None:
    latencies = counted(0.01)
    then = latencies.counts.copy()
    latencies.add(0.01)
    latencies.add(3.0)
    assert since(then, latencies.counts) == counted(0.01, 3.0).counts
