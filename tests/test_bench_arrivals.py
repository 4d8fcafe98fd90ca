"""Arrival processes: the statistics they promise, by fixed seeds."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.bench.arrivals import draw_arrivals
from prelude.conf.bench import Arrival

COUNT = 20_000


def gaps_of(kind: Arrival, *, rate: float = 4.0, burstiness: float = 1.0) -> np.ndarray:
    times = draw_arrivals(kind, COUNT, rate=rate, burstiness=burstiness, rng=Random(0))
    return np.diff([0.0, *times])


def variation(gaps: np.ndarray) -> float:
    return float(gaps.std() / gaps.mean())


def test_poisson_gaps_are_exponential() -> None:
    gaps = gaps_of(Arrival.poisson)
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert variation(gaps) == pytest.approx(1.0, rel=0.03)
    assert (gaps > 0.25).mean() == pytest.approx(np.exp(-1.0), abs=0.01)


def test_poisson_counts_vary_as_their_mean() -> None:
    times = draw_arrivals(Arrival.poisson, COUNT, rate=4.0, burstiness=1.0, rng=Random(1))
    counts = np.bincount(np.asarray(times[:-1], dtype=int))[:-1]
    assert counts.mean() == pytest.approx(4.0, rel=0.03)
    assert counts.var() == pytest.approx(4.0, rel=0.08)


@pytest.mark.parametrize("burstiness", [0.11, 0.5, 4.0])
def test_gamma_has_the_asked_variation(burstiness: float) -> None:
    gaps = gaps_of(Arrival.gamma, burstiness=burstiness)
    assert gaps.mean() == pytest.approx(0.25, rel=0.08)
    assert variation(gaps) == pytest.approx(burstiness**-0.5, rel=0.08)


def test_gamma_of_shape_one_is_poisson() -> None:
    assert variation(gaps_of(Arrival.gamma)) == pytest.approx(1.0, rel=0.03)


def test_poisson_does_not_look_at_burstiness() -> None:
    calm, bursty = (gaps_of(Arrival.poisson, burstiness=value) for value in (9.0, 0.1))
    assert np.array_equal(calm, bursty)


def test_constant_gaps_are_equal() -> None:
    times = draw_arrivals(Arrival.constant, 4, rate=2.0, burstiness=1.0, rng=Random(0))
    assert times == pytest.approx([0.5, 1.0, 1.5, 2.0])


@given(
    st.sampled_from([Arrival.poisson, Arrival.gamma, Arrival.constant]),
    st.integers(0, 50),
    st.integers(0, 1000),
)
def test_times_ascend_and_repeat_with_their_seed(kind: Arrival, count: int, seed: int) -> None:
    first, again = (
        draw_arrivals(kind, count, rate=3.0, burstiness=0.5, rng=Random(seed)) for _ in range(2)
    )
    assert first == again and len(first) == count
    assert all(before <= after for before, after in pairwise([0.0, *first]))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_must_be_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        draw_arrivals(Arrival.poisson, 1, rate=rate, burstiness=1.0, rng=Random(0))


@pytest.mark.parametrize("burstiness", [0.0, -2.0, float("nan")])
def test_burstiness_must_be_positive(burstiness: float) -> None:
    with pytest.raises(ValueError, match="burstiness"):
        draw_arrivals(Arrival.gamma, 1, rate=1.0, burstiness=burstiness, rng=Random(0))


@pytest.mark.parametrize("kind", [Arrival.closed, Arrival.trace])
def test_other_kinds_have_no_rate(kind: Arrival) -> None:
    with pytest.raises(ValueError, match="has no rate"):
        draw_arrivals(kind, 1, rate=1.0, burstiness=1.0, rng=Random(0))
