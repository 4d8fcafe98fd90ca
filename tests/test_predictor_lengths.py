"""Distributions of lengths: quantiles, probabilities, and what is left after a while."""

from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.batcher.lengths import EDGES, NUM_BINS, at_most, bin_of, quantile, remaining
from prelude.types.service import Prediction


@st.composite
def distributions(draw: st.DrawFn) -> list[float]:
    weights = draw(st.lists(st.integers(0, 50), min_size=NUM_BINS, max_size=NUM_BINS))
    total = max(sum(weights), 1)
    return [min(part / total, 1.0) for part in accumulate(weights)]


def certain(num_tokens: int) -> list[float]:
    return [float(i >= bin_of(num_tokens)) for i in range(NUM_BINS)]


def test_bins_are_whole_and_no_wider_than_a_quarter_octave() -> None:
    assert EDGES[:9] == (1, 2, 3, 4, 5, 6, 7, 8, 10)
    assert all(low < high <= max(low + 1, low * 1.26) for low, high in pairwise(EDGES))


@given(st.integers(1, 10**7))
def test_every_count_has_a_bin(num_tokens: int) -> None:
    at = bin_of(num_tokens)
    assert 0 <= at < NUM_BINS and EDGES[at] <= num_tokens
    assert num_tokens < EDGES[at + 1] or at == NUM_BINS - 1


@given(distributions(), st.integers(0, 300_000), st.integers(0, 300_000))
def test_a_larger_count_is_no_less_likely_to_be_enough(cdf: list[float], a: int, b: int) -> None:
    assert 0.0 <= at_most(cdf, min(a, b)) <= at_most(cdf, max(a, b)) <= 1.0


@given(distributions(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_quantiles_are_whole_tokens_in_the_order_of_levels(
    cdf: list[float], a: float, b: float
) -> None:
    low, high = quantile(cdf, min(a, b)), quantile(cdf, max(a, b))
    assert 1.0 <= low <= high <= EDGES[-1]
    assert low == int(low)


@given(distributions(), st.floats(0.01, 0.99))
def test_a_quantile_is_the_least_count_that_is_enough(cdf: list[float], level: float) -> None:
    tokens = int(quantile(cdf, level))
    if cdf[-1] >= level:
        assert at_most(cdf, tokens) >= level - 1e-6
        assert at_most(cdf, tokens - 1) <= level + 1e-6


@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_what_is_certain_is_predicted_exactly(num_tokens: int) -> None:
    assert quantile(certain(num_tokens), 0.1) == quantile(certain(num_tokens), 0.9) == num_tokens
    assert at_most(certain(num_tokens), num_tokens) == 1.0
    assert at_most(certain(num_tokens), num_tokens - 1) == 0.0


def test_no_tokens_at_all_are_never_enough() -> None:
    assert at_most([1.0] * NUM_BINS, 0) == 0.0


@given(st.floats(1, 1e5), st.floats(1, 100), st.integers(0, 10**6))
def test_something_is_always_left(q50: float, ratio: float, generated: int) -> None:
    median, most = remaining(Prediction(q50, q50 * ratio, 0.0), generated)
    assert np.isfinite(most) and 1.0 <= median <= most


def test_before_the_first_token_all_of_it_is_left() -> None:
    assert remaining(Prediction(40.0, 160.0, 0.0), 0) == pytest.approx((40.0, 160.0))


def test_a_heavy_tail_grows_with_what_was_generated_and_a_sure_length_shrinks() -> None:
    heavy, sure = Prediction(50.0, 1000.0, 0.0), Prediction(50.0, 55.0, 0.0)
    assert remaining(heavy, 500)[0] > remaining(heavy, 0)[0]
    assert remaining(sure, 40)[0] < 12.0 < remaining(sure, 0)[0]
    assert remaining(sure, 5000)[0] > 1.0, "one that was not foreseen is not about to end"


def test_what_is_left_is_the_law_given_survival() -> None:
    rng = np.random.default_rng(0)
    shape, median = 2.0, 100.0
    uniform = rng.random(200_000)
    lengths = median * (uniform / (1.0 - uniform)) ** (1.0 / shape)
    prediction = Prediction(median, median * 9.0 ** (1.0 / shape), 0.0)
    for generated in (30, 100, 400):
        left = lengths[lengths > generated] - generated
        expected = np.quantile(left, [0.5, 0.9])
        assert remaining(prediction, generated) == pytest.approx(expected, rel=0.05)
