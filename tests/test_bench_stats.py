"""Percentiles and bootstrap intervals against numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.bench.result import Summary
from prelude.bench.stats import PERCENTILES, percentiles, summarise

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def intervals(summary: Summary) -> list[tuple[float | None, float | None]]:
    return [(part.low, part.high) for part in (summary.p50, summary.p90, summary.p99)]


@given(VALUES)
def test_percentiles_are_numpys(values: list[float]) -> None:
    ordered = np.sort(np.asarray(values))
    assert percentiles(ordered) == pytest.approx(np.percentile(ordered, PERCENTILES))


@given(VALUES)
def test_a_summary_describes_its_values(values: list[float]) -> None:
    summary = summarise(values, resamples=0)
    assert summary is not None
    assert summary.count == len(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert (summary.min, summary.max) == (min(values), max(values))
    points = [summary.p50.value, summary.p90.value, summary.p99.value]
    assert points == pytest.approx(np.percentile(values, PERCENTILES))


def test_no_values_give_no_summary() -> None:
    assert summarise([]) is None


def test_no_resamples_give_no_interval() -> None:
    summary = summarise([1.0, 2.0], resamples=0)
    assert summary is not None
    assert intervals(summary) == [(None, None)] * 3


def test_the_bootstrap_is_numpys_of_the_same_draws() -> None:
    values = np.random.default_rng(1).exponential(size=50)
    summary = summarise(values.tolist(), resamples=200, seed=3)
    assert summary is not None
    rng, ordered = np.random.default_rng(3), np.sort(values)
    draws = []
    for _ in range(200):
        counts = np.bincount(rng.integers(50, size=50), minlength=50)
        order = np.argsort(values, kind="stable")
        draws.append(np.percentile(np.repeat(ordered, counts[order]), PERCENTILES))
    bounds = np.quantile(np.stack(draws), [0.025, 0.975], axis=0)
    assert np.asarray(intervals(summary), float) == pytest.approx(bounds.T)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        summary = summarise(rng.normal(size=120).tolist(), resamples=150, seed=seed)
        assert summary is not None and summary.p50.low is not None and summary.p50.high is not None
        hits += summary.p50.low <= 0.0 <= summary.p50.high
    assert 88 <= hits <= 100


def test_samples_of_one_request_do_not_count_as_independent() -> None:
    rng = np.random.default_rng(5)
    levels = np.repeat(rng.normal(size=20), 50)
    owners = np.repeat(np.arange(20), 50).tolist()
    grouped = summarise(levels.tolist(), owners, resamples=300)
    naive = summarise(levels.tolist(), resamples=300)
    assert grouped is not None and naive is not None
    wide, narrow = intervals(grouped)[0], intervals(naive)[0]
    assert None not in (*wide, *narrow)
    assert np.ptp(np.asarray(wide, float)) > 2 * np.ptp(np.asarray(narrow, float))


def test_one_group_has_no_spread() -> None:
    summary = summarise([1.0, 2.0, 3.0], [7, 7, 7], resamples=20)
    assert summary is not None
    assert intervals(summary)[0] == (2.0, 2.0)


def test_the_seed_decides() -> None:
    values = np.random.default_rng(2).normal(size=30).tolist()
    first, again, other = (summarise(values, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
