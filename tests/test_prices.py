"""Price tables interpolate, extrapolate, and follow what steps really take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.graphs.buckets import bucket_key, round_up_tokens
from prelude.types.prices import PriceEstimator, PriceTable, flat_prices

TABLE = PriceTable(((1, 10.0), (16, 25.0), (64, 73.0)), 0.01, 0.001, 0.1)


@pytest.mark.parametrize(
    ("tokens", "ms"), [(1, 10.0), (8, 17.0), (16, 25.0), (40, 49.0), (64, 73.0), (128, 146.0)]
)
def test_time_at_zero_context_follows_the_measured_points(tokens: int, ms: float) -> None:
    assert TABLE.step_ms(tokens, 0, 0, 0) == pytest.approx(ms)


def test_context_pairs_and_rows_add_up() -> None:
    assert TABLE.step_ms(16, 3, 100, 1000) == pytest.approx(25.0 + 1.0 + 1.0 + 0.3)


@pytest.mark.parametrize("points", [(), ((0, 1.0),), ((4, 1.0), (2, 1.0)), ((4, 1.0), (4, 2.0))])
def test_points_must_increase(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        PriceTable(points)


def test_a_correction_touches_only_the_points_it_concerns() -> None:
    after = TABLE.corrected(16, 2.0, 0.5)
    assert [ms for _, ms in after.points] == pytest.approx([10.0, 25.0 * 2**0.5, 73.0])
    between = TABLE.corrected(20, 2.0, 1.0)
    assert [ms for _, ms in between.points] == pytest.approx([10.0, 50.0, 146.0])
    beyond = TABLE.corrected(500, 2.0, 1.0)
    assert [ms for _, ms in beyond.points] == pytest.approx([10.0, 25.0, 146.0])


def test_one_disturbed_step_moves_a_price_only_so_far() -> None:
    after = TABLE.corrected(1, 1000.0, 0.2).step_ms(1, 0, 0, 0)
    assert after == pytest.approx(10.0 * 4**0.2)


@given(st.floats(0.05, 50.0), st.sampled_from([1, 5, 16, 40, 64, 200]))
def test_prices_converge_to_the_truth(factor: float, tokens: int) -> None:
    truth = TABLE.step_ms(tokens, 1, 0, 0) * factor
    estimator = PriceEstimator(PriceTable(TABLE.points))
    for _ in range(200):
        estimator.observe(tokens, estimator.table.step_ms(tokens, 1, 0, 0), truth)
    assert estimator.table.step_ms(tokens, 1, 0, 0) == pytest.approx(truth, rel=0.01)


def test_flat_prices() -> None:
    assert flat_prices(2.0, 0.5).step_ms(10, 1, 0, 0) == pytest.approx(7.0)


@given(st.integers(1, 100_000))
def test_buckets_hold_what_they_are_for_and_waste_at_most_a_quarter(n: int) -> None:
    bucket = round_up_tokens(n)
    assert n <= bucket
    assert n <= 16 or bucket <= 1.25 * n
    assert round_up_tokens(bucket) == bucket


def test_a_key_reads_well() -> None:
    assert str(bucket_key("prefill", 100, 3)) == "prefill[112x4,k=0,greedy]"
