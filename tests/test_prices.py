"""Price tables interpolate, extrapolate, and follow what steps really take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelude.graphs.buckets import bucket_key, round_up_tokens
from prelude.types.plan import Row
from prelude.types.prices import PriceEstimator, PriceTable, Sums, flat_prices, sums_of

TABLE = PriceTable(((1, 10.0), (16, 25.0), (64, 73.0)), 0.01, 0.001)


@pytest.mark.parametrize(
    ("tokens", "ms"), [(1, 10.0), (8, 17.0), (16, 25.0), (40, 49.0), (64, 73.0), (128, 146.0)]
)
def test_time_at_zero_context_follows_the_measured_points(tokens: int, ms: float) -> None:
    assert TABLE.step_ms(Sums(tokens, 1)) == pytest.approx(ms)


def test_context_and_pairs_add_up() -> None:
    assert TABLE.step_ms(Sums(16, 3, 100, 1000)) == pytest.approx(25.0 + 1.0 + 1.0)


def test_sums_count_context_of_single_tokens_and_pairs_of_chunks() -> None:
    one = Sums().plus(9, 1)
    assert one == Sums(1, 1, ctx=10)
    both = one.plus(10, 4)
    assert both == Sums(5, 2, ctx=10, pairs=11 + 12 + 13 + 14)
    assert both.minus(9, 1) == Sums(4, 1, pairs=50)
    rows = [Row(0, 0, 9, 1), Row(1, 1, 10, 4)]
    assert sums_of(rows) == both


@pytest.mark.parametrize("points", [(), ((0, 1.0),), ((4, 1.0), (2, 1.0)), ((4, 1.0), (4, 2.0))])
def test_points_must_increase(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="increasing"):
        PriceTable(points)


def test_a_correction_touches_only_the_points_it_concerns() -> None:
    after = TABLE.corrected(Sums(16, 1), 2.0, 0.5)
    assert [ms for _, ms in after.points] == pytest.approx([10.0, 25.0 * 2**0.5, 73.0])
    between = TABLE.corrected(Sums(20, 1), 2.0, 1.0)
    assert [ms for _, ms in between.points] == pytest.approx([10.0, 50.0, 146.0])
    beyond = TABLE.corrected(Sums(500, 1), 2.0, 1.0)
    assert [ms for _, ms in beyond.points] == pytest.approx([10.0, 25.0, 146.0])


def test_a_correction_goes_where_the_time_went() -> None:
    mostly_pairs = Sums(16, 1, pairs=75_000)  # 25 ms and 75 ms
    after = TABLE.corrected(mostly_pairs, 2.0, 1.0)
    assert after.ms_per_pair == pytest.approx(TABLE.ms_per_pair * 2**0.75)
    assert after.points[1][1] == pytest.approx(25.0 * 2**0.25)
    assert after.ms_per_ctx_token == TABLE.ms_per_ctx_token


def test_one_disturbed_step_moves_a_price_only_so_far() -> None:
    after = TABLE.corrected(Sums(1, 1), 1000.0, 0.2).step_ms(Sums(1, 1))
    assert after == pytest.approx(10.0 * 4**0.2)


@given(st.floats(0.05, 50.0), st.sampled_from([1, 5, 16, 40, 64, 200]), st.integers(0, 50_000))
def test_prices_converge_to_the_truth(factor: float, tokens: int, pairs: int) -> None:
    sums = Sums(tokens, 1, pairs=pairs)
    truth = TABLE.step_ms(sums) * factor
    estimator = PriceEstimator(TABLE)
    for _ in range(300):
        estimator.observe(sums, estimator.table.step_ms(sums), truth)
    assert estimator.table.step_ms(sums) == pytest.approx(truth, rel=0.02)


def test_flat_prices() -> None:
    assert flat_prices(2.0, 0.5).step_ms(Sums(10, 1)) == pytest.approx(7.0)


@given(st.integers(1, 100_000))
def test_buckets_hold_what_they_are_for_and_waste_at_most_a_quarter(n: int) -> None:
    bucket = round_up_tokens(n)
    assert n <= bucket
    assert n <= 16 or bucket <= 1.25 * n
    assert round_up_tokens(bucket) == bucket


def test_a_key_reads_well() -> None:
    assert str(bucket_key("prefill", 100, 3)) == "prefill[112x4,k=0,greedy]"
